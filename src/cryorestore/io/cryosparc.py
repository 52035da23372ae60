"""cryoSPARC's particle tables (.cs) read into RELION's columns; `cryosparc_write` goes the other way.

The usual form is a NumPy record array (never pickled), cryoSPARC's newer one CSDAT.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.geometry import rotation_vectors_to_euler
from cryorestore.io.binding import BLOB_SIGN
from cryorestore.io.cryosparc_fields import Fields, load_fields
from cryorestore.io.star import Cells, StarBlock, StarFile
from cryorestore.logs import warn_once

UID = "rlnCryorestoreUid"
MICROGRAPH_SIZE = ("rlnCryorestoreMicrographSizeX", "rlnCryorestoreMicrographSizeY")
"""Px: what fractions of the micrograph are fractions of"""

CTF_FIELDS = {
    "rlnDefocusU": ("ctf/df1_A", 1.0),
    "rlnDefocusV": ("ctf/df2_A", 1.0),
    "rlnDefocusAngle": ("ctf/df_angle_rad", 180 / np.pi),
    "rlnPhaseShift": ("ctf/phase_shift_rad", 180 / np.pi),
    "rlnCtfBfactor": ("ctf/bfactor", 1.0),
    "rlnCtfScalefactor": ("ctf/scale", 1.0),
}
OPTICS_FIELDS = {
    "rlnVoltage": "ctf/accel_kv",
    "rlnSphericalAberration": "ctf/cs_mm",
    "rlnAmplitudeContrast": "ctf/amp_contrast",
    "rlnImagePixelSize": "blob/psize_A",
    "rlnMicrographPixelSize": "location/micrograph_psize_A",
}
PICK_FIELDS = {"location/micrograph_path", "location/micrograph_shape", "location/center_x_frac", "location/center_y_frac"}
_LARGEST_TURN = 1000.0
"""Radians: rotation vectors are a few; beyond this they are no turn that single precision can tell"""
_UNCONVERTED = ("ctf/tilt_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag")


def read_cs(paths: Sequence[str | Path], datadir: str | Path | None = None) -> StarFile:
    """Read a .cs and its passthrough files, joined on uid, as data_optics and data_particles of RELION 3.1.

    Poses (rotation vectors) become Euler angles, shifts (px of alignments3D/psize_A) angstrom, split 0/1 rlnRandomSubset 1/2, blob/idx and
    class count from 1, picks px: they are fractions of the micrograph from the lower left corner, which in an MRC file is the first row and
    column. There need not be images of the picks. A blob/sign of -1 is kept in rlnCryorestoreBlobSign. 2D alignments and aberrations are
    not converted.

    Parameters
    ----------
    paths
        The particles first, passthrough files after.
    datadir
        Folder put before relative image paths: cryoSPARC's project folder.

    Raises
    ------
    CryorestoreError
        If a file cannot be read, a passthrough lacks particles, or images are not described.
    """
    first, *passthrough = [Path(path) for path in paths]
    fields = load_fields(first)
    for path in passthrough:
        _join(fields, load_fields(path), path)
    _check_content(fields, first)
    set_fields = [name for name in _UNCONVERTED if name in fields and np.any(fields[name])]
    if set_fields:
        warn_once(f"{first}: {', '.join(set_fields)} are not converted; export a STAR file from cryoSPARC where they matter")
    groups, optics = _optics(fields)
    columns: dict[str, Cells] = {"rlnImageName": _image_names(fields, datadir)} if "blob/path" in fields else {}
    columns["rlnOpticsGroup"] = groups
    columns |= _ctf_columns(fields) | _alignment_columns(fields, first) | _location_columns(fields) | _sign_column(fields, first)
    columns[UID] = [str(uid) for uid in fields["uid"]]
    blocks = {"optics": optics, "particles": columns}
    return StarFile(first, {name: StarBlock.from_columns(values, source=f"{first}, {name}") for name, values in blocks.items()})


def _check_content(fields: Fields, path: Path) -> None:
    if "blob/path" not in fields and fields.keys() >= PICK_FIELDS:
        return
    missing = [name for name in ("blob/path", "blob/idx", "blob/psize_A") if name not in fields]
    if missing:
        raise CryorestoreError(
            f"{path}: fields {', '.join(missing)} are missing, expected a table of particle images or of picks; give its passthrough file too"
        )


def _join(fields: Fields, other: Fields, path: Path) -> None:
    row_of = {uid: row for row, uid in enumerate(other["uid"].tolist())}
    rows = [row_of.get(uid, -1) for uid in fields["uid"].tolist()]
    absent = rows.count(-1)
    if absent:
        raise CryorestoreError(
            f"{path}: {absent} of {len(rows)} particles are not in it (by uid), expected all; give the passthrough file of the same job"
        )
    fields |= {name: values[rows] for name, values in other.items() if name not in fields}


def _optics(fields: Fields) -> tuple[NDArray[np.int64], dict[str, Cells]]:
    """Group particles by exposure group and microscope values."""
    count = len(fields["uid"])
    experiment = fields.get("ctf/exp_group_id", np.zeros(count, np.uint32))
    box = fields["blob/shape"][:, -1] if "blob/shape" in fields else np.zeros(count, np.uint32)
    present = {name: fields[field] for name, field in OPTICS_FIELDS.items() if field in fields}
    kinds: dict[tuple[Any, ...], int] = {}
    rows = zip(*(values.tolist() for values in (experiment, box, *present.values())), strict=True)
    places = np.array([kinds.setdefault(kind, len(kinds)) for kind in rows], np.int64)
    _, first = np.unique(places, return_index=True)
    numbers = _group_numbers(experiment[first])
    columns: dict[str, Cells] = {
        "rlnOpticsGroupName": [f"opticsGroup{number}" for number in numbers.tolist()],
        "rlnOpticsGroup": numbers,
        **{name: _exact(values[first]) for name, values in present.items()},
        "rlnImageDimensionality": np.full(len(kinds), 2),
    }
    if "blob/shape" in fields:
        columns["rlnImageSize"] = box[first].astype(np.int64)
    return numbers[places] if len(numbers) else places, columns


def _group_numbers(experiment: NDArray[Any]) -> NDArray[np.int64]:
    """The exposure groups' own numbers, where they can stand for optics groups; otherwise from 1 in order of appearance."""
    own = experiment.astype(np.int64)
    usable = len(np.unique(own)) == len(own) and bool((own >= 1).all())
    return own if usable else np.arange(1, len(own) + 1)


