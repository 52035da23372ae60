"""The general network as a method: particles of any sampling in, restored particles of the same sampling and grey scale out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.background import SMALLEST_SIGMA, Background, Normalized
from cryorestore.errors import CryorestoreError
from cryorestore.general.restorer import GeneralRestorer
from cryorestore.general.sampling import WINDOW, WorkingSampling
from cryorestore.io.mrc import Images
from cryorestore.reference import Reference
from cryorestore.whitening import colour_images, whiten_images

GENERAL = "general"
"""Name of the method, as a condition of it"""
SHIPPED = "general"
"""Name of the weights in the package"""
WHITEN = ("none", "background")
Beyond = Literal["nothing", "raw"]
"""What restored images hold beyond the working band"""
CtfOfResult = Literal["applied", "corrected"]
_BACKGROUND, _LARGEST_BACKGROUND = 24.0, 29.0
"""Radius (px of the window) of the background circle: RELION's three quarters of half a box, and where the particle fills its box"""
_FILLING_SEED = 64


@dataclass(frozen=True)
class GeneralResult:
    """A batch in the sampling and grey scale of its input."""

    images: Float[Tensor, "b box box"]
    deviation: Float[Tensor, "b box box"]
    log_evidence: Float[Tensor, "b"]
    constant: NDArray[np.bool_]
    """(b,), images without any variation: no particle is in them"""


class GeneralMethod:
    """Restore particles with the general network.

    Parameters
    ----------
    restorer
        The network with its weights.
    sampling
        Of the particles, and of the network.
    beyond
        "nothing", or "raw": what the particles hold beyond the working band is added as it came.
    ctf
        "applied", or "corrected": the particle as it would be without the CTF.
    sign
        -1 for dark particles: the network knows white ones. The result has the contrast of the input.
    """

    def __init__(self, restorer: GeneralRestorer, sampling: WorkingSampling, *, beyond: str = "nothing", ctf: str = "applied", sign: int = 1) -> None:
        for name, value, allowed in (("beyond", beyond, get_args(Beyond)), ("ctf", ctf, get_args(CtfOfResult))):
            if value not in allowed:
                raise CryorestoreError(f"{name}: found {value!r}, expected one of {', '.join(allowed)}; choose one")
        self.restorer, self.sampling, self.sign = restorer, sampling, sign
        self._beyond, self._corrected = beyond == "raw", ctf == "corrected"
        self.background = Background(WINDOW, background_radius(sampling))

    def __call__(
        self, images: Images, ctf: Float[Tensor, "b window half"] | None, *, noise_power: Float[Tensor, "b shells"] | None = None
    ) -> GeneralResult:
        """Restore a batch; an image's result depends on no other.

        Parameters
        ----------
        images
            (b, box, box), of any grey scale.
        ctf
            Of the windows (`WorkingSampling.working_ctf`); None where it is not known: a worse mode.
        noise_power
            Per shell of the window, of each image's background, on any scale: the images are whitened by it, and the result is coloured again.
            None where the noise is white.
        """
        prepared = self.prepare(images)
        normalized, scale = prepared.images, prepared.sigma
        if noise_power is not None:
            whitened = _by_spectrum(whiten_images, torch.from_numpy(normalized), noise_power).numpy()
            again = self.background.normalize(whitened, remove_ramp=False)
            varies = _varies(again)
            normalized = np.where(varies[:, None, None], again.images, np.float32(0))
            scale = scale * np.where(varies, again.sigma, 0.0)
        result = self.restorer.restore(torch.from_numpy(normalized), ctf, corrected=self._corrected)
        mean, deviation = result.mean, result.deviation
        if noise_power is not None:
            coloured = _by_spectrum(colour_images, mean, noise_power)
            mean, deviation = coloured, deviation * _rms_ratio(coloured, mean)
        factor = torch.from_numpy(scale).float()[:, None, None]
        restored = self.sampling.from_working((mean * factor).numpy()) + prepared.mean.astype(np.float32)[:, None, None]
        restored *= self.sign
        if self._beyond:
            restored += self.sampling.beyond(images)
        width = np.maximum(self.sampling.from_working((deviation * factor).numpy()), 0)
        return GeneralResult(torch.from_numpy(restored), torch.from_numpy(width), result.evidence, ~_varies(prepared))

    def prepare(self, images: Images) -> Normalized:
        """White particles in their windows, less the background's plane, of background sigma 1; an image without variation becomes 0 (sigma 0)."""
        windows = self.sampling.to_working(self.sign * images if self.sign < 0 else images)
        normalized = self.background.normalize(windows, remove_ramp=True)
        varies = _varies(normalized)
        values = normalized.images if varies.all() else np.where(varies[:, None, None], normalized.images, np.float32(0))
        sigma = np.where(varies, normalized.sigma, 0.0)
        if self.sampling.is_finer:
            filled = self.background.normalize(values + self._filling, remove_ramp=False)
            values, sigma = filled.images, sigma * filled.sigma
        return Normalized(values, normalized.mean, sigma, normalized.ramp)

    @cached_property
    def _filling(self) -> Images:
        """Noise of the background's level where the data hold nothing: the network was shown white noise, not a lack of it."""
        white = torch.randn(WINDOW, WINDOW, generator=torch.Generator().manual_seed(_FILLING_SEED))
        level = self.sampling.field_size / self.sampling.box_size
        filling: Images = torch.fft.irfft2(torch.fft.rfft2(white) * self.sampling.band_of_nothing() * level, s=(WINDOW, WINDOW)).numpy()
        return filling


