"""Particle boxes cut from micrographs, with RELION's semantics: window, edges, Fourier crop, inversion, in that order."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.config import code_version
from cryorestore.errors import CryorestoreError
from cryorestore.extract_contrast import Inversion, decide_inversion
from cryorestore.files import atomic_path, files_together
from cryorestore.io.mrc import Images, stored_dtype
from cryorestore.io.stored import Statistics, merged, stored_images
from cryorestore.logs import get_logger, progress
from cryorestore.micrographs import read_micrographs
from cryorestore.named_files import note_files
from cryorestore.partial_stack import Finished, PartialStack
from cryorestore.particles import REASON, ParticleTable
from cryorestore.picks import PickTable, join_picks
from cryorestore.rescale import fourier_crop
from cryorestore.windows import EDGE_POLICIES, Windows, cut_boxes, place_windows

_BATCH_PIXELS = 1 << 18
"""px of the micrograph that are cut at a time: 64 boxes of 64 px, one of 384 px; they stay in the processor's cache"""


def extract_particles(
    *,
    micrographs_star: str | Path,
    coordinates: str | Path | Sequence[str | Path] | None = None,
    particles_star: str | Path | None = None,
    stack: str | Path,
    star: str | Path,
    rejects_star: str | Path,
    work_dir: str | Path | None = None,
    box_size: int,
    scale: int | None = None,
    invert_contrast: Inversion = True,
    edge_policy: str = "replicate",
    figure_of_merit_threshold: float | None = None,
    pixel_size: float | None = None,
    recentre: bool = False,
    dtype: str = "float32",
    threads: int = 1,
    files_record: str | Path | None = None,
    files_version: str | None = None,
) -> None:
    """Cut a box about every pick; one stack and one table for the data set, in the order of the micrographs and of their picks.

    The table's rlnCryorestoreHasPose says whether a row has a pose (1) or zeros in the pose columns (0). Optics groups may differ in their pixel
    size, each has its own in the table, and the stack's header then says none; they have one box. A run that was killed is taken up where it
    stopped: what the next one writes is the same, byte for byte.

    Parameters
    ----------
    micrographs_star
        A STAR file of RELION 3.0 or newer, or a micrograph (.mrc, .tif), or a folder of them (no CTF then).
    coordinates
        A folder, a pattern such as picks/*.star, or files (.star, .box, .txt), matched to micrographs by the beginning of their names. None: the
        rows of `particles_star`.
    particles_star
        Poses and other columns for the picks: same micrograph, x and y within 0.01 px.
    stack, star, rejects_star
        Written. The rejects have their reason in rlnCryorestoreRejectReason.
    work_dir
        Where the state of an unfinished run is kept; it goes when the run is finished. None: a hidden folder beside the stack.
    box_size
        Pixels of the micrograph, even: the box spans centre - box_size / 2 to centre + box_size / 2 - 1; the centre is truncated toward zero.
    scale
        Pixels of the written images, even: Fourier crop that keeps grey values. None: box_size.
    invert_contrast
        Change the sign, so that dark particles become white. "auto": if a sample of the boxes shows dark particles. It is looked at in any case,
        and a warning says where it contradicts.
    edge_policy
        For boxes partly outside: "replicate" the nearest pixel, "drop" the box, or fill in the "mean" of the box's inside.
    figure_of_merit_threshold
        Keep picks whose figure of merit is greater.
    pixel_size
        Of the micrographs, angstrom; overrides the table's.
    recentre
        Move each box by the nearest whole pixels of its row's origin; the rest stays in the origin. Coordinate - origin does not change.
    dtype
        "float32" or "float16".
    threads
        Micrographs in work at a time, each in memory as it is in its file; the result does not depend on it.
    files_record
        Where sizes and times of the micrographs are noted, by which the next run sees whether one changed; None: nowhere.
    files_version
        Noted with them; changes with the micrographs.

    Raises
    ------
    CryorestoreError
        If a setting or file is wrong, or no particle is left.
    """
    scale = box_size if scale is None else scale
    _check_settings(box_size, scale, edge_policy)
    micrographs = read_micrographs(micrographs_star, pixel_size=pixel_size)
    if files_record is not None:
        note_files(files_record, (micrograph.file.path for micrograph in micrographs.micrographs), version=files_version)
    picks = join_picks(
        micrographs, coordinates=coordinates, particles_star=particles_star, figure_of_merit_threshold=figure_of_merit_threshold, recentre=recentre
    )
    windows, reasons = place_windows(micrographs.micrographs, picks, box_size=box_size, edge_policy=edge_policy)
    if not windows:
        raise CryorestoreError(f"{micrographs_star}: 0 particles to extract ({len(picks.rows)} picks, all rejected or none); check the coordinates")
    invert = decide_inversion(windows, invert_contrast, box_size=box_size, edge_policy=edge_policy)
    cutting = _Cutting(box_size, scale, invert, edge_policy, stored_dtype(dtype, path=stack))
    folder = Path(stack).with_name(f".{Path(stack).stem}.work") if work_dir is None else Path(work_dir)
    total = sum(len(window.picks) for window in windows)
    with PartialStack(folder, count=total, box_size=scale, dtype=cutting.dtype, keys=_keys(windows, cutting)) as partial:
        finished = _extract_all(windows, cutting, partial, threads)
        for window, part in zip(windows, finished, strict=True):
            reasons |= dict.fromkeys(window.picks[part.bad].tolist(), "holds NaN or infinite values")
        kept = np.ones(len(picks.rows), bool)
        kept[list(reasons)] = False
        _say_rejects(picks, reasons)
        if not kept.any():
            raise CryorestoreError(f"{micrographs_star}: 0 of {len(kept)} picks can be extracted; the warning above says why")
        partial.complete(finished, pixel_size=_common_pixel_size(picks, kept, box_size / scale))
        _write(picks, kept, reasons, finished, partial, box_size=box_size, stack=Path(stack), star=star, rejects_star=rejects_star)
        partial.remove()
    get_logger().info("extracted %d particles of %d px", partial.count, scale)


