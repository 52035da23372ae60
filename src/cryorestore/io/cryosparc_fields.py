"""The fields of cryoSPARC's tables as arrays, from NumPy's form or from CSDAT; nothing is unpickled."""

from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.io import csdat
from cryorestore.io.file_form import require_regular_file, seen_form

Fields = dict[str, NDArray[Any]]

NUMPY_MAGIC = b"\x93NUMPY"
_FAULTS = (OSError, ValueError, EOFError, TypeError, SyntaxError, OverflowError, TokenError)
_TEXTS = {"blob/path", "location/micrograph_path"}
_WHOLE = {"uid", "blob/idx", "blob/shape", "ctf/exp_group_id", "alignments3D/split", "alignments3D/class", "location/micrograph_shape"}
_LENGTHS = {"blob/shape": 2, "location/micrograph_shape": 2, "alignments3D/pose": 3, "alignments3D/shift": 2}
"""values a row, where there is not one"""
_NUMBERS = {
    *("blob/psize_A", "blob/sign", "alignments3D/pose", "alignments3D/shift", "alignments3D/psize_A"),
    *("location/micrograph_psize_A", "location/center_x_frac", "location/center_y_frac"),
    *("ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad", "ctf/phase_shift_rad", "ctf/bfactor", "ctf/scale"),
    *("ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast", "ctf/tilt_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag"),
}


def load_fields(path: Path) -> Fields:
    """Read every field of a table; strings become text.

    Raises
    ------
    CryorestoreError
        If the file is none or is damaged, a uid is missing or stands there twice, or a field that is used has another form than cryoSPARC's.
    """
    require_regular_file(path)
    try:
        fields = _decoded(_loaded(path))
    except _FAULTS as error:
        raise CryorestoreError(f"{path}: cannot be read as a cryoSPARC table ({error}); check that it is a whole .cs file") from error
    if "uid" not in fields:
        raise CryorestoreError(f"{path}: field uid is missing, expected it in every cryoSPARC table; check that it is a .cs file")
    _check_forms(fields, path)
    uids, first, counts = np.unique(fields["uid"], return_index=True, return_counts=True)
    if (counts > 1).any():
        place = int(np.flatnonzero(counts > 1)[0])
        raise CryorestoreError(
            f"{path}: row {int(first[place]) + 1}: found uid {uids[place]} {counts[place]} times, "
            "expected each particle once; export the particles again"
        )
    return fields


def _loaded(path: Path) -> Fields:
    with path.open("rb") as handle:
        head = handle.read(len(csdat.MAGIC))
    if head == csdat.MAGIC:
        return csdat.parse_csdat(path.read_bytes())
    if head != NUMPY_MAGIC:
        raise ValueError(seen_form(head) or f"it begins with {head!r}")
    table = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: numpy compares its length with the file's before anything is allocated
    if table.ndim != 1 or table.dtype.names is None:
        raise ValueError(f"it holds an array of {table.dtype} and shape {table.shape}, no records")
    return {name: np.array(table[name]) for name in table.dtype.names}


def _decoded(fields: Fields) -> Fields:
    return {name: np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values for name, values in fields.items()}


def _check_forms(fields: Fields, path: Path) -> None:
    for name in fields.keys() & (_TEXTS | _WHOLE | _NUMBERS):
        values = fields[name]
        kinds = "U" if name in _TEXTS else "iu" if name in _WHOLE else "iuf"
        length = _LENGTHS.get(name)
        shape_fits = values.shape[1:] == (() if length is None else (length,)) or name.startswith("ctf/")
        if values.dtype.kind not in kinds or not shape_fits:
            expected = f"{length or 1} {'text' if kinds == 'U' else 'whole number' if kinds == 'iu' else 'number'}"
            raise CryorestoreError(
                f"{path}: field {name}: found {values.dtype} of shape {values.shape[1:]} in a row, expected {expected}; export the particles again"
            )
