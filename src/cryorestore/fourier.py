"""Fourier transforms of images and volumes with the phase origin at the box centre, shells, and cropping."""

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryorestore.rescale import fourier_crop


def to_fourier(images: Float[Tensor, "*batch box box"]) -> Complex[Tensor, "*batch box half"]:
    """Orthonormal rfft2 of real images, phase origin at the pixel box // 2 (ky unshifted, kx >= 0)."""
    coefficients: Tensor = torch.fft.rfft2(torch.fft.ifftshift(images, dim=(-2, -1)), norm="ortho")
    return coefficients


def to_real(coefficients: Complex[Tensor, "*batch box half"]) -> Float[Tensor, "*batch box box"]:
    """Inverse of `to_fourier`."""
    box_size = coefficients.shape[-2]
    images: Tensor = torch.fft.fftshift(torch.fft.irfft2(coefficients, s=(box_size, box_size), norm="ortho"), dim=(-2, -1))
    return images


def radial_shells_2d(box_size: int) -> Int[Tensor, "box half"]:
    """RELION's shell (k - 1/2 <= radius < k + 1/2) of every rfft2 coefficient; the corners beyond Nyquist share the shell box // 2 + 1."""
    ky, kx = torch.fft.fftfreq(box_size, 1 / box_size), torch.fft.rfftfreq(box_size, 1 / box_size)
    return _nearest_shell(ky[:, None] ** 2 + kx**2, box_size)


def radial_shells_3d(box_size: int) -> Int[Tensor, "box box half"]:
    """As `radial_shells_2d`, for the coefficients of an rfftn."""
    full, half = torch.fft.fftfreq(box_size, 1 / box_size), torch.fft.rfftfreq(box_size, 1 / box_size)
    return _nearest_shell(full[:, None, None] ** 2 + full[None, :, None] ** 2 + half**2, box_size)


def _nearest_shell(squared_radius: Tensor, box_size: int) -> Tensor:
    return squared_radius.sqrt().add(0.5).floor().long().clamp_max(box_size // 2 + 1)


def filtered_map(volume: Float[Tensor, "box box box"], weights: Float[Tensor, "shells"]) -> Float[Tensor, "box box box"]:
    """Multiply each shell of a map with its weight; shells without one are left out."""
    shells = radial_shells_3d(volume.shape[-1])
    factors = torch.zeros(int(shells.max()) + 1)
    factors[: len(weights)] = weights[: len(factors)]
    filtered: Tensor = torch.fft.irfftn(torch.fft.rfftn(volume) * factors[shells], s=volume.shape)
    return filtered


def hermitian_weights(box_size: int) -> Float[Tensor, "half"]:
    """How often each column of an rfft2 stands in the full transform: 1 for kx = 0 and kx = Nyquist, else 2."""
    weights = torch.full((box_size // 2 + 1,), 2.0)
    weights[0] = 1.0
    if box_size % 2 == 0:
        weights[-1] = 1.0
    return weights


def radial_average(values: Float[Tensor, "*batch box half"]) -> Float[Tensor, "*batch shells"]:
    """Mean over each shell 0 .. box // 2 of a function on the half plane, conjugate coefficients counted."""
    box_size = values.shape[-2]
    shells, weights = radial_shells_2d(box_size).flatten(), hermitian_weights(box_size).expand(box_size, -1).flatten()
    sums = torch.zeros(*values.shape[:-2], box_size // 2 + 2, dtype=values.dtype)
    sums.index_add_(-1, shells, (values.flatten(-2) * weights).to(values.dtype))
    counts = torch.zeros(box_size // 2 + 2).index_add_(0, shells, weights)
    return (sums / counts.clamp_min(1.0))[..., :-1]


def spread_shells(values: Float[Tensor, "shells"], box_size: int) -> Float[Tensor, "box half"]:
    """Put one value a shell on the half plane; the corners take the last shell's."""
    return values[radial_shells_2d(box_size).clamp_max(len(values) - 1)]


def fourier_crop_2d(images: Float[Tensor, "*batch box box"], box_size: int) -> Float[Tensor, "*batch small small"]:
    """Rescale to a smaller even box by keeping the low frequencies; grey values stay (as in RELION's rescaling)."""
    return torch.from_numpy(fourier_crop(images.numpy(), box_size))
