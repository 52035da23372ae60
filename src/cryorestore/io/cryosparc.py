"""cryoSPARC's particle tables (.cs): read into RELION's columns, and written from them.

The usual form is a NumPy record array (never pickled). cryoSPARC's own newer form, CSDAT, is left to cryosparc-tools, where that is installed.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path
from cryorestore.io.star import Cells, StarBlock, StarFile
from cryorestore.logs import warn_once

UID = "rlnCryorestoreUid"
Fields = dict[str, NDArray[Any]]

_CTF_FIELDS = {
    "rlnDefocusU": ("ctf/df1_A", 1.0),
    "rlnDefocusV": ("ctf/df2_A", 1.0),
    "rlnDefocusAngle": ("ctf/df_angle_rad", 180 / np.pi),
    "rlnPhaseShift": ("ctf/phase_shift_rad", 180 / np.pi),
    "rlnCtfBfactor": ("ctf/bfactor", 1.0),
    "rlnCtfScalefactor": ("ctf/scale", 1.0),
}
_OPTICS_FIELDS = {
    "rlnVoltage": "ctf/accel_kv",
    "rlnSphericalAberration": "ctf/cs_mm",
    "rlnAmplitudeContrast": "ctf/amp_contrast",
    "rlnImagePixelSize": "blob/psize_A",
}
_UNCONVERTED = ("ctf/tilt_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag")


class HasBlocks(Protocol):
    """A table of particles with its optics: `cryorestore.particles.ParticleTable`."""

    @property
    def particles(self) -> StarBlock:
        """One row a particle."""

    @property
    def optics(self) -> StarBlock:
        """One row an optics group."""


def read_cs(paths: Sequence[str | Path], datadir: str | Path | None = None) -> StarFile:
    """Read a .cs and its passthrough files, joined on uid, as data_optics and data_particles of RELION 3.1.

    Poses (rotation vectors) become Euler angles, shifts (px of alignments3D/psize_A) angstrom, split 0/1 rlnRandomSubset 1/2, blob/idx
    counts from 1, picks (fractions of the micrograph, from its first row and column) px. 2D alignments and aberrations are not converted.

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
    fields = _load(first)
    for path in passthrough:
        _join(fields, _load(path), path)
    missing = [name for name in ("blob/path", "blob/idx", "blob/psize_A") if name not in fields]
    if missing:
        raise CryorestoreError(
            f"{first}: fields {', '.join(missing)} are missing, expected a table of particle images; give its passthrough file too"
        )
    set_fields = [name for name in _UNCONVERTED if name in fields and np.any(fields[name])]
    if set_fields:
        warn_once(f"{first}: {', '.join(set_fields)} are not converted; export a STAR file from cryoSPARC where they matter")
    groups, optics = _optics(fields)
    columns: dict[str, Cells] = {"rlnImageName": _image_names(fields, datadir), "rlnOpticsGroup": groups}
    columns |= _ctf_columns(fields) | _alignment_columns(fields) | _location_columns(fields)
    columns[UID] = [str(uid) for uid in fields["uid"]]
    blocks = {"optics": optics, "particles": columns}
    return StarFile(first, {name: StarBlock.from_columns(values, source=f"{first}, {name}") for name, values in blocks.items()})


def _load(path: Path) -> Fields:
    try:
        with path.open("rb") as handle:
            is_numpy = handle.read(6) == b"\x93NUMPY"
        table = np.load(path, allow_pickle=False) if is_numpy else _load_csdat(path)
        fields = {name: np.asarray(table[name]) for name in (table.dtype.names if is_numpy else table.fields())}
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise CryorestoreError(f"{path}: cannot be read as a cryoSPARC table ({error}); check that it is a whole .cs file") from error
    if "uid" not in fields:
        raise CryorestoreError(f"{path}: field uid is missing, expected it in every cryoSPARC table; check that it is a .cs file")
    return {name: np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values for name, values in fields.items()}


def _load_csdat(path: Path) -> Any:
    try:
        from cryosparc.dataset import Dataset
        from cryosparc.errors import DatasetLoadError
    except ImportError as error:
        raise CryorestoreError(f"{path}: is in cryoSPARC's own form, expected NumPy's; install cryosparc-tools or export a STAR file") from error
    try:
        return Dataset.load(path)
    except DatasetLoadError as error:
        raise ValueError(error.__cause__) from error


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
    present = {name: fields[field] for name, field in _OPTICS_FIELDS.items() if field in fields}
    kinds: dict[tuple[Any, ...], int] = {}
    rows = zip(*(values.tolist() for values in (experiment, box, *present.values())), strict=True)
    groups = np.array([kinds.setdefault(kind, len(kinds)) for kind in rows], np.int64)
    first = [int(np.flatnonzero(groups == group)[0]) for group in kinds.values()]
    columns: dict[str, Cells] = {
        "rlnOpticsGroupName": [f"opticsGroup{number + 1}" for number in range(len(kinds))],
        "rlnOpticsGroup": np.arange(1, len(kinds) + 1),
        **{name: _exact(values[first]) for name, values in present.items()},
        "rlnImageDimensionality": np.full(len(kinds), 2),
    }
    if "blob/shape" in fields:
        columns["rlnImageSize"] = box[first].astype(np.int64)
    return groups + 1, columns


