"""The contrast transfer function, with RELION's sign: CTF(0) = + amplitude contrast, so that white particles stay white."""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.ctf_parameters import CtfParameters

__all__ = ["CtfParameters", "ctf_2d", "electron_wavelength"]


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
