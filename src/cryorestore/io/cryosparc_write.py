"""Particles in RELION's columns written as a .cs: cryosparc-tools' `Dataset` reads it, and cryoSPARC through it or as an exported group."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path
from cryorestore.geometry import euler_to_rotation_vectors
from cryorestore.io.binding import BLOB_SIGN
from cryorestore.io.cryosparc import CTF_FIELDS, MICROGRAPH_SIZE, OPTICS_FIELDS, PICK_FIELDS, UID
from cryorestore.io.cryosparc_fields import Fields
from cryorestore.io.relion import ANGLES, PREMULTIPLIED, unmodelled_columns
from cryorestore.io.star import StarBlock
from cryorestore.logs import warn_once

Shapes = Mapping[str, tuple[int, int]]
_ROWS = 1 << 14
"""Written at a time"""
_ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")
_NEUTRAL_CTF = {"ctf/scale_const": 1, "ctf/shift_A": 2, "ctf/tilt_A": 2, "ctf/trefoil_A": 2, "ctf/tetra_A": 4, "ctf/anisomag": 4}
"""Fields that cryoSPARC expects beside the others, zero where nothing is known, and their lengths."""


def write_cs(path: str | Path, *, particles: StarBlock, optics: StarBlock, uids: NDArray[np.uint64], micrograph_shapes: Shapes | None = None) -> None:
    """Write particles as a .cs (NumPy form).

    Parameters
    ----------
    path
        Output.
    particles, optics
        RELION 3.1's columns.
    uids
        cryoSPARC's number of each particle; rlnCryorestoreUid in the table goes before it.
    micrograph_shapes
        Rows and columns of the micrographs by name (px), for picks become fractions of them; rlnCryorestoreMicrographSizeX/Y go before it.
        A particle's coordinates are left out where neither knows all micrographs.

    Raises
    ------
    CryorestoreError
        If an image name cannot be understood, two uids are equal, or the optics table has no pixel size or, for images, no image size.
    """
    uids = np.array([int(cell) for (cell,) in particles.cells(UID)], np.uint64) if UID in particles else uids
    _check_uids(uids, particles)
    _warn_of_losses(path, particles, optics)
    particles = particles.without_columns([name for name in ("rlnRandomSubset", "rlnClassNumber") if not _counts_from_one(particles, name)])
    shapes = _complete(micrograph_shapes or {}, particles)
    widths = _text_widths(particles)
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        dtype: np.dtype[Any] | None = None
        for begin in range(0, max(len(particles), 1), _ROWS):
            part = particles.take(slice(begin, begin + _ROWS))
            fields = {"uid": uids[begin : begin + _ROWS], **_fields(part, optics, shapes)}
            if dtype is None:
                kinds = {name: widths.get(name, values.dtype.str) for name, values in fields.items()}
                dtype = np.dtype([(name, kinds[name], values.shape[1:]) for name, values in fields.items()])
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (len(particles),)}
                np.lib.format.write_array_header_1_0(handle, header)
            records = np.zeros(len(part), dtype)
            for name, values in fields.items():
                records[name] = values
            handle.write(records.tobytes())


def _fields(particles: StarBlock, optics: StarBlock, shapes: Shapes) -> Fields:
    """All fields but uid of some rows."""
    group_row = {group: row for row, group in enumerate(optics.ints("rlnOpticsGroup").tolist())}
    groups = particles.ints("rlnOpticsGroup")
    rows = np.array([group_row[group] for group in groups.tolist()], np.int64)
    fields: Fields = _blob_fields(particles, optics, rows) if "rlnImageName" in particles else {}
    for name, field in OPTICS_FIELDS.items():
        if name in particles or name in optics:
            values = particles.floats(name) if name in particles else optics.floats(name)[rows]
            fields[field] = values.astype(np.float32)
    if "rlnDefocusU" in particles:
        fields |= _ctf_fields(particles, groups)
    fields |= _alignment_fields(particles, fields) | _location_fields(particles, shapes)
    if not ("blob/path" in fields or fields.keys() >= PICK_FIELDS):
        raise CryorestoreError(
            f"{particles.source}: neither image names nor picks on micrographs whose size is known, expected either in a .cs; "
            "give a table with rlnImageName, or micrographs as MRC files"
        )
    return fields


def _counts_from_one(particles: StarBlock, name: str) -> bool:
    """Whether a column is there and all of it can be counted from 0."""
    return name in particles and bool((particles.ints(name) > 0).all())


def _complete(shapes: Shapes, particles: StarBlock) -> Shapes:
    """The micrographs' sizes, if they are known of all."""
    names = {name for (name,) in particles.cells("rlnMicrographName")} if "rlnMicrographName" in particles else set()
    return shapes if names <= shapes.keys() else {}


def _text_widths(particles: StarBlock) -> dict[str, str]:
    """NumPy's type of the fields that hold text, wide enough for every row."""
    texts: dict[str, Iterator[str]] = {}
    if "rlnImageName" in particles:
        texts["blob/path"] = (cell.partition("@")[2] for (cell,) in particles.cells("rlnImageName"))
    if "rlnMicrographName" in particles:
        texts["location/micrograph_path"] = (cell for (cell,) in particles.cells("rlnMicrographName"))
    widths = {"ctf/type": len("imported"), **{field: max((len(_encoded(text)) for text in cells), default=1) for field, cells in texts.items()}}
    return {field: f"S{max(width, 1)}" for field, width in widths.items()}


