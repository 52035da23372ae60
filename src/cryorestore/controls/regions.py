"""Changes of a map whose answer is known: a domain left out, a domain moved, the mirror image, another structure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryorestore.fourier import radial_shells_3d
from cryorestore.masks import soft_sphere
from cryorestore.resolution.correction import randomise_phases
from cryorestore.resolution.filters import low_pass

Volume = Float[Tensor, "box box box"]
_DOMAIN_SHARE = 0.35
"""Radius of the domain, as a share of the particle's."""
_LEAST_DISTANCE = 0.4
"""The domain's centre lies at least so far from the particle's, as a share of its radius."""
_BLUR = 0.5
"""Resolution at which the densest place is looked for, as a share of the particle's radius."""
_EDGE_PX = 2.0
_TURN = 25.0
"""degrees"""


@dataclass(frozen=True)
class Domain:
    """A round part of a particle, off its centre."""

    centre: tuple[int, int, int]
    """z, y, x"""
    radius_px: float

    def mask(self, box_size: int) -> Volume:
        """One inside, zero outside, with a soft edge."""
        shift = tuple(place - box_size // 2 for place in self.centre)
        mask: Tensor = torch.roll(soft_sphere(box_size, self.radius_px, _EDGE_PX), shift, (0, 1, 2))
        return mask


def find_domain(volume: Volume, *, pixel_size: float, mask_radius: float) -> Domain:
    """The densest place off the centre of a map of one half: where a domain is, whatever it is.

    Parameters
    ----------
    volume
        White particle.
    pixel_size, mask_radius
        Angstrom; the radius is the particle's.
    """
    box_size, radius = volume.shape[-1], mask_radius / pixel_size
    blurred = low_pass(volume, resolution=max(_BLUR * mask_radius, 4 * pixel_size), pixel_size=pixel_size)
    far = soft_sphere(box_size, _LEAST_DISTANCE * radius, 0.0) == 0
    near = soft_sphere(box_size, (1 - _DOMAIN_SHARE) * radius, 0.0) > 0
    allowed = torch.where(far & near, blurred, torch.full_like(blurred, -torch.inf))
    z, y, x = np.unravel_index(int(allowed.argmax()), allowed.shape)
    return Domain((int(z), int(y), int(x)), _DOMAIN_SHARE * radius)


def without_domain(volume: Volume, domain: Domain) -> Volume:
    """The map with the domain set to 0."""
    return volume * (1 - domain.mask(volume.shape[-1]))


def with_turned_domain(volume: Volume, domain: Domain) -> Volume:
    """The map with the domain turned by 25 degrees about the map's centre, its axis perpendicular to the domain's direction and to z."""
    middle = np.full(3, volume.shape[-1] // 2, float)
    direction = np.array(domain.centre, float) - middle
    axis = np.cross(direction, (1.0, 0.0, 0.0))
    axis = axis / np.linalg.norm(axis) if np.linalg.norm(axis) > 1e-6 else np.array([0.0, 0.0, 1.0])
    matrix = Rotation.from_rotvec(np.radians(_TURN) * axis).as_matrix()
    part = (volume * domain.mask(volume.shape[-1])).numpy()
    turned = affine_transform(part, matrix.T, offset=middle - matrix.T @ middle, order=1)
    return without_domain(volume, domain) + torch.from_numpy(turned.astype(np.float32))


def mirrored(volume: Volume, domain: Domain) -> Volume:
    """The other hand: the map with z turned round about its centre."""
    return torch.roll(volume.flip(0), 1, 0)


CHANGES: Mapping[str, Callable[[Volume, Domain], Volume]] = {
    "wrong_structure": mirrored,
    "wrong_conformer": with_turned_domain,
    "omitted_domain": without_domain,
}
"""What each control teaches instead of the half's own map."""


def other_structure(volume: Volume, *, radius_px: float, seed: int) -> Volume:
    """A structure that never was: the amplitudes of the map with random phases, cut to the particle's sphere, with the map's power in every shell."""
    sphere = soft_sphere(volume.shape[-1], radius_px, _EDGE_PX)
    other = torch.fft.rfftn(randomise_phases(volume, from_shell=1, seed=seed) * sphere)
    shells = radial_shells_3d(volume.shape[-1])
    power, wanted = (_shell_sums(values.abs().square(), shells) for values in (other, torch.fft.rfftn(volume)))
    gain = (wanted / power.clamp_min(1e-20)).sqrt()
    made: Tensor = torch.fft.irfftn(other * gain[shells], s=volume.shape)
    return made


def _shell_sums(values: Tensor, shells: Tensor) -> Tensor:
    return torch.zeros(int(shells.max()) + 1).index_add_(0, shells.flatten(), values.flatten())
