"""Experimental single frames, restored: how much of the rest of their exposure, whose noise is another, they tell. No reference is needed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from halves import SETTINGS
from simulation import BOX, PIXEL
from torch import Tensor

from cryorestore.config.paths import data_path
from cryorestore.ctf import ctf_2d
from cryorestore.ctf_parameters import CtfParameters
from cryorestore.io.coordinates import read_coordinates
from cryorestore.io.mrc import read_micrograph
from cryorestore.io.star import read_star
from cryorestore.masks import background_mask, soft_disc
from cryorestore.metrics import mean_interval
from cryorestore.rescale import fourier_crop
from cryorestore.restore import Restorer
from cryorestore.windows import cut_boxes

CUT = 128
"""Px of the micrograph, 1.5 angstrom each: scaled to the networks' box and pixel size."""
RADIUS = 20
"""Px: what lies outside is not compared, for neighbours stand there."""
HIGH = 0.35
"""Cycles a pixel: beyond, a frame and the sum of its exposure share noise alone."""


@dataclass(frozen=True)
class Boxes:
    """Frames and what is left of their exposures, (n, box, box), and their CTF (n, box, half)."""

    frame: Tensor
    rest: Tensor
    ctf: Tensor


def experimental() -> Boxes | None:
    """Apoferritin (EMPIAR-10146) from the data's folder; None where it is missing."""
    folder = Path(data_path(SETTINGS, "apoferritin-empiar10146"))
    stems = sorted(path.name.removesuffix("_single_frame.mrc") for path in folder.glob("*_single_frame.mrc"))
    if not stems:
        return None
    table = read_star(folder / "micrographs.star").blocks["micrographs"]
    names = [Path(name).stem for name in table.column("rlnMicrographName")]
    parts = []
    for stem in stems:
        frame, total = (read_micrograph(path)[0] for path in (folder / f"{stem}_single_frame.mrc", folder / "micrographs" / f"{stem}.mrc"))
        picks = read_coordinates(folder / "micrographs" / f"{stem}_manualpick.star")
        corners = np.stack([picks.x, picks.y], 1).round().astype(np.int64) - CUT // 2
        corners = corners[((corners >= 0) & (corners + CUT <= np.array(frame.shape[::-1]))).all(1)]
        images = [boxes_of(image, corners) for image in (frame, total - shared_noise(frame, total) * frame)]
        row, ones = names.index(stem), np.ones(len(corners))
        values = (float(table.column(name)[row]) * ones for name in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"))
        ctf = ctf_2d(CtfParameters(*values, 300 * ones, 2.7 * ones, 0.07 * ones, 0 * ones, 0 * ones, ones), box_size=BOX, pixel_size=PIXEL)
        parts.append((*images, ctf))
    return Boxes(*(torch.cat(part) for part in zip(*parts, strict=True)))


def shared_noise(frame: np.ndarray, total: np.ndarray) -> float:
    """How often the frame is in the sum, by their noise: the regression of the one on the other at high frequencies."""
    first, second = (np.fft.rfft2(image - image.mean()) for image in (frame, total))
    beyond = np.hypot(np.fft.fftfreq(frame.shape[0])[:, None], np.fft.rfftfreq(frame.shape[1])) > HIGH
    return float((first.conj() * second).real[beyond].sum() / np.square(np.abs(first[beyond])).sum())


def boxes_of(image: np.ndarray, corners: np.ndarray) -> Tensor:
    """Boxes, scaled, white on dark, background of mean 0 and deviation 1."""
    boxes = -torch.from_numpy(fourier_crop(cut_boxes(image, corners, box_size=CUT, edge_policy="replicate"), BOX))
    background = boxes[:, background_mask(BOX, 29)]
    return (boxes - background.mean(1)[:, None, None]) / background.std(1)[:, None, None]


def correlations(restorer: Restorer, boxes: Boxes) -> dict[str, Any]:
    """Mean over the boxes of the correlation with the rest, inside the radius, with its interval; noise of the rest keeps it far from 1."""
    disc, restored = soft_disc(BOX, RADIUS, 0.0) > 0.5, []
    with torch.no_grad():
        for start in range(0, len(boxes.frame), 16):
            rows = slice(start, start + 16)
            count = len(boxes.frame[rows])
            poses = torch.eye(3).expand(count, 3, 3), torch.zeros(count, 2)
            restored.append(restorer(boxes.frame[rows], boxes.ctf[rows], *poses, list(range(start, start + count))).images)
    pairs = [values[:, disc] - values[:, disc].mean(1, keepdim=True) for values in (torch.cat(restored), boxes.rest)]
    value = (pairs[0] * pairs[1]).sum(1) / (pairs[0].norm(dim=1) * pairs[1].norm(dim=1)).clamp_min(1e-9)
    return {"boxes": len(value), "correlation": mean_interval(value.numpy(), seed=1)}