def _image_names(fields: Fields, datadir: str | Path | None) -> list[str]:
    folder = Path() if datadir is None else Path(datadir)
    stacks = (folder / str(path).removeprefix(">") for path in fields["blob/path"])
    return [f"{number + 1:06d}@{stack}" for number, stack in zip(fields["blob/idx"].tolist(), stacks, strict=True)]


def _ctf_columns(fields: Fields) -> dict[str, Cells]:
    return {
        name: _exact(fields[field]) if factor == 1 else fields[field].astype(np.float64) * factor
        for name, (field, factor) in CTF_FIELDS.items()
        if field in fields
    }


def _alignment_columns(fields: Fields, path: Path) -> dict[str, Cells]:
    columns: dict[str, Cells] = {}
    if "alignments3D/pose" in fields:
        _check_poses(fields["alignments3D/pose"], path)
        angles = rotation_vectors_to_euler(fields["alignments3D/pose"])
        columns |= {name: angles[:, axis] for axis, name in enumerate(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"))}
    if "alignments3D/shift" in fields:
        known = [fields[name] for name in ("alignments3D/psize_A", "blob/psize_A", "location/micrograph_psize_A") if name in fields]
        if not known:
            raise CryorestoreError("alignments3D/shift: no field says of which pixel size, expected alignments3D/psize_A; give the passthrough file")
        pixel = known[0].astype(np.float64)
        columns |= {name: fields["alignments3D/shift"][:, axis] * pixel for axis, name in enumerate(("rlnOriginXAngst", "rlnOriginYAngst"))}
    if "alignments3D/split" in fields:
        columns["rlnRandomSubset"] = fields["alignments3D/split"].astype(np.int64) + 1
    if "alignments3D/class" in fields:
        columns["rlnClassNumber"] = fields["alignments3D/class"].astype(np.int64) + 1
    return columns


def _check_poses(vectors: NDArray[Any], path: Path) -> None:
    wrong = np.flatnonzero(~(np.abs(vectors.reshape(-1, 3)) <= _LARGEST_TURN).all(axis=1))
    if wrong.size:
        found = ", ".join(f"{value:g}" for value in vectors[wrong[0]].tolist())
        raise CryorestoreError(
            f"{path}: row {int(wrong[0]) + 1}: found alignments3D/pose {found}, expected a rotation vector in radians; export the particles again"
        )


def _location_columns(fields: Fields) -> dict[str, Cells]:
    columns: dict[str, Cells] = {}
    if "location/micrograph_path" in fields:
        columns["rlnMicrographName"] = [str(path).removeprefix(">") for path in fields["location/micrograph_path"]]
    if fields.keys() >= PICK_FIELDS:
        rows_columns = fields["location/micrograph_shape"].astype(np.int64)
        columns["rlnCoordinateX"] = fields["location/center_x_frac"].astype(np.float64) * rows_columns[:, 1]
        columns["rlnCoordinateY"] = fields["location/center_y_frac"].astype(np.float64) * rows_columns[:, 0]
        columns |= {name: rows_columns[:, axis] for name, axis in zip(MICROGRAPH_SIZE, (1, 0), strict=True)}
    return columns


def _sign_column(fields: Fields, path: Path) -> dict[str, Cells]:
    """rlnCryorestoreBlobSign, where an image is to be multiplied by -1 (dark particles in the stack)."""
    signs = fields.get("blob/sign", np.ones(len(fields["uid"])))
    wrong = np.flatnonzero(np.abs(signs) != 1)
    if wrong.size:
        raise CryorestoreError(f"{path}: row {int(wrong[0]) + 1}: found blob/sign {signs[wrong[0]]:g}, expected 1 or -1; export the particles again")
    return {BLOB_SIGN: signs.astype(np.int64)} if (signs < 0).any() else {}


def _exact(values: NDArray[Any]) -> list[str]:
    """The shortest text that is the same number again in the array's own precision."""
    return [np.format_float_positional(value, trim="0") for value in values]