def _image_names(fields: Fields, datadir: str | Path | None) -> list[str]:
    folder = Path() if datadir is None else Path(datadir)
    stacks = (folder / str(path).removeprefix(">") for path in fields["blob/path"])
    return [f"{number + 1:06d}@{stack}" for number, stack in zip(fields["blob/idx"].tolist(), stacks, strict=True)]


def _ctf_columns(fields: Fields) -> dict[str, Cells]:
    return {
        name: _exact(fields[field]) if factor == 1 else fields[field].astype(np.float64) * factor
        for name, (field, factor) in _CTF_FIELDS.items()
        if field in fields
    }


def _alignment_columns(fields: Fields) -> dict[str, Cells]:
    columns: dict[str, Cells] = {}
    if "alignments3D/pose" in fields:
        angles = Rotation.from_rotvec(fields["alignments3D/pose"].astype(np.float64)).as_euler("ZYZ", degrees=True).reshape(-1, 3)
        columns |= {name: angles[:, axis] for axis, name in enumerate(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"))}
    if "alignments3D/shift" in fields:
        pixel = fields.get("alignments3D/psize_A", fields["blob/psize_A"]).astype(np.float64)
        columns |= {name: fields["alignments3D/shift"][:, axis] * pixel for axis, name in enumerate(("rlnOriginXAngst", "rlnOriginYAngst"))}
    if "alignments3D/split" in fields:
        columns["rlnRandomSubset"] = fields["alignments3D/split"].astype(np.int64) + 1
    return columns


def _location_columns(fields: Fields) -> dict[str, Cells]:
    columns: dict[str, Cells] = {}
    if "location/micrograph_path" in fields:
        columns["rlnMicrographName"] = [str(path).removeprefix(">") for path in fields["location/micrograph_path"]]
    if {"location/center_x_frac", "location/center_y_frac", "location/micrograph_shape"} <= fields.keys():
        rows_columns = fields["location/micrograph_shape"].astype(np.float64)
        columns["rlnCoordinateX"] = fields["location/center_x_frac"] * rows_columns[:, 1]
        columns["rlnCoordinateY"] = fields["location/center_y_frac"] * rows_columns[:, 0]
    return columns


def _exact(values: NDArray[Any]) -> list[str]:
    """The shortest text that is the same number again in the array's own precision."""
    return [np.format_float_positional(value, trim="0") for value in values]


def write_cs(path: str | Path, table: HasBlocks) -> None:
    """Write particles as a .cs (NumPy form); without rlnCryorestoreUid, a uid is drawn from the image's name.

    Raises
    ------
    CryorestoreError
        If the table names no images, or the optics table has no pixel size or image size.
    """
    particles, optics = table.particles, table.optics
    group_row = {group: row for row, group in enumerate(optics.column("rlnOpticsGroup"))}
    rows = np.array([group_row[group] for group in particles.column("rlnOpticsGroup")], np.int64)
    names = particles.column("rlnImageName")
    numbers, stacks = zip(*(name.split("@", 1) for name in names), strict=True) if names else ((), ())
    uids = particles.column(UID) if UID in particles else [_uid_of(name) for name in names]
    fields: dict[str, NDArray[Any]] = {
        "uid": np.array([int(uid) for uid in uids], np.uint64),
        "blob/path": np.array([stack.encode() for stack in stacks], np.bytes_),
        "blob/idx": np.array([int(number) - 1 for number in numbers], np.uint32),
        "blob/shape": np.repeat(optics.ints("rlnImageSize")[rows, None], 2, axis=1).astype(np.uint32),
        "ctf/exp_group_id": optics.ints("rlnOpticsGroup")[rows].astype(np.uint32),
    }
    fields |= {field: optics.floats(name)[rows].astype(np.float32) for name, field in _OPTICS_FIELDS.items() if name in optics}
    fields |= {field: (particles.floats(name) / factor).astype(np.float32) for name, (field, factor) in _CTF_FIELDS.items() if name in particles}
    fields |= _alignment_fields(particles, fields["blob/psize_A"])
    records = np.zeros(len(names), np.dtype([(name, values.dtype.str, values.shape[1:]) for name, values in fields.items()]))
    for name, values in fields.items():
        records[name] = values
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, records, allow_pickle=False)


def _uid_of(name: str) -> str:
    return str(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))


def _alignment_fields(particles: StarBlock, pixel_size: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    fields: dict[str, NDArray[Any]] = {}
    if "rlnAngleRot" in particles:
        angles = np.stack([particles.floats(name) for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")], axis=1)
        fields["alignments3D/pose"] = Rotation.from_euler("ZYZ", angles, degrees=True).as_rotvec().astype(np.float32)
    if "rlnOriginXAngst" in particles:
        origins = np.stack([particles.floats(name) for name in ("rlnOriginXAngst", "rlnOriginYAngst")], axis=1)
        fields["alignments3D/shift"] = (origins / pixel_size[:, None]).astype(np.float32)
        fields["alignments3D/psize_A"] = pixel_size
    if "rlnRandomSubset" in particles:
        fields["alignments3D/split"] = (particles.ints("rlnRandomSubset") - 1).astype(np.uint32)
    return fields
