"""MRC stacks, maps and micrographs: any header that is in use can be read, one strict form is written.

mrcfile supplies the header's layout. Its own writer stamps the minute into a label, so that two runs differ, and its reader
turns a header of a version it does not know away; hence the own header here, with fixed labels.
"""

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import ArrayLike, NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path
from cryorestore.io.file_form import require_regular_file, seen_form
from cryorestore.io.stored import Statistics, StoredImages, merged, refuse_not_finite, stored_images
from cryorestore.logs import get_logger

Images = NDArray[np.float32]

HEADER_BYTES = 1024
LABEL = "cryorestore"
_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_WRITTEN_MODES = ("float32", "float16")
_ALLOWED_MODES = "0 (int8), 1 (int16), 2 (float32), 6 (uint16), 12 (float16)"
_SENSIBLE_SIZE = 1 << 24
"""px; a small number read in the wrong byte order is at least this"""
_IMOD_STAMP = 1146047817


@dataclass(frozen=True)
class MrcLayout:
    """What a header says of the data after it: `shape` is (sections, rows, columns), `offset` in bytes."""

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    offset: int
    axes: tuple[int, int, int]
    """axis (1 = x, 2 = y, 3 = z) of columns, rows and sections"""
    pixel_size: float | None
    """angstrom; None where the header says 0"""

    def data(self) -> NDArray[np.generic]:
        """Map the data, opened anew at every call so that no handle is kept; offsets have 64 bits."""
        return np.memmap(self.path, dtype=self.dtype, mode="r", offset=self.offset, shape=self.shape)


def read_layout(path: str | Path) -> MrcLayout:
    """Read a header and compare it with the size of the file.

    Raises
    ------
    CryorestoreError
        If the file is missing or shorter than its header says, or its mode or shape is none that can be read.
    """
    path = Path(path)
    require_regular_file(path)
    try:
        with path.open("rb") as handle:
            raw = handle.read(HEADER_BYTES)
        size = path.stat().st_size
    except OSError as error:
        raise CryorestoreError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if len(raw) < HEADER_BYTES:
        raise CryorestoreError(f"{path}: found {size} bytes, expected at least the {HEADER_BYTES} of an MRC header; copy the file again")
    order, header = _header_in_its_byte_order(raw)
    mode, extended = int(header["mode"]), int(header["nsymbt"])
    if mode not in _DTYPES:
        form = seen_form(raw)
        mend = f"the file {form}" if form else "the header is damaged or the data are not real images"
        raise CryorestoreError(f"{path}: found MRC mode {mode}, expected one of {_ALLOWED_MODES}; {mend}")
    nx, ny, nz = (int(header[name]) for name in ("nx", "ny", "nz"))
    if min(nx, ny, nz) < 1 or extended < 0:
        raise CryorestoreError(
            f"{path}: found {nx} x {ny} x {nz} pixels and an extended header of {extended} bytes, expected positive numbers; copy the file again"
        )
    unsigned = mode == 0 and _is_imod_unsigned(raw, order)
    dtype = np.dtype("u1" if unsigned else order + _DTYPES[mode])
    _check_size(path, size, HEADER_BYTES + extended + nx * ny * nz * dtype.itemsize)
    cell, intervals = float(header["cella"]["x"]), int(header["mx"])
    pixel_size = cell / intervals if intervals > 0 and math.isfinite(cell) and cell > 0 else None
    axes = int(header["mapc"]), int(header["mapr"]), int(header["maps"])
    return MrcLayout(path, (nz, ny, nx), dtype, HEADER_BYTES + extended, axes if sorted(axes) == [1, 2, 3] else (1, 2, 3), pixel_size)


def _header_in_its_byte_order(raw: bytes) -> tuple[str, np.void]:
    """The machine stamp decides; where it is absent or contradicts the rest, the order in which mode and size make sense."""
    stamped = ">" if raw[212] == 0x11 else "<"
    candidates = [(order, np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order))[0]) for order in (stamped, ">" if stamped == "<" else "<")]
    sensible = [
        (order, header)
        for order, header in candidates
        if int(header["mode"]) in _DTYPES and max(int(header[name]) for name in ("nx", "ny", "nz")) < _SENSIBLE_SIZE
    ]
    return (sensible or candidates)[0]


def _is_imod_unsigned(raw: bytes, order: str) -> bool:
    stamp, flags = np.frombuffer(raw, order + "i4", count=2, offset=152)
    return int(stamp) == _IMOD_STAMP and not int(flags) & 1


def _check_size(path: Path, found: int, expected: int) -> None:
    if found < expected:
        raise CryorestoreError(f"{path}: found {found} bytes, expected {expected} from its header; the file is cut short, copy it again")
    if found > expected:
        get_logger().warning("%s: %d bytes more than its header says (found %d, expected %d) are ignored", path, found - expected, found, expected)


