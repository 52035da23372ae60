"""Whether boxes are to be inverted so that particles are white: as the user says, or by what a sample of the boxes shows."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from cryorestore.contrast import judge_contrast
from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import Images
from cryorestore.logs import get_logger
from cryorestore.rescale import fourier_crop
from cryorestore.windows import Windows, cut_boxes

Inversion = bool | Literal["auto"]

_MICROGRAPHS, _BOXES = 20, 300
"""At most so many are looked at, evenly spread; a fourth of them where they are only to confirm what is set."""
_JUDGED_SIZE = 64
"""px that a box is rescaled to, for its lowest frequency is what is looked at"""


def decide_inversion(windows: Sequence[Windows], invert_contrast: Inversion, *, box_size: int, edge_policy: str) -> bool:
    """Whether to invert; says what "auto" found, and warns where a given value contradicts the sample.

    Raises
    ------
    CryorestoreError
        If `invert_contrast` is "auto" and the sample does not show the sign, or is no such value.
    """
    if invert_contrast not in (True, False, "auto"):
        raise CryorestoreError(f"invert_contrast: found {invert_contrast!r}, expected true, false or auto; choose one")
    share = 1 if invert_contrast == "auto" else 4
    sample = _sample(windows, box_size, edge_policy, micrographs=_MICROGRAPHS // share, most=_BOXES // share)
    found, score = judge_contrast(sample)
    seen = f"{len(sample)} boxes show {found} particles ({score:+.1f} standard errors)"
    if invert_contrast == "auto":
        if found == "unclear":
            raise CryorestoreError(
                f"invert_contrast: auto, and {len(sample)} boxes do not show whether particles are dark or white ({score:+.1f} standard errors); "
                "set true where they are dark in the micrographs, else false"
            )
        get_logger().warning("invert_contrast: auto: %s, so they are %s", seen, "inverted" if found == "dark" else "not inverted")
        return found == "dark"
    if found == ("white" if invert_contrast else "dark"):
        word = "true" if invert_contrast else "false"
        get_logger().warning("invert_contrast is %s, but %s: every later step expects white ones; check it", word, seen)
    return bool(invert_contrast)


def _sample(windows: Sequence[Windows], box_size: int, edge_policy: str, *, micrographs: int, most: int) -> Images:
    """Boxes as they are in the micrographs, but small."""
    chosen = _spread(len(windows), micrographs)
    each, boxes = -(-most // len(chosen)), []
    for number in chosen:
        window = windows[number]
        corners = window.corners[_spread(len(window.corners), each)]
        whole = cut_boxes(window.file.pixels(), corners, box_size=box_size, edge_policy=edge_policy)
        boxes.append(fourier_crop(whole, min(box_size, _JUDGED_SIZE)))
    return np.concatenate(boxes)


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` numbers below `count`, evenly spread."""
    if count <= wanted:
        return list(range(count))
    return [place * count // wanted for place in range(wanted)]
