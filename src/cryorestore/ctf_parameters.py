"""The values that the contrast transfer function of each particle follows from."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


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
