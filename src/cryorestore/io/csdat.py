"""cryoSPARC's own form of particle tables, CSDAT.

The layout is that of cryosparc-tools 5.0: a magic number, a header in JSON, column after column, and a heap of strings that columns of strings
point into. That library trusts the file: a table that is cut short ends the process with a segmentation fault. Hence an own reader.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"\x95CSDAT"
_PLACE = np.dtype("<u8")
"""of a string in the heap"""
_LARGEST_RATIO = 255
"""of LZ4: bytes that come out of one that goes in"""


def parse_csdat(content: bytes) -> dict[str, NDArray[Any]]:
    """The columns of a table by name; strings as NumPy's.

    Parameters
    ----------
    content
        The whole file.

    Raises
    ------
    ValueError
        If the content contradicts itself: what was found, and what its header says.
    """
    start = len(MAGIC) + 4
    end = start + int.from_bytes(content[len(MAGIC) : start], "little")
    count, fields, compressed = _header(content[start:end])
    if count > len(content):
        raise ValueError(f"its header says {count} rows, and the file has {len(content)} bytes")
    columns: dict[str, NDArray[Any]] = {}
    for name, kind, shape in fields:
        stored_kind = _PLACE if kind.kind == "O" else kind
        size = count * math.prod(shape) * stored_kind.itemsize
        stored = b""
        if count:
            length = int.from_bytes(content[end : end + 4], "little")
            stored = content[end + 4 : end + 4 + length]
            end += 4 + length
        if name in compressed and 0 < size <= _LARGEST_RATIO * len(stored):
            stored = _decompressed(name, stored, size)
        if len(stored) != size:
            raise ValueError(f"field {name} has {len(stored)} bytes, expected {size} for {count} rows")
        columns[name] = np.frombuffer(stored, stored_kind).reshape(count, *shape)
    texts = {name for name, kind, _ in fields if kind.kind == "O"}
    return {name: _texts(name, values, content[end:]) if name in texts else values for name, values in columns.items()}


def _header(raw: bytes) -> tuple[int, list[tuple[str, np.dtype[Any], tuple[int, ...]]], set[str]]:
    try:
        header = json.loads(raw)
        count = int(header["length"])
        fields = [_field(*field) for field in header["dtype"]]
        compressed = set(header["compressed_fields"]) if header["compression"] == "lz4" else set()
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"its header cannot be understood ({type(error).__name__}: {error})") from error
    if count < 0:
        raise ValueError(f"its header says {count} rows")
    return count, fields, compressed


def _field(name: str, kind: str, shape: Any = ()) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    dtype, dimensions = np.dtype(str(kind)), tuple(int(length) for length in shape)
    if dtype.kind not in "fiucO" or any(length < 1 for length in dimensions):
        raise ValueError(f"field {name} is of {kind} {dimensions}")
    return str(name), dtype, dimensions


def _decompressed(name: str, stored: bytes, size: int) -> bytes:
    import imagecodecs  # not in the environments of the steps that read no such table

    try:
        return bytes(imagecodecs.lz4_decode(stored, header=False, out=size))
    except (imagecodecs.Lz4Error, ValueError) as error:
        raise ValueError(f"field {name} cannot be decompressed ({error})") from error


def _texts(name: str, places: NDArray[Any], heap: bytes) -> NDArray[Any]:
    """The strings at some places of the heap, each of which ends with a zero byte."""
    unique, inverse = np.unique(places, return_inverse=True)
    return np.array(list(_strings(name, unique.tolist(), heap)), np.str_)[inverse.reshape(places.shape)]


def _strings(name: str, places: list[int], heap: bytes) -> Iterator[str]:
    for place in places:
        end = heap.find(b"\0", place)
        if end < 0:
            raise ValueError(f"field {name} points at byte {place} of a heap of {len(heap)} bytes of strings")
        yield heap[place:end].decode("utf-8")
