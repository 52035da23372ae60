"""The contrast transfer function, with RELION's sign: CTF(0) = + amplitude contrast, so that white particles stay white."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class CtfParameters:
    """One value a particle: float64 arrays of shape (n,)."""

    defocus_u: NDArray[np.float64]
    """angstrom, positive = underfocus"""
    defocus_v: NDArray[np.float64]
    """angstrom"""
    defocus_angle: NDArray[np.float64]
    """degrees, from x to the axis of defocus_u"""
    voltage: NDArray[np.float64]
    """kV"""
    spherical_aberration: NDArray[np.float64]
    """mm"""
    amplitude_contrast: NDArray[np.float64]
    """fraction"""
    phase_shift: NDArray[np.float64]
    """degrees"""
    b_factor: NDArray[np.float64]
    """angstrom^2; the envelope is exp(-b_factor s^2 / 4)"""
    scale: NDArray[np.float64]
    """factor of the whole function"""

    def __len__(self) -> int:
        return len(self.defocus_u)

    def take(self, rows: NDArray[np.integer] | slice) -> "CtfParameters":
        """The parameters of some rows, in their order."""
        return CtfParameters(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def electron_wavelength(voltage: NDArray[np.float64]) -> NDArray[np.float64]:
    """Relativistic wavelength, angstrom, of electrons at `voltage` kV."""
    volts = np.asarray(voltage, float) * 1e3
    return 12.2643247 / np.sqrt(volts * (1.0 + volts * 0.978466e-6))


def ctf_2d(parameters: CtfParameters, *, box_size: int, pixel_size: float) -> Float[Tensor, "n box half"]:
    """Evaluate the CTF of each particle on the frequencies of `rfft2` (ky unshifted, kx >= 0).

    sin(pi lambda dz s^2 - pi/2 Cs lambda^3 s^4 + asin(w) + phase_shift), dz along the direction of s
    (Rohou and Grigorieff 2015, with RELION's sign).

    Parameters
    ----------
    parameters
        Of n particles.
    box_size
        Pixels.
    pixel_size
        Angstrom per pixel.
    """

    def column(values: NDArray[np.float64]) -> Tensor:
        return torch.as_tensor(np.asarray(values, float))[:, None, None]

    ky = torch.fft.fftfreq(box_size, pixel_size, dtype=torch.float64)[:, None]
    kx = torch.fft.rfftfreq(box_size, pixel_size, dtype=torch.float64)[None]
    s2 = kx**2 + ky**2
    angle = torch.atan2(ky, kx)
    wavelength = column(electron_wavelength(parameters.voltage))
    mean_defocus = column(0.5 * (parameters.defocus_u + parameters.defocus_v))
    astigmatism = column(0.5 * (parameters.defocus_u - parameters.defocus_v))
    defocus = mean_defocus + astigmatism * torch.cos(2 * (angle - column(np.radians(parameters.defocus_angle))))
    phase = torch.pi * wavelength * defocus * s2 - 0.5 * torch.pi * column(parameters.spherical_aberration * 1e7) * wavelength**3 * s2**2
    phase = phase + column(np.arcsin(parameters.amplitude_contrast)) + column(np.radians(parameters.phase_shift))
    envelope = torch.exp(-0.25 * column(parameters.b_factor) * s2)
    return (column(parameters.scale) * envelope * torch.sin(phase)).float()
