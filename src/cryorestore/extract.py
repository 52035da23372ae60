"""Particle boxes cut from micrographs, with RELION's semantics: window, edges, Fourier crop, inversion, in that order."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.files import files_together
from cryorestore.fourier import fourier_crop_2d
from cryorestore.io.mrc import Images, MrcStackWriter, read_micrograph
from cryorestore.io.star import StarBlock, write_star
from cryorestore.logs import get_logger, progress
from cryorestore.micrographs import Micrograph, read_micrographs
from cryorestore.picks import PickTable, join_picks

EDGE_POLICIES = ("replicate", "drop", "mean")


@dataclass(frozen=True)
class _Windows:
    """The boxes of one micrograph that are kept: corners (n, 2), x and y in px."""

    path: Path
    corners: NDArray[np.int64]


@files_together()
def extract_particles(
    *,
    micrographs_star: str | Path,
    coordinates: str | Path | Sequence[str | Path] | None = None,
    particles_star: str | Path | None = None,
    stack: str | Path,
    star: str | Path,
    rejects_star: str | Path,
    box_size: int,
    scale: int | None = None,
    invert_contrast: bool = True,
    edge_policy: str = "replicate",
    figure_of_merit_threshold: float | None = None,
    pixel_size: float | None = None,
    recentre: bool = False,
    threads: int = 1,
) -> None:
    """Cut a box about every pick; one stack and one table for the data set, in the order of the micrographs and of their picks.

    The table's rlnCryorestoreHasPose says whether a row has a pose (1) or zeros in the pose columns (0).

    Parameters
    ----------
    micrographs_star
        A STAR file of RELION 3.0 or newer, or a micrograph, or a folder of them (no CTF then).
    coordinates
        A folder or files (.star, .box, .txt), matched to micrographs by the beginning of their names. None: the rows of `particles_star`.
    particles_star
        Poses and other columns for the picks: same micrograph, x and y within 0.01 px.
    stack, star, rejects_star
        Written. The rejects have their reason in rlnCryorestoreRejectReason.
    box_size
        Pixels of the micrograph, even: the box spans centre - box_size / 2 to centre + box_size / 2 - 1; the centre is truncated toward zero.
    scale
        Pixels of the written images, even: Fourier crop that keeps grey values. None: box_size.
    invert_contrast
        Change the sign, so that dark particles become white.
    edge_policy
        For boxes partly outside: "replicate" the nearest pixel, "drop" the box, or fill in the "mean" of the box's inside.
    figure_of_merit_threshold
        Keep picks whose figure of merit is greater.
    pixel_size
        Of the micrographs, angstrom; overrides the table's.
    recentre
        Move each box by the whole pixels of its row's origin; the rest stays in the origin. Coordinate - origin does not change.
    threads
        Micrographs read at a time; the result does not depend on it.

    Raises
    ------
    CryorestoreError
        If a setting or file is wrong, or no particle is left.
    """
    scale = box_size if scale is None else scale
    _check_settings(box_size, scale, edge_policy)
    micrographs = read_micrographs(micrographs_star, pixel_size=pixel_size)
    picks = join_picks(
        micrographs, coordinates=coordinates, particles_star=particles_star, figure_of_merit_threshold=figure_of_merit_threshold, recentre=recentre
    )
    windows, reasons = _place_windows(micrographs.micrographs, picks, box_size, edge_policy)
    kept = np.array([not reason for reason in reasons], bool)
    _say_rejects(picks, reasons)
    total = int(kept.sum())
    if not total:
        raise CryorestoreError(f"{micrographs_star}: 0 particles to extract ({len(reasons)} picks, all rejected or none); check the coordinates")
    scaled_pixel = picks.pixel_size * box_size / scale
    with MrcStackWriter(stack, count=total, box_size=scale, pixel_size=scaled_pixel) as writer, ThreadPoolExecutor(threads) as pool:
        for batch in progress(_batches(windows, threads), total=-(-len(windows) // threads), description="extract particles"):
            for boxes in pool.map(lambda window: _cut(window, box_size, edge_policy), batch):
                writer.append(_finish(boxes, scale, invert_contrast))
    names = [f"{number:06d}@{Path(stack).as_posix()}" for number in range(1, total + 1)]
    optics = _optics(picks.optics, picks.pixel_sizes * box_size / scale, scale)
    write_star(rejects_star, {"optics": optics, "particles": _rejects(picks.rows, reasons)})
    write_star(star, {"optics": optics, "particles": picks.rows.take(kept).with_columns({"rlnImageName": names})})
    get_logger().info("extracted %d particles of %d px at %g A/px", total, scale, scaled_pixel)


def _check_settings(box_size: int, scale: int, edge_policy: str) -> None:
    if box_size < 2 or box_size % 2:
        raise CryorestoreError(f"box_size: found {box_size}, expected an even number of px; choose {box_size + 1}")
    if scale < 2 or scale % 2 or scale > box_size:
        raise CryorestoreError(f"scale: found {scale}, expected an even number of px, at most box_size {box_size}; choose such a one, or null")
    if edge_policy not in EDGE_POLICIES:
        raise CryorestoreError(f"edge_policy: found {edge_policy!r}, expected one of {', '.join(EDGE_POLICIES)}; choose one")


def _place_windows(micrographs: list[Micrograph], picks: PickTable, box_size: int, edge_policy: str) -> tuple[list[_Windows], list[str]]:
    """Corners of the boxes that are kept, a micrograph at a time, and for every pick the reason of its rejection ("": kept)."""
    windows, reasons = [], list(picks.reasons)
    for number, micrograph in enumerate(micrographs):
        rows = picks.rows_of(number)
        corners = np.trunc(picks.centres[rows]).astype(np.int64) - box_size // 2
        ny, nx = micrograph.shape
        beyond = np.any((corners >= (nx, ny)) | (corners + box_size <= 0), axis=1)
        partly = np.any((corners < 0) | (corners + box_size > (nx, ny)), axis=1)
        for row, out, cut in zip(rows.tolist(), beyond.tolist(), partly.tolist(), strict=True):
            if not reasons[row] and out:
                x, y = picks.centres[row]
                reasons[row] = f"wholly outside the micrograph: centre ({x:g}, {y:g}), micrograph {nx} x {ny}"
            elif not reasons[row] and cut and edge_policy == "drop":
                reasons[row] = "partly outside the micrograph"
        inside = np.array([not reasons[row] for row in rows.tolist()], bool)
        if inside.any():
            windows.append(_Windows(micrograph.path, corners[inside]))
    return windows, reasons


def _say_rejects(picks: PickTable, reasons: Sequence[str]) -> None:
    rejected = [row for row, reason in enumerate(reasons) if reason]
    if rejected:
        row = rejected[0]
        where = f"{picks.rows.column('rlnMicrographName')[row]}, row {picks.row_numbers[row]}"
        get_logger().warning("%d of %d picks are rejected; first: %s: %s", len(rejected), len(reasons), where, reasons[row])


def _batches(windows: Sequence[_Windows], size: int) -> Iterator[list[_Windows]]:
    iterator = iter(windows)
    while batch := list(islice(iterator, size)):
        yield batch


def _cut(window: _Windows, box_size: int, edge_policy: str) -> Images:
    image, _ = read_micrograph(window.path)
    return cut_boxes(image, window.corners, box_size=box_size, edge_policy=edge_policy)


def cut_boxes(image: Images, corners: NDArray[np.int64], *, box_size: int, edge_policy: str) -> Images:
    """Copy the boxes (n, box, box) whose first pixels are at `corners` (n, 2; x, y); see `extract_particles` for what lies outside."""
    ny, nx = image.shape
    steps = np.arange(box_size)
    x, y = corners[:, :1] + steps, corners[:, 1:] + steps
    boxes: Images = image[np.clip(y, 0, ny - 1)[:, :, None], np.clip(x, 0, nx - 1)[:, None, :]]
    if edge_policy == "mean":
        inside = ((y >= 0) & (y < ny))[:, :, None] & ((x >= 0) & (x < nx))[:, None, :]
        for box, known in zip(boxes, inside, strict=True):
            box[~known] = box[known].mean(dtype=np.float64)
    return boxes


def _finish(boxes: Images, scale: int, invert_contrast: bool) -> Images:
    if scale != boxes.shape[-1]:
        boxes = fourier_crop_2d(torch.from_numpy(boxes), scale).numpy()
    return -boxes if invert_contrast else boxes


def _optics(optics: StarBlock, pixel_sizes: NDArray[np.float64], scale: int) -> StarBlock:
    sizes = {"rlnImageSize": np.full(len(optics), scale), "rlnImageDimensionality": np.full(len(optics), 2)}
    return optics.with_columns({"rlnImagePixelSize": pixel_sizes, **sizes})


def _rejects(rows: StarBlock, reasons: Sequence[str]) -> StarBlock:
    rejected = np.array([bool(reason) for reason in reasons], bool)
    return rows.take(rejected).with_columns({"rlnCryorestoreRejectReason": [reason for reason in reasons if reason]})