@dataclass(frozen=True)
class _Cutting:
    """How a micrograph's boxes become images."""

    box_size: int
    scale: int
    invert: bool
    edge_policy: str
    dtype: np.dtype[np.generic]

    def images(self, micrograph: NDArray[np.generic], corners: NDArray[np.int64], buffer: Images) -> Images:
        """Boxes (n, scale, scale) whose first pixels are at `corners` (n, 2; x, y); they may lie in `buffer`."""
        boxes = cut_boxes(micrograph, corners, box_size=self.box_size, edge_policy=self.edge_policy, out=buffer[: len(corners)])
        boxes = fourier_crop(boxes, self.scale, overwrite=True)
        return np.negative(boxes, out=boxes) if self.invert else boxes


def _check_settings(box_size: int, scale: int, edge_policy: str) -> None:
    if box_size < 4 or box_size % 2:
        raise CryorestoreError(f"box_size: found {box_size}, expected an even number of px, at least 4; choose {max(4, box_size + 1)}")
    if scale < 2 or scale % 2 or scale > box_size:
        raise CryorestoreError(f"scale: found {scale}, expected an even number of px, at most box_size {box_size}; choose such a one, or null")
    if edge_policy not in EDGE_POLICIES:
        raise CryorestoreError(f"edge_policy: found {edge_policy!r}, expected one of {', '.join(EDGE_POLICIES)}; choose one")


def _keys(windows: Sequence[Windows], cutting: _Cutting) -> list[str]:
    """For each micrograph a hash of what the bytes of its boxes depend on."""
    common, keys = f"{code_version('extract')} {cutting}", []
    for window in windows:
        state = window.file.path.stat()
        text = f"{common} {window.file.path.absolute()} {state.st_size} {state.st_mtime_ns} {window.first}"
        keys.append(hashlib.sha256(text.encode(errors="surrogateescape") + window.corners.tobytes()).hexdigest()[:32])
    return keys


