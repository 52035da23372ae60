"""The general network's own sampling: particles of any box and pixel size brought to it, and what comes out brought back."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import Images
from cryorestore.rescale import fourier_crop, fourier_pad

WINDOW = 64
"""Px along each side of what the network sees"""
WIDE, LEAST, SMALL = 37.0, 29.0, 24.0
"""Px across the particle: wanted; enough, where the whole box then fits the window; so few that data are sampled more finely than they came"""
SMALLEST_BOX, LARGEST_BOX = 16, 1024
"""Px of the boxes that are taken"""
_EDGE = np.clip((np.minimum(np.arange(WINDOW), np.arange(WINDOW)[::-1]) + 0.5) / 4, 0, 1).astype(np.float32)
"""Falls off over 4 px at both ends"""


@dataclass(frozen=True)
class WorkingSampling:
    """Boxes of `box_size` px, the same field of view in `field_size` px, and the window of 64 px in its middle that the network sees.

    Boxes and sizes are even, so that the pixel at the middle of one is that of the others.
    """

    box_size: int
    pixel_size: float
    """angstrom, of the boxes"""
    field_size: int
    """px at the working sampling, at least 64"""
    diameter: float
    """angstrom, of the particle that it was chosen for"""

    @classmethod
    def choose(cls, *, box_size: int, pixel_size: float, diameter: float) -> "WorkingSampling":
        """Choose the sampling for a particle.

        It is to be 37 px wide, and the window then shows the middle of the box. Where the whole box fits the window with a particle of at least
        29 px, or is too small for more, it is sampled as 64 px. The sampling is never finer than the data, unless the particle is less than 24 px
        wide in them or their box less than 64 px: such data are sampled more finely, and hold nothing beyond their own band.

        Parameters
        ----------
        box_size
            Px, even.
        pixel_size, diameter
            Angstrom.

        Raises
        ------
        CryorestoreError
            If the box is odd, too small or too large, or the particle does not fit it.
        """
        if box_size % 2 or not SMALLEST_BOX <= box_size <= LARGEST_BOX:
            raise CryorestoreError(
                f"found a box of {box_size} px, expected an even number from {SMALLEST_BOX} to {LARGEST_BOX}; extract the particles with such a box"
            )
        share = diameter / (box_size * pixel_size)
        if not 0 < share <= 1:
            raise CryorestoreError(
                f"diameter: found {diameter:g} angstrom, expected more than 0 and at most the box's {box_size * pixel_size:g}; "
                "give the particle's diameter, or leave it out: it is then measured"
            )
        field = WINDOW if share * WINDOW >= LEAST else 2 * round(WIDE / share / 2)
        if field > box_size and share * box_size >= SMALL:
            field = max(box_size, WINDOW)
        return cls(box_size, pixel_size, field, diameter)

    @property
    def working_pixel_size(self) -> float:
        """Angstrom."""
        return self.pixel_size * self.box_size / self.field_size

    @property
    def finest_resolution(self) -> float:
        """Angstrom: where the working band ends, or that of the data where it is narrower."""
        return 2 * max(self.pixel_size, self.working_pixel_size)

    @property
    def is_finer(self) -> bool:
        """Whether the working sampling is finer than the data."""
        return self.field_size > self.box_size

    def to_working(self, images: Images) -> Images:
        """The windows (n, 64, 64) of images (n, box, box); grey values stay."""
        resampled = fourier_pad(images, self.field_size) if self.is_finer else fourier_crop(images, self.field_size)
        return np.ascontiguousarray(resampled[..., self._window, self._window])

    def from_working(self, windows: Images) -> Images:
        """Windows (n, 64, 64) at the sampling of the data; grey values stay, and nothing is put beyond the working band.

        Outside of the window, and falling off over its last 4 px, is 0.
        """
        field = windows
        if self.field_size > WINDOW:
            field = np.zeros((*windows.shape[:-2], self.field_size, self.field_size), np.float32)
            field[..., self._window, self._window] = windows * np.minimum.outer(_EDGE, _EDGE)
        return fourier_crop(field, self.box_size) if self.is_finer else fourier_pad(field, self.box_size)

    def beyond(self, images: Images) -> Images:
        """What images (n, box, box) hold beyond the working band, in the window and outside."""
        if self.is_finer or self.field_size == self.box_size:
            return np.zeros_like(images)
        return images - fourier_pad(fourier_crop(images, self.field_size), self.box_size)

    def working_ctf(self, ctf: Float[Tensor, "n box half"]) -> Float[Tensor, "n window half_window"]:
        """The CTF of the windows, from that on the frequencies of the boxes.

        The frequencies of the whole field are those of the boxes; where the window is less than the field, the point-spread function is cut to it.
        Beyond the band of the data, where they show nothing, the CTF is 0.
        """
        half = min(self.box_size, self.field_size) // 2
        whole = ctf.new_zeros(len(ctf), self.field_size, self.field_size // 2 + 1)
        whole[:, :half, : half + 1] = ctf[:, :half, : half + 1]
        whole[:, -half:, : half + 1] = ctf[:, -half:, : half + 1]
        if self.field_size == WINDOW:
            return whole
        spread = torch.fft.fftshift(torch.fft.irfft2(whole, s=(self.field_size, self.field_size)), dim=(-2, -1))
        cut: Tensor = torch.fft.rfft2(torch.fft.ifftshift(spread[:, self._window, self._window], dim=(-2, -1))).real
        return cut

    def working_noise_power(self, noise_power: Float[Tensor, "shells"]) -> Float[Tensor, "shells_window"]:
        """Noise power per shell of the window from that of the boxes, at the same frequencies; beyond the data's band that of the last shell."""
        place = (torch.arange(WINDOW // 2 + 1) * (self.field_size / WINDOW)).clamp_max(len(noise_power) - 1.0)
        below = place.floor().long().clamp_max(len(noise_power) - 2)
        power: Tensor = noise_power[below] * (1 - (place - below)) + noise_power[below + 1] * (place - below)
        return power

    def band_of_nothing(self) -> Float[Tensor, "window half_window"]:
        """1 at frequencies of the window that the data do not have, else 0."""
        if not self.is_finer:
            return torch.zeros(WINDOW, WINDOW // 2 + 1)
        ky, kx = torch.fft.fftfreq(WINDOW).abs(), torch.fft.rfftfreq(WINDOW)
        return (torch.maximum(ky[:, None], kx[None]) * self.field_size >= self.box_size / 2).float()

    @property
    def _window(self) -> slice:
        start = (self.field_size - WINDOW) // 2
        return slice(start, start + WINDOW)
