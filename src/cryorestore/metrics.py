"""The figures of merit of a restored particle against its clean image, and the interval of a mean.

Every function here takes images on one grey scale. Differences in the mean of a box are removed before NMSE, PSNR, SSIM and the
Fourier ring correlation, because the background normalization fixes that mean and no restoration may claim it.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.stats
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from cryorestore.errors import CryorestoreError
from cryorestore.fourier import hermitian_weights, radial_shells_2d, to_fourier
from cryorestore.fsc import FscCurve

METHODS = ("raw", "wiener", "restored")
SCORES = ("psnr", "nmse", "ssim")


@dataclass(frozen=True)
class ImageScores:
    """One value an image."""

    nmse: Float[Tensor, "n"]
    """mean squared error over the variance of the clean image"""
    psnr: Float[Tensor, "n"]
    """dB; range = maximum - minimum of the clean image"""
    ssim: Float[Tensor, "n"]
    """structural similarity with the same range"""


def score_images(images: Float[Tensor, "n box box"], clean: Float[Tensor, "n box box"]) -> ImageScores:
    """Score each image against its clean image (METHOD, Metrics); both lose their mean first.

    Parameters
    ----------
    images, clean
        Real space, any grey scale that both share. SSIM has a Gaussian window of sigma 1.5 px (Wang et al. 2004).

    Raises
    ------
    CryorestoreError
        If the shapes differ or a clean image is constant.
    """
    if images.shape != clean.shape:
        raise CryorestoreError(f"images of shape {tuple(images.shape)} cannot be scored against clean images of shape {tuple(clean.shape)}")
    images, clean = _without_mean(images), _without_mean(clean)
    span = clean.amax((-2, -1)) - clean.amin((-2, -1))
    if (span <= 0).any():
        position = int((span <= 0).nonzero()[0, 0])
        raise CryorestoreError(f"clean image {position} of the batch is constant, expected a particle; leave empty boxes out of the scores")
    error = (images - clean).square().mean((-2, -1)).clamp_min(1e-20)
    scaled, scaled_clean = (images / span[:, None, None])[:, None], (clean / span[:, None, None])[:, None]
    ssim = structural_similarity_index_measure(scaled, scaled_clean, data_range=1.0, reduction="none")
    if not isinstance(ssim, Tensor):
        raise TypeError("torchmetrics returned more than the similarity")
    return ImageScores(nmse=error / clean.square().mean((-2, -1)), psnr=10 * torch.log10(span.square() / error), ssim=ssim.reshape(len(images)))


def fourier_ring_correlation(images: Float[Tensor, "n box box"], clean: Float[Tensor, "n box box"]) -> Float[Tensor, "n shells"]:
    """Correlate each image with its clean image ring by ring, shells 0 .. box // 2 of RELION's width.

    Ring 0 holds the mean alone, which carries no structure; it is 1 by convention, so that a curve starts above every threshold.
    A ring without power in either image has correlation 0.
    """
    box_size = images.shape[-1]
    shells, weights = radial_shells_2d(box_size).flatten(), hermitian_weights(box_size).expand(box_size, -1).flatten()
    first, second = to_fourier(images).flatten(-2), to_fourier(clean).flatten(-2)

    def ring_sums(values: Tensor) -> Tensor:
        return torch.zeros(len(images), box_size // 2 + 2).index_add_(-1, shells, (values * weights).float())[:, :-1]

    cross, power_1, power_2 = (ring_sums(term) for term in ((first * second.conj()).real, first.abs().square(), second.abs().square()))
    correlation = cross / (power_1 * power_2).sqrt().clamp_min(1e-30)
    correlation[:, 0] = 1.0
    return correlation


def first_crossing(correlation: Float[Tensor, "shells"], *, box_size: int, pixel_size: float, threshold: float) -> float | None:
    """Resolution (angstrom) where a curve over shells 0 .. box // 2 first falls below `threshold`, interpolated; None if it never does."""
    frequency = torch.arange(len(correlation)) / (box_size * pixel_size)
    return FscCurve(spatial_frequency=frequency, correlation=correlation).resolution(threshold)


