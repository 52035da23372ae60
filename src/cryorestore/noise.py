"""The noise spectrum of a stack, measured in the background of its boxes."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.fourier import radial_average, to_fourier
from cryorestore.masks import soft_disc


def estimate_noise_power(batches: Iterable[Float[Tensor, "batch box box"]], *, bg_radius: float) -> Float[Tensor, "shells"]:
    """Mean power per shell (orthonormal transform: white noise of sigma 1 has power 1) outside the circle of `bg_radius` px.

    Each box is multiplied with one minus a soft disc, its mean under that window removed, and its power divided by the window's mean square.
    Shell 0 takes the value of shell 1, which the background normalization leaves untouched.

    Raises
    ------
    CryorestoreError
        If there are no images, or the background is empty.
    """
    total: Tensor | None = None
    count = 0
    for images in batches:
        window = 1.0 - soft_disc(images.shape[-1], bg_radius, 3.0)
        energy = window.square().mean()
        if energy < 0.02:
            raise CryorestoreError(f"bg_radius: found {bg_radius} px in a box of {images.shape[-1]} px, which leaves no background; make it smaller")
        mean = (images * window).sum((-2, -1), keepdim=True) / window.sum()
        power = radial_average(to_fourier((images - mean) * window).abs().square()).sum(0) / energy
        total = power if total is None else total + power
        count += len(images)
    if total is None:
        raise CryorestoreError("no image to measure the noise spectrum on: the half-set is empty")
    spectrum = total / count
    spectrum[0] = spectrum[1]
    return spectrum.clamp_min(1e-6)
