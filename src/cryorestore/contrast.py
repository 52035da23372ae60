"""Whether particles are dark or white against their background, judged from their boxes alone."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError

Contrast = Literal["dark", "white", "unclear"]

FEWEST_BOXES = 20
"""Usable boxes below which nothing is judged: the spread of so few is not known well enough."""

SIGNIFICANT = 5.0
"""Standard errors from which on the sign is taken for known."""

_NORMAL_MAD = 1.4826
"""Sigma of a normal distribution over its median absolute deviation."""

_MEDIAN_ERROR = 1.2533
"""Standard error of the median over that of the mean, for a normal distribution."""


def judge_contrast(boxes: NDArray[np.float32]) -> tuple[Contrast, float]:
    """Compare the middle of each box with the whole of it, at the lowest frequency that the box holds.

    Each box is reduced to one number: the mean under a Hann window minus the plain mean, after a plane is taken away (ice, carbon), over the
    box's sigma. The window less its mean holds no frequency beyond the first shell. That matters: the CTF makes dark and bright rings about a
    particle, and a particle may be hollow, so that the middle against a ring has either sign by their radii; but in underfocus and with a
    phase plate the lowest frequencies keep the sign of the particle's mass. Particles may crowd, and a pick may miss by up to a quarter of the
    box. Junk and particles beside others have little weight, for the score is the median over its standard error (from the median absolute
    deviation). Every box counts alike, whatever its micrograph's grey scale.

    Parameters
    ----------
    boxes
        (n, box, box), real space, as they are in the micrographs; some hundreds are enough. Boxes with NaN or without variation are left out.

    Returns
    -------
    tuple
        "white", "dark", or "unclear" where the score is within `SIGNIFICANT` standard errors of 0 or there are fewer than `FEWEST_BOXES`
        usable boxes; and the score, positive for white, 0 where it cannot be computed.

    Raises
    ------
    CryorestoreError
        If `boxes` is no stack of square images.
    """
    if boxes.ndim != 3 or boxes.shape[1] != boxes.shape[2] or boxes.shape[1] < 4:
        raise CryorestoreError(f"contrast: found an array of shape {boxes.shape}, expected (n, box, box); give the particles' boxes")
    excess = _central_excess(boxes)
    excess = excess[np.isfinite(excess)]
    if len(excess) < FEWEST_BOXES:
        return "unclear", 0.0
    middle = float(np.median(excess))
    spread = _NORMAL_MAD * float(np.median(np.abs(excess - middle)))
    if spread == 0:
        return "unclear", 0.0
    score = middle * np.sqrt(len(excess)) / (_MEDIAN_ERROR * spread)
    if abs(score) < SIGNIFICANT:
        return "unclear", float(score)
    return ("white" if score > 0 else "dark"), float(score)


def _central_excess(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean under the window minus the mean, over sigma, of each box without its plane (n,); NaN where a box cannot be used."""
    box_size = boxes.shape[-1]
    axis = np.arange(box_size) - box_size // 2
    hann = 0.5 * (1 + np.cos(2 * np.pi * axis / box_size))
    window = np.outer(hann, hann).ravel()
    y, x = (grid.ravel().astype(np.float64) for grid in np.meshgrid(axis, axis, indexing="ij"))
    design = np.stack([np.ones_like(x), x, y])
    projection = np.linalg.pinv(design)
    excess = np.full(len(boxes), np.nan)
    for number, box in enumerate(boxes):
        values = box.ravel().astype(np.float64)
        if np.isfinite(values).all():
            flat = values - (values @ projection) @ design
            sigma = flat.std()
            if sigma > 1e-6 * max(1.0, np.abs(values).max()):
                excess[number] = (flat @ window) / window.sum() / sigma
    return excess
