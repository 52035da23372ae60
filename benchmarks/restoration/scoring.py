"""The figures of a cell."""

import torch
from simulation import PIXEL, Particles
from torch import Tensor

from cryorestore.fourier import to_fourier
from cryorestore.metrics import GreyScaleRegression, first_crossing, fourier_ring_correlation, mean_interval, score_images


def score(restored: Tensor, particles: Particles, *, seed: int) -> dict:
    """Scores against the clean images: means with 95 % bootstrap intervals over particles, the mean FRC curve, slope, structural residual."""
    clean = particles.clean
    scores = score_images(restored, clean)
    curve = fourier_ring_correlation(restored, clean).mean(0)
    line = GreyScaleRegression()
    line.add(restored, clean)
    slope, offset = line.slope_and_offset() or (None, None)
    result = {name: mean_interval(getattr(scores, name).numpy(), seed=seed) for name in ("nmse", "psnr", "ssim")}
    result |= {"frc": curve.tolist(), "slope": slope, "offset": offset, "particles": len(restored)}
    result["frc05"] = first_crossing(curve, box_size=clean.shape[-1], pixel_size=PIXEL, threshold=0.5)
    return result | {"structural_residual": structural_residual(restored - clean, particles.structural)}


def without_mean(images: Tensor) -> Tensor:
    """Each image less its mean, which no restoration may claim."""
    return images - images.mean((-2, -1), keepdim=True)


def structural_residual(error: Tensor, structural: Tensor) -> float | None:
    """How much of the structural noise is left: the regression of the error on the structural image, over the set; 1 for raw, None without any."""
    error, structural = without_mean(error.double()), without_mean(structural.double())
    power = float(structural.square().sum())
    return float((error * structural).sum()) / power if power > 0 else None


def calibration(restored: Tensor, deviation: Tensor, clean: Tensor) -> dict:
    """Whether the posterior's deviation of each pixel tells its error: coverage of mean +- 1.645 deviations (0.9 is right), and
    predicted over actual error.

    Only pixels within a third of the box of its centre count: outside there is next to nothing to be wrong about.
    """
    axis = torch.arange(clean.shape[-1]) - clean.shape[-1] // 2
    disc = (axis[:, None] ** 2 + axis**2) <= (clean.shape[-1] / 3) ** 2
    error = without_mean(clean - restored)[:, disc]
    inside = error.abs() <= 1.645 * deviation[:, disc]
    return {"coverage_90": float(inside.float().mean()), "predicted_over_actual": float(deviation[:, disc].square().mean() / error.square().mean())}


def shell_power(images: Tensor) -> Tensor:
    """Mean power of each shell 1 .. box // 2 - 1 (orthonormal transform) over images of one box."""
    return shell_means(to_fourier(images).abs().square())


def shell_means(half_plane: Tensor) -> Tensor:
    """Mean of values on the half plane (..., box, box // 2 + 1) over each shell 1 .. box // 2 - 1 and all images."""
    box = half_plane.shape[-2]
    radius = torch.hypot(torch.fft.fftfreq(box, 1 / box)[:, None], torch.arange(box // 2 + 1.0)).round().long()
    return torch.stack([half_plane[..., radius == shell].mean() for shell in range(1, box // 2)])