def _extract_all(windows: Sequence[Windows], cutting: _Cutting, partial: PartialStack, threads: int) -> list[Finished]:
    """Every micrograph's boxes, those of an earlier run taken over."""

    def extract(number: int) -> Finished:
        return partial.take_over(number, first=windows[number].first) or _extract_one(number, windows[number], cutting, partial)

    with ThreadPoolExecutor(max(1, threads)) as pool:
        return list(progress(pool.map(extract, range(len(windows))), total=len(windows), description="extract particles, micrographs"))


def _extract_one(number: int, window: Windows, cutting: _Cutting, partial: PartialStack) -> Finished:
    micrograph = window.file.pixels()
    statistics, hashes, bad = Statistics(), list[str](), list[int]()
    step = max(1, _BATCH_PIXELS // cutting.box_size**2)
    buffer = np.empty((step, cutting.box_size, cutting.box_size), np.float32)
    for begin in range(0, len(window.corners), step):
        images = cutting.images(micrograph, window.corners[begin : begin + step], buffer)
        stored = stored_images(images, cutting.dtype)
        if not stored.finite.all():
            if np.isfinite(images[~stored.finite]).all():
                raise CryorestoreError(f"{window.file.path}: found values too large for {cutting.dtype.name}; choose dtype float32")
            images[~stored.finite] = 0
            bad += (begin + np.flatnonzero(~stored.finite)).tolist()
            statistics = merged([statistics, *(row for row, good in zip(stored.statistics, stored.finite, strict=True) if good)])
            stored = stored_images(images, cutting.dtype)
        else:
            statistics = merged([statistics, *stored.statistics])
        partial.write(stored, first=window.first + begin)
        hashes += stored.hashes
    finished = Finished(statistics, "".join(hashes), bad)
    partial.finish(number, finished)
    return finished


def _common_pixel_size(picks: PickTable, kept: NDArray[np.bool_], factor: float) -> float | None:
    """The images' pixel size (angstrom), None where the optics groups in use differ in it."""
    sizes = picks.pixel_sizes
    if np.ptp(sizes) > 0:
        sizes = sizes[np.isin(picks.optics.ints("rlnOpticsGroup"), picks.rows.ints("rlnOpticsGroup")[kept])]
        if np.ptp(sizes) > 0:
            listed = ", ".join(f"{size:g}" for size in sorted(set((sizes * factor).tolist())))
            get_logger().warning(
                "the optics groups have different pixel sizes (%s angstrom): the table has each, the stack's header says none", listed
            )
            return None
    return float(sizes[0]) * factor


def _say_rejects(picks: PickTable, reasons: dict[int, str]) -> None:
    if reasons:
        row = min(reasons)
        where = f"{picks.micrograph_name(row)}, row {picks.row_numbers[row]}"
        get_logger().warning("%d of %d picks are rejected; first: %s: %s", len(reasons), len(picks.rows), where, reasons[row])


def _write(
    picks: PickTable,
    kept: NDArray[np.bool_],
    reasons: dict[int, str],
    finished: Sequence[Finished],
    partial: PartialStack,
    *,
    box_size: int,
    stack: Path,
    star: str | Path,
    rejects_star: str | Path,
) -> None:
    """The stack and both tables, together; the table of the particles comes last."""
    scale = partial.box_size
    sizes = {"rlnImageSize": np.full(len(picks.optics), scale), "rlnImageDimensionality": np.full(len(picks.optics), 2)}
    optics = picks.optics.with_columns({"rlnImagePixelSize": picks.pixel_sizes * box_size / scale, **sizes})
    hashes = [text for part in finished for text in part.good_hashes()]
    with files_together():
        with atomic_path(stack) as temporary:
            partial.publish(temporary)
        table = ParticleTable(picks.rows, optics, Path(star))
        extracted = table.take(kept) if reasons else table
        table.take(~kept).with_columns({REASON: [reasons[row] for row in sorted(reasons)]}).write(rejects_star)
        extracted.with_images(stack.as_posix(), box_size=scale, hashes=hashes).write(star)