def stored_dtype(name: str, *, path: str | Path) -> np.dtype[np.generic]:
    """The type in the file: "float32" (mode 2) or "float16" (mode 12).

    Raises
    ------
    CryorestoreError
        If it is neither; the message names `path`, the file to be written.
    """
    if name not in _WRITTEN_MODES:
        raise CryorestoreError(f"dtype of {path}: found {name!r}, expected one of {', '.join(_WRITTEN_MODES)}; choose one")
    return np.dtype("<" + np.dtype(name).str[1:])


class MrcStackReader:
    """Images of one stack, read when asked for. Holds no open file, so that it can be sent to another process."""

    def __init__(self, path: str | Path) -> None:
        self._layout = read_layout(path)
        self.path = self._layout.path
        self.count = self._layout.shape[0]
        self.shape2d = self._layout.shape[1:]
        self.dtype = self._layout.dtype
        self.pixel_size = self._layout.pixel_size

    def read(self, indices: Sequence[int] | NDArray[np.integer], *, finite: bool = True) -> Images:
        """Read images by their 0-based numbers, in the order asked for, as float32 (k, ny, nx).

        Raises
        ------
        CryorestoreError
            If a number is beyond the stack or, unless `finite` is False, an image holds a value that is not finite.
        """
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        outside = rows[(rows < 0) | (rows >= self.count)]
        if outside.size:
            raise CryorestoreError(
                f"{self.path}: asked for image {int(outside[0]) + 1}, expected 1 to {self.count}; the table does not fit this stack"
            )
        images = self._read_rows(rows)
        if not finite:
            return images
        good = np.isfinite(images).all(axis=(1, 2))
        if not good.all():
            number = int(rows[np.flatnonzero(~good)[0]]) + 1
            raise CryorestoreError(f"{self.path}: image {number} holds NaN or infinite values, expected finite ones; leave it out or write it again")
        return images

    def _read_rows(self, rows: NDArray[np.int64]) -> Images:
        """One read where the images follow each other, as they do in most tables; else image by image, in the order of the file."""
        if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            pixels = self.shape2d[0] * self.shape2d[1]
            start = self._layout.offset + int(rows[0]) * pixels * self.dtype.itemsize
            values = np.fromfile(self.path, self.dtype, len(rows) * pixels, offset=start)
            return np.asarray(values, np.float32).reshape(len(rows), *self.shape2d)
        data = self._layout.data()
        images = np.empty((len(rows), *self.shape2d), np.float32)
        for place in np.argsort(rows, kind="stable"):
            images[place] = data[rows[place]]
        return images


class MrcStackWriter:
    """Write a stack image by image; it appears under its name when all `count` are there, or not at all.

    Parameters
    ----------
    path
        The stack, by custom `.mrcs`.
    count, box_size
        Number of images; pixels along each side.
    pixel_size
        Angstrom per pixel; None where the images differ in it: the header then says 0.
    dtype
        "float32" (mode 2) or "float16" (mode 12).

    Attributes
    ----------
    hashes
        zlib.crc32 of the stored bytes of each image that was appended, 8 hexadecimal digits.
    """

    def __init__(self, path: str | Path, *, count: int, box_size: int, pixel_size: float | None, dtype: str = "float32") -> None:
        if count < 1:
            raise CryorestoreError(f"{path}: a stack of {count} images was asked for, expected at least 1; no particle is left for it")
        self.path, self.count, self.box_size, self.pixel_size = Path(path), count, box_size, pixel_size
        self.dtype = stored_dtype(dtype, path=path)
        self.written = 0
        self.hashes: list[str] = []
        self._statistics = Statistics()
        self._writing: Future[int] | None = None
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        self._temporary = self._exit.enter_context(atomic_path(self.path))
        self._handle = self._exit.enter_context(self._temporary.open("wb"))
        self._handle.write(bytes(HEADER_BYTES))
        self._thread = self._exit.enter_context(ThreadPoolExecutor(1))
        return self

    def append(self, images: ArrayLike | StoredImages) -> None:
        """Add images (k, box, box) or one image (box, box); images of the stack's type may come measured (`stored_images`).

        Measured ones are written while the caller goes on, who must not change them any more.
        """
        values = images.values if isinstance(images, StoredImages) else np.asarray(images)
        values = values[None] if values.ndim == 2 else values
        if values.shape[1:] != (self.box_size, self.box_size) or self.written + len(values) > self.count:
            raise CryorestoreError(
                f"{self.path}: found images of shape {values.shape} after {self.written}, "
                f"expected {self.count} of {self.box_size} x {self.box_size} in all"
            )
        stored = images if isinstance(images, StoredImages) else stored_images(values, self.dtype)
        refuse_not_finite(self.path, stored)
        self._statistics = merged([self._statistics, *stored.statistics])
        self.hashes += stored.hashes
        self._wait()
        self._writing = self._thread.submit(self._handle.write, stored.values.data)
        if stored is not images:
            self._wait()
        self.written += len(values)

    def _wait(self) -> None:
        """Until the last images are written."""
        if self._writing is not None:
            self._writing.result()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:
            self._exit.__exit__(kind, error, traceback)
            return
        with self._exit:
            if self.written != self.count:
                raise CryorestoreError(f"{self.path}: {self.written} images were written, expected {self.count}; nothing is kept")
            self._wait()
            self._handle.seek(0)
            self._handle.write(
                stack_header(count=self.count, box_size=self.box_size, pixel_size=self.pixel_size, dtype=self.dtype, statistics=self._statistics)
            )


