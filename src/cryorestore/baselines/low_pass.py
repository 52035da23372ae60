"""The low-pass filter: what people look at when they look at particles."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.fourier import spread_shells, to_fourier, to_real

_EDGE = 2.0
"""Width of the raised-cosine edge, shells."""


def cutoff_shell(signal_power: Float[Tensor, "shells"], noise_power: Float[Tensor, "shells"]) -> int:
    """First shell from 1 on where the mean power of the signal after the CTF is below that of the noise; a single image shows no more.

    Parameters
    ----------
    signal_power
        Of the signal before the CTF, per shell; the CTF's mean square is taken as 1/2.
    noise_power
        Per shell.
    """
    below = torch.nonzero(0.5 * signal_power[1:] < noise_power[1:]).flatten()
    return int(below[0]) + 1 if below.numel() else len(noise_power) - 1


def low_pass(images: Float[Tensor, "*batch box box"], *, shell: float) -> Float[Tensor, "*batch box box"]:
    """Keep the shells below `shell`, with a raised-cosine edge of two shells that ends there plus one.

    The background's mean, shell 0, is kept.
    """
    box_size = images.shape[-1]
    radius = torch.arange(box_size // 2 + 1, dtype=torch.float32)
    ramp = ((radius - (shell - _EDGE / 2)) / _EDGE).clamp(0, 1)
    filtered: Tensor = to_real(to_fourier(images) * spread_shells(0.5 * (1 + torch.cos(torch.pi * ramp)), box_size))
    return filtered