@dataclass(frozen=True)
class HalfWithGeneral:
    """The general network for the normalized particles of a half-set, whose background spectrum is known. Both halves have the same network."""

    method: GeneralMethod
    noise_power: Float[Tensor, "shells"] | None
    """per shell of the window"""

    @classmethod
    def of(cls, restorer: GeneralRestorer, reference: Reference, *, diameter: float | None, whiten: str) -> "HalfWithGeneral":
        """Choose the sampling for a half's particles.

        Raises
        ------
        CryorestoreError
            If no diameter is given, or `whiten` is none of WHITEN.
        """
        check_whiten(whiten)
        if diameter is None:
            raise CryorestoreError("general_diameter: found none, expected one, or a mask_radius to take twice of; give the particle's diameter")
        box_size, pixel_size = reference.volume.shape[-1], reference.pixel_size
        sampling = WorkingSampling.choose(box_size=box_size, pixel_size=pixel_size, diameter=min(diameter, box_size * pixel_size))
        noise_power = sampling.working_noise_power(reference.noise_power) if whiten != "none" else None
        return cls(GeneralMethod(restorer, sampling), noise_power)

    def __call__(self, images: Float[Tensor, "b box box"], ctf: Float[Tensor, "b box half"]) -> GeneralResult:
        """Restore normalized particles with the CTF of their boxes."""
        noise_power = None if self.noise_power is None else self.noise_power.expand(len(images), -1)
        return self.method(images.numpy(), self.method.sampling.working_ctf(ctf), noise_power=noise_power)


def check_whiten(whiten: str) -> None:
    """Refuse what is none of WHITEN."""
    if whiten not in WHITEN:
        raise CryorestoreError(f"whiten: found {whiten!r}, expected one of {', '.join(WHITEN)}; choose one")


def background_radius(sampling: WorkingSampling) -> float:
    """Px of the window: beyond it is background."""
    return min(max(_BACKGROUND, 0.55 * sampling.diameter / sampling.working_pixel_size), _LARGEST_BACKGROUND)


def _varies(normalized: Normalized) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(normalized.sigma) & (normalized.sigma >= SMALLEST_SIGMA))


def _by_spectrum(function: Callable[[Tensor, Tensor], Tensor], images: Tensor, noise_power: Tensor) -> Tensor:
    """Apply a function of images and one spectrum, spectrum by spectrum."""
    kinds, kind = torch.unique(noise_power, dim=0, return_inverse=True)
    changed = torch.empty_like(images)
    for number, power in enumerate(kinds):
        changed[kind == number] = function(images[kind == number], power)
    return changed


def _rms_ratio(changed: Tensor, images: Tensor) -> Tensor:
    after, before = (each.square().mean((-2, -1), keepdim=True).sqrt() for each in (changed, images))
    return after / before.clamp_min(1e-12)
