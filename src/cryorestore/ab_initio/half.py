"""The particles of one half, small enough for a band limit, with their spectra: nothing of the other half enters."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.baselines.wiener import estimate_signal_power
from cryorestore.ctf import CtfParameters, ctf_2d
from cryorestore.errors import CryorestoreError
from cryorestore.noise import estimate_noise_power
from cryorestore.particles import ParticleTable
from cryorestore.posterior.polar import smooth_even
from cryorestore.reference import images_with_ctf
from cryorestore.rescale import fourier_crop

_BATCH = 256
_OVERSAMPLING = 2.5
"""Pixels of a box for each shell that is compared in it"""


@dataclass(frozen=True)
class HalfParticles:
    """Normalized images, scaled so that their orthonormal transform does not change with the box, and spectra per shell."""

    images: Float[Tensor, "n box box"]
    parameters: CtfParameters
    pixel_size: float
    noise_power: Float[Tensor, "shells"]
    signal_power: Float[Tensor, "shells"]
    """before the CTF"""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def box_size(self) -> int:
        """Px."""
        return self.images.shape[-1]

    def ctf(self, rows: NDArray[np.int64]) -> Float[Tensor, "b box half"]:
        """CTF of some particles on the half plane of rfft2."""
        return ctf_2d(self.parameters.take(rows), box_size=self.box_size, pixel_size=self.pixel_size)

    def for_shell(self, max_shell: int) -> "HalfParticles":
        """The same in the smallest box in which shells up to `max_shell` can be compared."""
        return self.at_box(box_for_shell(max_shell, box_size=self.box_size))

    def at_box(self, box_size: int) -> "HalfParticles":
        """The same in a smaller box of the same width in angstrom."""
        if box_size == self.box_size:
            return self
        scale = self.box_size / box_size
        images = torch.from_numpy(fourier_crop(self.images.numpy(), box_size) * np.float32(scale))
        shells = box_size // 2 + 1
        return replace(
            self,
            images=images,
            pixel_size=self.pixel_size * scale,
            noise_power=self.noise_power[:shells],
            signal_power=self.signal_power[:shells],
        )


def box_for_shell(max_shell: int, *, box_size: int) -> int:
    """The box (px) in which shells up to `max_shell` of a box of `box_size` are compared."""
    return min(box_size, smooth_even(round(_OVERSAMPLING * max_shell + 4)))


def load_half(table: ParticleTable, *, bg_radius: float, largest_box: int) -> HalfParticles:
    """Read all images of a half, made smaller to `largest_box` px at most, and measure its spectra.

    Parameters
    ----------
    table
        Normalized particles; their poses are not looked at.
    bg_radius
        Background circle of the normalization, px.
    largest_box
        Px.

    Raises
    ------
    CryorestoreError
        If the images are multiplied with their CTF, or there are none.
    """
    if table.ctf_premultiplied:
        raise CryorestoreError(f"{table.path}: the images are multiplied with their CTF, whose noise is not white; extract them without")
    count, box_size = len(table), table.box_size
    noise = estimate_noise_power((torch.from_numpy(images) for images in table.iter_images(_BATCH)), bg_radius=bg_radius)
    signal = estimate_signal_power(images_with_ctf(table), noise_power=noise)
    small = min(largest_box, box_size)
    images = np.empty((count, small, small), np.float32)
    for start in range(0, count, _BATCH):
        part = table.load_images(slice(start, start + _BATCH))
        images[start : start + _BATCH] = fourier_crop(part, small) * np.float32(box_size / small)
    shells = small // 2 + 1
    return HalfParticles(torch.from_numpy(images), table.ctf_parameters(), table.pixel_size * box_size / small, noise[:shells], signal[:shells])
