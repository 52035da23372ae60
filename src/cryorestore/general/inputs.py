"""What the general network sees of a particle: the image, four views of it through the CTF, where the centre is, and whether the CTF is known.

It is not told the signal-to-noise ratio: two generic Wiener filters span what it may be.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SIGNAL_CORNER = 0.06
"""cycles per px of the working sampling, where the generic signal power falls to half"""
STRONG, WEAK = 20.0, 2.0
"""Generic signal power over noise power at zero frequency."""
RADIUS_UNIT = 32.0
"""px of the working sampling"""


def network_inputs(
    images: Float[Tensor, "n side side"], ctf: Float[Tensor, "n side half"] | None, known: Bool[Tensor, "n"] | None = None
) -> Float[Tensor, "n 7 side side"]:
    """Input channels of `GeneralNetwork`, on the images' device.

    Parameters
    ----------
    images
        At the working sampling, background of mean 0 and sigma 1, particles white; the centre is the pixel side // 2.
    ctf
        On the frequencies of `rfft2` of the same side, positive at low frequency; None where the defocus is not known: the images then pass as if
        the CTF were one everywhere, and the last channel, 1 instead of 0, says so.
    known
        Whether the CTF of each image is; all by default.

    Returns
    -------
    Channels: image; phases flipped; two CTF-corrected Wiener filters, the strong one halved; CTF times the weak one, doubled; distance from the
    centre squared in units of 32 px; 1 where the CTF is not known.
    """
    count, side = images.shape[0], images.shape[-1]
    if ctf is None:
        ctf, known = images.new_ones(count, side, side // 2 + 1), torch.zeros(count, dtype=torch.bool, device=images.device)
    elif known is None:
        known = torch.ones(count, dtype=torch.bool, device=images.device)
    else:
        ctf = torch.where(known[:, None, None], ctf, 1.0)
    ky = torch.fft.fftfreq(side, device=images.device)[:, None]
    kx = torch.fft.rfftfreq(side, device=images.device)
    noise_to_signal = 1 + (ky**2 + kx**2) / SIGNAL_CORNER**2
    spectrum = torch.fft.rfft2(images)
    weak = ctf / (ctf**2 + noise_to_signal / WEAK)
    filters = torch.stack([torch.sign(ctf), 0.5 * ctf / (ctf**2 + noise_to_signal / STRONG), weak, 2.0 * ctf * weak], 1)
    filtered = torch.fft.irfft2(spectrum[:, None] * filters, s=(side, side))
    axis = (torch.arange(side, device=images.device, dtype=images.dtype) - side // 2) / RADIUS_UNIT
    radius = (axis[:, None] ** 2 + axis**2).expand(count, 1, side, side)
    unknown = (~known)[:, None, None, None].to(images.dtype).expand_as(radius)
    return torch.cat([images[:, None], filtered, radius, unknown], 1)
