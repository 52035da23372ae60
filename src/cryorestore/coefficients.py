"""The Fourier coefficients of an image up to a shell, sorted by radius, so that a band limit is a prefix."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorestore.fourier import to_fourier, to_real


class CoefficientSet:
    """Half plane of an orthonormal `rfft2`, without the constant term, radius < `max_shell` + 1/2.

    The row and the column at the Nyquist frequency, whose sign is not defined, are left out.

    Attributes
    ----------
    kx, ky, radius
        Frequencies in cycles per box, shape (m,), radius ascending.
    weight
        2 where the conjugate coefficient is left out, 1 on kx = 0, shape (m,).
    """

    def __init__(self, box_size: int, max_shell: int) -> None:
        self.box_size, self.max_shell = box_size, min(max_shell, box_size // 2)
        ky, kx = torch.meshgrid(torch.fft.fftfreq(box_size, 1 / box_size), torch.arange(box_size // 2 + 1.0), indexing="ij")
        radius = (kx**2 + ky**2).sqrt().flatten()
        nyquist = torch.maximum(kx, ky.abs()).flatten() >= box_size / 2
        inside = ((radius > 0) & (radius < self.max_shell + 0.5) & ~nyquist).nonzero()[:, 0]
        self.index = inside[torch.argsort(radius[inside], stable=True)]
        self.kx, self.ky, self.radius = kx.flatten()[self.index], ky.flatten()[self.index], radius[self.index]
        self.weight = torch.where(self.kx > 0, 2.0, 1.0)
        self.shell = self.radius.add(0.5).floor().long()

    def __len__(self) -> int:
        return len(self.index)

    def count(self, shell: int) -> int:
        """How many coefficients lie at radius < shell + 1/2."""
        return int((self.radius < shell + 0.5).sum())

    def select(self, half_plane: Float[Tensor, "*batch box half"]) -> Float[Tensor, "*batch m"]:
        """Take this set's values from a function on the half plane."""
        return half_plane.flatten(-2)[..., self.index]

    def from_images(self, images: Float[Tensor, "*batch box box"]) -> Complex[Tensor, "*batch m"]:
        """Transform real images (orthonormal, phase origin at the box centre)."""
        return to_fourier(images).flatten(-2)[..., self.index]

    def to_images(self, coefficients: Complex[Tensor, "*batch m"]) -> Float[Tensor, "*batch box box"]:
        """Inverse of `from_images`; what is not in the set is zero."""
        half_plane = torch.zeros(*coefficients.shape[:-1], self.box_size * (self.box_size // 2 + 1), dtype=torch.complex64)
        half_plane[..., self.index] = coefficients
        return to_real(half_plane.unflatten(-1, (self.box_size, self.box_size // 2 + 1)))

    def shift_phases(self, shifts_px: Float[Tensor, "*batch 2"]) -> Complex[Tensor, "*batch m"]:
        """Factors that move an image by `shifts_px` (x, y)."""
        angle = (-2 * torch.pi / self.box_size) * (shifts_px[..., :1] * self.kx + shifts_px[..., 1:] * self.ky)
        return torch.polar(torch.ones_like(angle), angle)