def stack_header(*, count: int, box_size: int, pixel_size: float | None, dtype: np.dtype[np.generic], statistics: Statistics) -> bytes:
    """The header of a stack of square images; a pixel size of None (several, or unknown) is written as 0, as the format wants it."""
    return _header((count, box_size, box_size), dtype, pixel_size=pixel_size, volume=False, statistics=statistics)


def _header(shape: tuple[int, int, int], dtype: np.dtype[np.generic], *, pixel_size: float | None, volume: bool, statistics: Statistics) -> bytes:
    nz, ny, nx = shape
    header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    depth, pixel = nz if volume else 1, pixel_size or 0.0
    header["nx"], header["ny"], header["nz"] = nx, ny, nz
    header["mx"], header["my"], header["mz"] = nx, ny, depth
    header["cella"] = (nx * pixel, ny * pixel, depth * pixel)
    header["cellb"] = (90.0, 90.0, 90.0)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["mode"] = {"f4": 2, "f2": 12}[dtype.str[1:]]
    header["dmin"], header["dmax"], header["dmean"], header["rms"] = statistics.minimum, statistics.maximum, statistics.mean, statistics.rms
    header["ispg"], header["nversion"] = int(volume), 20141
    header["map"], header["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    header["nlabl"] = 1
    header["label"][0] = LABEL.encode()
    return header.tobytes()


def write_map(path: str | Path, volume: ArrayLike, *, pixel_size: float) -> None:
    """Write a map (z, y, x) as float32; `pixel_size` in angstrom."""
    _write_whole(Path(path), np.asarray(volume), pixel_size=pixel_size, volume=True, ndim=3)


def write_micrograph(path: str | Path, image: ArrayLike, *, pixel_size: float) -> None:
    """Write one image (y, x) as float32; `pixel_size` in angstrom."""
    _write_whole(Path(path), np.asarray(image), pixel_size=pixel_size, volume=False, ndim=2)


def _write_whole(path: Path, values: NDArray[np.generic], *, pixel_size: float, volume: bool, ndim: int) -> None:
    if values.ndim != ndim:
        raise CryorestoreError(f"{path}: found an array of shape {values.shape} to write, expected {ndim} dimensions")
    stored = stored_images(values.reshape(-1, *values.shape[-2:]), np.dtype("<f4"))
    refuse_not_finite(path, stored)
    nz, ny, nx = stored.values.shape
    header = _header((nz, ny, nx), stored.values.dtype, pixel_size=pixel_size, volume=volume, statistics=merged(stored.statistics))
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        handle.write(header)
        handle.write(stored.values.data)


def read_map(path: str | Path) -> tuple[Images, float | None]:
    """Read a map as float32 (z, y, x), its axes put into that order, and the header's pixel size (angstrom, None where it says 0).

    Raises
    ------
    CryorestoreError
        If the file is damaged (see `read_layout`) or holds a value that is not finite.
    """
    layout = read_layout(path)
    order = tuple(2 - layout.axes.index(axis) for axis in (3, 2, 1))
    return _finite_float32(layout).transpose(order).copy(), layout.pixel_size


def read_micrograph(path: str | Path) -> tuple[Images, float | None]:
    """Read a single image as float32 (y, x), row 0 first, and the header's pixel size (angstrom, None where it says 0).

    Raises
    ------
    CryorestoreError
        If the file is damaged, holds more than one image or a value that is not finite.
    """
    layout = read_layout(path)
    if layout.shape[0] != 1:
        raise CryorestoreError(f"{path}: found {layout.shape[0]} images, expected one micrograph; sum the movie first")
    return _finite_float32(layout)[0], layout.pixel_size


def _finite_float32(layout: MrcLayout) -> Images:
    values = np.array(layout.data(), dtype=np.float32)
    if not np.isfinite(values).all():
        raise CryorestoreError(f"{layout.path}: holds NaN or infinite values, expected finite ones; write it again")
    return values