class GreyScaleRegression:
    """Slope and offset of the regression of CLEAN on RESTORED over all pixels, fed batch by batch: 1 and 0 for a calibrated mean."""

    def __init__(self) -> None:
        self._sums = torch.zeros(5, dtype=torch.float64)

    def add(self, restored: Float[Tensor, "n box box"], clean: Float[Tensor, "n box box"]) -> None:
        """Count the pixels of a batch; the background of both must lie at 0 for the offset to mean anything."""
        x, y = restored.double(), clean.double()
        self._sums += torch.stack([torch.tensor(float(x.numel()), dtype=torch.float64), x.sum(), y.sum(), (x * x).sum(), (x * y).sum()])

    def slope_and_offset(self) -> tuple[float, float] | None:
        """None if the restored pixels have no variance, for then no line is defined."""
        count, sum_x, sum_y, sum_xx, sum_xy = self._sums.tolist()
        variance = sum_xx - sum_x**2 / count if count else 0.0
        if variance <= 1e-12 * max(sum_xx, 1e-30):
            return None
        slope = (sum_xy - sum_x * sum_y / count) / variance
        return slope, (sum_y - slope * sum_x) / count


def mean_interval(values: NDArray[np.floating[Any]], *, seed: int, resamples: int = 2000) -> dict[str, Any]:
    """Mean of `values` (n,) and its 95 % percentile bootstrap interval, as {"mean", "ci95": [low, high]}.

    One value has no interval: `ci95` is None then; of no value at all the mean is None too.
    For a paired comparison, give the differences.
    """
    if len(values) == 0:
        return {"mean": None, "ci95": None}
    if len(values) == 1:
        return {"mean": float(values[0]), "ci95": None}
    interval = scipy.stats.bootstrap(
        (np.asarray(values, float),), np.mean, n_resamples=resamples, batch=50, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return {"mean": float(np.mean(values, dtype=float)), "ci95": [float(interval.low), float(interval.high)]}


@dataclass
class Scores:
    """Collects scores batch by batch; what it keeps is one number a particle and score."""

    values: dict[str, dict[str, list[Tensor]]] = field(default_factory=lambda: {score: {name: [] for name in METHODS} for score in SCORES})
    rings: dict[str, Tensor | None] = field(default_factory=lambda: dict.fromkeys(METHODS))
    lines: dict[str, GreyScaleRegression] = field(default_factory=lambda: {method: GreyScaleRegression() for method in METHODS})
    count: int = 0

    def add(self, versions: dict[str, Float[Tensor, "n box box"]], clean: Float[Tensor, "n box box"]) -> None:
        """Score a batch."""
        self.count += len(clean)
        for method, images in versions.items():
            scores = score_images(images, clean)
            for name, values in zip(SCORES, (scores.psnr, scores.nmse, scores.ssim), strict=True):
                self.values[name][method].append(values)
            rings = fourier_ring_correlation(images, clean).double().sum(0)
            before = self.rings[method]
            self.rings[method] = rings if before is None else before + rings
            self.lines[method].add(images, clean)

    def summarize(self, *, box_size: int, pixel_size: float, seed: int) -> dict[str, Any]:
        """Means with intervals, mean ring correlations and where they cross 0.5; null where nothing was scored."""
        result: dict[str, Any] = {"scored_particles": self.count, "box_size": box_size, "pixel_size": pixel_size}
        if self.count == 0:
            paired = ("paired_psnr_restored_minus_wiener", "paired_psnr_restored_minus_raw")
            return result | dict.fromkeys((*SCORES, *paired, "frc", "frc05", "slope", "offset"))
        values = {score: {method: torch.cat(parts).double().numpy() for method, parts in methods.items()} for score, methods in self.values.items()}
        for score, methods in values.items():
            result[score] = {method: mean_interval(array, seed=seed) for method, array in methods.items()}
        psnr = values["psnr"]
        for other in ("wiener", "raw"):
            result[f"paired_psnr_restored_minus_{other}"] = mean_interval(psnr["restored"] - psnr[other], seed=seed)
        curves = {method: (rings / self.count).float() for method, rings in self.rings.items() if rings is not None}
        frequency = torch.arange(box_size // 2 + 1, dtype=torch.float64) / (box_size * pixel_size)
        result["frc"] = {"spatial_frequency": frequency.tolist()} | {method: curve.tolist() for method, curve in curves.items()}
        result["frc05"] = {method: first_crossing(curve, box_size=box_size, pixel_size=pixel_size, threshold=0.5) for method, curve in curves.items()}
        lines = {method: line.slope_and_offset() or (None, None) for method, line in self.lines.items()}
        result["slope"] = {method: line[0] for method, line in lines.items()}
        result["offset"] = {method: line[1] for method, line in lines.items()}
        return result


def _without_mean(images: Tensor) -> Tensor:
    return images - images.mean((-2, -1), keepdim=True)
