"""The projections of a map in all directions of a grid, and images, as angular harmonics that can be compared."""

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorestore.fourier import radial_average, spread_shells, to_fourier, to_real
from cryorestore.masks import soft_disc
from cryorestore.posterior.grid import PoseGrid
from cryorestore.posterior.polar import PolarTransform
from cryorestore.project import FourierVolume

_SLICES_AT_ONCE = 256
_SPACING = 0.5
"""Of the radii at which the power of a slice is known: at whole shells alone it is not sampled finely enough"""


@dataclass(frozen=True)
class MatchedImages:
    """Images times CTF over noise power, shifted back by every shift of the grid."""

    harmonics: Complex[Tensor, "b s rings m"]
    ctf_power: Float[Tensor, "b rings"]
    """mean of CTF^2 over noise power in each shell"""
    norm_weight: Float[Tensor, "b radii"]
    """what the power of a slice at each radius adds to the square norm of CTF times slice over noise power"""


class PoseBank:
    """References of one map at all directions of a grid.

    Parameters
    ----------
    volume
        Map whose slices are compared with images; nothing of it lies beyond `radius_px`.
    grid
        The poses.
    noise_power, map_error_power
        Per shell, orthonormal transform: of the noise, and of the error of the map's slices (none by default).
    radius_px
        Of the sphere that the map lies in.
    device
        Where images are compared.
    """

    def __init__(
        self,
        volume: FourierVolume,
        grid: PoseGrid,
        *,
        noise_power: Float[Tensor, "shells"],
        radius_px: float,
        map_error_power: Float[Tensor, "shells"] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        box_size, self.rings = volume.box_size, volume.coefficients.max_shell
        self.volume, self.grid, self.box_size, self.device = volume, grid, box_size, torch.device(device)
        self.noise_power = spread_shells(noise_power, box_size)
        self.map_error_power = torch.zeros_like(self.noise_power) if map_error_power is None else spread_shells(map_error_power, box_size)
        # the whole disc of an image, for what CTF^2 has spread round the particle has a part in the map
        self.polar = PolarTransform(box_size, rings=self.rings, disc_px=box_size / 2, object_px=radius_px, device=device)
        self.multiplicity = torch.full((self.polar.harmonics + 1,), 2.0, device=device)
        """2 for a harmonic that stands for its negative, too"""
        self.multiplicity[0] = 1.0
        self.back_shifts = self.polar.shift_phases(-grid.shifts_px)
        self._make_references(radius_px)
        self._shares = _radial_shares(volume.coefficients.radius)

    def _make_references(self, radius_px: float) -> None:
        fine_rings = round((self.rings + 1) / _SPACING)
        fine = PolarTransform(self.box_size, rings=fine_rings, disc_px=radius_px, object_px=radius_px, spacing=_SPACING, device=self.device)
        outside = soft_disc(self.box_size, radius_px, 1.0) == 0
        references, power = [], []
        for start in range(0, len(self.grid.directions), _SLICES_AT_ONCE):
            images = self._reference_images(slice(start, start + _SLICES_AT_ONCE))
            images = images - images[:, outside].mean(1)[:, None, None]  # the constant term, which slices lack
            references.append(self.polar.to_harmonics(self.polar.from_images(images)))
            power.append(fine.from_images(images).abs().square().mean(2))
        self.references = torch.cat(references)
        """harmonics of each direction's slice, (k, rings, m)"""
        weighted = (self.references * self.polar.ring_weight[:, None]).permute(2, 1, 0)
        self.weighted_references = weighted.conj().resolve_conj().contiguous()
        """conjugate, times the rings' weights, (m, rings, k): the right side of the product with images"""
        self.power = torch.cat(power)
        """mean of |slice|^2 at each radius, 0, 1/2, .. rings + 1, (k, radii)"""

    def _reference_images(self, part: slice) -> Tensor:
        """References of some directions as images."""
        return self.volume.coefficients.to_images(self.volume.slices(self.grid.directions[part]))

    def match(
        self, images: Float[Tensor, "b box box"], ctf: Float[Tensor, "b box half"], centres_px: Float[Tensor, "b 2"] | None = None
    ) -> MatchedImages:
        """Bring normalized images into the form that references are compared with; shifts are searched round `centres_px` (0 by default)."""
        factor = ctf / (self.noise_power + ctf.square() * self.map_error_power)
        transforms = to_fourier(images) * factor
        transforms[:, 0, 0] = 0
        if centres_px is not None:
            transforms = transforms * half_plane_phases(-centres_px, self.box_size)
        shifted = self.polar.from_images(to_real(transforms))[:, None] * self.back_shifts
        coefficients, power = self.volume.coefficients, ctf * factor
        weighted = coefficients.select(power) * coefficients.weight
        norm_weight = torch.zeros(len(images), self.power.shape[1])
        for place, share in self._shares:
            norm_weight.index_add_(1, place, weighted * share)
        shell_power = radial_average(power)[:, : self.rings + 1]
        return MatchedImages(self.polar.to_harmonics(shifted), shell_power.to(self.device), norm_weight.to(self.device))


class ImageBank(PoseBank):
    """Images as references, in place of the slices of a map: a direction of the grid is the number of an image.

    Parameters
    ----------
    references
        What images are compared with; nothing of them lies beyond `radius_px`.
    turns, shifts_px
        In-plane rotations and shifts that are tried.
    max_shell
        Highest that is compared.
    noise_power, radius_px, device
        As of `PoseBank`.
    """

    def __init__(
        self,
        references: Float[Tensor, "k box box"],
        *,
        turns: int,
        shifts_px: Float[Tensor, "s 2"],
        max_shell: int,
        noise_power: Float[Tensor, "shells"],
        radius_px: float,
        device: str | torch.device = "cpu",
    ) -> None:
        self._images = references
        whole = torch.eye(3)[None]
        grid = PoseGrid(whole.expand(len(references), 3, 3), turns, shifts_px, whole, 360 / turns)
        nothing = FourierVolume(torch.zeros((references.shape[-1],) * 3), max_shell=max_shell)
        super().__init__(nothing, grid, noise_power=noise_power, radius_px=radius_px, device=device)

    def _reference_images(self, part: slice) -> Tensor:
        return self._images[part]


def _radial_shares(radius: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Cubic interpolation at `radius` between radii 0, 1/2, 1 ..: places and shares of the four neighbours."""
    position = radius / _SPACING
    first = position.floor().long() - 1
    local = position - first
    shares = []
    for node in range(4):
        others = [other for other in range(4) if other != node]
        share = torch.ones_like(local)
        for other in others:
            share = share * (local - other) / (node - other)
        shares.append((first + node, share))
    return shares


def half_plane_phases(shifts_px: Float[Tensor, "b 2"], box_size: int) -> Complex[Tensor, "b box half"]:
    """Factors on the half plane of rfft2 that move an image by `shifts_px` (x, y)."""
    ky, kx = torch.fft.fftfreq(box_size)[:, None], torch.fft.rfftfreq(box_size)
    angle = -2 * torch.pi * (shifts_px[:, :1, None] * kx + shifts_px[:, 1:, None] * ky)
    return torch.polar(torch.ones_like(angle), angle)
