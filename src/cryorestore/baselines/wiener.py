"""The Wiener filter that knows what a user knows: the spectra of the data themselves, the CTF, and how large the particle is.

No truth enters. The image is CTF times signal plus noise; the target keeps its CTF, as restored particles do.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.fourier import radial_average, spread_shells, to_fourier, to_real


def estimate_signal_power(
    batches: Iterable[tuple[Float[Tensor, "batch box box"], Float[Tensor, "batch box half"]]],
    *,
    noise_power: Float[Tensor, "shells"],
) -> Float[Tensor, "shells"]:
    """Mean power of the signal before the CTF per shell: the least-squares S >= 0 in |image|^2 = C^2 S + N.

    Each coefficient counts with its C^2, so that coefficients near a zero of the CTF, which know nothing of S, do not blur it.

    Parameters
    ----------
    batches
        Pairs of images (real space, normalized) and their CTF on the half plane of rfft2.
    noise_power
        Per shell 0 .. box // 2, orthonormal transform (`cryorestore.noise.estimate_noise_power`).

    Raises
    ------
    CryorestoreError
        If there are no images, or `noise_power` belongs to another box.
    """
    seen, weight = torch.zeros_like(noise_power), torch.zeros_like(noise_power)
    count = 0
    for images, ctf in batches:
        if images.shape[-1] // 2 + 1 != len(noise_power):
            raise CryorestoreError(
                f"noise power: found {len(noise_power)} shells, expected {images.shape[-1] // 2 + 1} for a box of {images.shape[-1]} px; "
                "estimate the noise on the same stack"
            )
        excess = to_fourier(images).abs().square() - spread_shells(noise_power, images.shape[-1])
        seen += radial_average(ctf.square() * excess).sum(0)
        weight += radial_average(ctf.square().square()).sum(0)
        count += len(images)
    if count == 0:
        raise CryorestoreError("no image to measure the signal spectrum on: the half-set is empty")
    return (seen / weight.clamp_min(1e-6 * count)).clamp_min(0.0)


def wiener_filter(
    images: Float[Tensor, "*batch box box"],
    ctf: Float[Tensor, "*batch box half"],
    *,
    signal_power: Float[Tensor, "shells"],
    noise_power: Float[Tensor, "shells"],
    mask: Float[Tensor, "box box"] | None = None,
) -> Float[Tensor, "*batch box box"]:
    """Filter with C^2 S / (C^2 S + N), the best linear estimate of the CTF-applied signal (Wiener 1949), then multiply with `mask`.

    Parameters
    ----------
    images
        Real space, normalized, CTF applied.
    ctf
        On the half plane of rfft2.
    signal_power, noise_power
        Per shell 0 .. box // 2, orthonormal transform; the signal's before the CTF.
    mask
        Soft disc round the particle: part of the baseline named Wiener. None = the filter alone, a condition channel of the networks.
    """
    box_size = images.shape[-1]
    signal = ctf.square() * spread_shells(signal_power, box_size)
    filtered = to_real(to_fourier(images) * (signal / (signal + spread_shells(noise_power, box_size)).clamp_min(1e-20)))
    return filtered if mask is None else filtered * mask