def _warn_of_losses(path: str | Path, particles: StarBlock, optics: StarBlock) -> None:
    lost = unmodelled_columns(optics, particles)
    if PREMULTIPLIED in optics and optics.floats(PREMULTIPLIED).any():
        lost.append(PREMULTIPLIED)
    if lost:
        warn_once(f"{path}: a .cs does not say {', '.join(lost)}; take the STAR file beside it where they matter")


def _pixel_sizes(fields: Fields, particles: StarBlock) -> NDArray[Any]:
    """What shifts are counted in."""
    known = [fields[name] for name in ("blob/psize_A", "location/micrograph_psize_A") if name in fields]
    if not known:
        raise CryorestoreError(f"{particles.source}: no pixel size, expected _rlnImagePixelSize in data_optics; add it or set pixel_size (angstrom)")
    return known[0]


def _check_uids(uids: NDArray[np.uint64], particles: StarBlock) -> None:
    values, counts = np.unique(uids, return_counts=True)
    if (counts > 1).any():
        twice = values[counts > 1][0]
        raise CryorestoreError(f"{particles.source}: the uid {twice} stands there twice, expected each once; remove the particle's copy")


def _blob_fields(particles: StarBlock, optics: StarBlock, rows: NDArray[np.int64]) -> Fields:
    stacks, numbers = [], []
    for row, (name,) in enumerate(particles.cells("rlnImageName")):
        number, at, stack = name.partition("@")
        if not at or not number.isdecimal():
            raise CryorestoreError(f"{particles.source}: row {row + 1}: found rlnImageName {name!r}, expected number@stack; mend that row")
        numbers.append(int(number) - 1)
        stacks.append(stack)
    return {
        "blob/path": _texts(stacks),
        "blob/idx": np.array(numbers, np.uint32),
        "blob/shape": np.repeat(optics.ints("rlnImageSize")[rows, None], 2, axis=1).astype(np.uint32),
        "blob/sign": (particles.floats(BLOB_SIGN) if BLOB_SIGN in particles else np.ones(len(rows))).astype(np.float32),
        "blob/import_sig": np.zeros(len(rows), np.uint64),
    }


def _texts(texts: Sequence[str]) -> NDArray[Any]:
    return np.array([_encoded(text) for text in texts], np.bytes_)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _ctf_fields(particles: StarBlock, groups: NDArray[np.int64]) -> Fields:
    count = len(particles)
    values: Fields = {"ctf/type": _texts(["imported"] * count), "ctf/exp_group_id": groups.astype(np.uint32)}
    values |= {field: (particles.floats(name) / factor).astype(np.float32) for name, (field, factor) in CTF_FIELDS.items() if name in particles}
    values.setdefault("ctf/phase_shift_rad", np.zeros(count, np.float32))
    values.setdefault("ctf/bfactor", np.zeros(count, np.float32))
    values.setdefault("ctf/scale", np.ones(count, np.float32))
    return values | {name: np.zeros((count, length) if length > 1 else count, np.float32) for name, length in _NEUTRAL_CTF.items()}


def _alignment_fields(particles: StarBlock, others: Fields) -> Fields:
    fields: Fields = {}
    count = len(particles)
    if all(name in particles for name in ANGLES):
        pixel_size = _pixel_sizes(others, particles)
        angles = np.stack([particles.floats(name) for name in ANGLES], axis=1)
        fields["alignments3D/pose"] = euler_to_rotation_vectors(angles).astype(np.float32)
        origins = np.stack([particles.floats(name) if name in particles else np.zeros(count) for name in _ORIGINS], axis=1)
        fields["alignments3D/shift"] = (origins / pixel_size[:, None]).astype(np.float32)
        fields["alignments3D/psize_A"] = pixel_size
    for name, field in (("rlnRandomSubset", "alignments3D/split"), ("rlnClassNumber", "alignments3D/class")):
        if name in particles:
            fields[field] = (particles.ints(name) - 1).astype(np.uint32)
    return fields


def _location_fields(particles: StarBlock, shapes: Shapes) -> Fields:
    if "rlnMicrographName" not in particles:
        return {}
    names = particles.column("rlnMicrographName")
    fields: Fields = {"location/micrograph_path": _texts(names)}
    if all(name in particles for name in MICROGRAPH_SIZE):
        shape = np.stack([particles.ints(name) for name in reversed(MICROGRAPH_SIZE)], axis=1)
    elif shapes:
        shape = np.array([shapes[name] for name in names], np.int64).reshape(-1, 2)
    else:
        return fields
    if not ("rlnCoordinateX" in particles and "rlnCoordinateY" in particles):
        return fields
    fields["location/micrograph_shape"] = shape.astype(np.uint32)
    fields["location/center_x_frac"] = (particles.floats("rlnCoordinateX") / shape[:, 1]).astype(np.float32)
    fields["location/center_y_frac"] = (particles.floats("rlnCoordinateY") / shape[:, 0]).astype(np.float32)
    return fields
