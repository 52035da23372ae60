"""What a file is, before it is read: no folder, pipe or device, and not packed in a form that nobody unpacks here."""

import stat
from pathlib import Path

from cryorestore.errors import CryorestoreError

_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))
_MAGIC = (
    (b"\x1f\x8b", "is gzipped; unpack it with gunzip"),
    (b"BZh", "is packed by bzip2; unpack it with bunzip2"),
    (b"\xfd7zXZ", "is packed by xz; unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "is packed by zstd; unpack it with unzstd"),
    (b"PK\x03\x04", "is a ZIP archive; such are .npz, and .pt, PyTorch's pickles, which are never loaded"),
    (b"\x89HDF", "is HDF5; convert it"),
    (b"II*\x00", "is a TIFF file; name it .tif"),
    (b"MM\x00*", "is a TIFF file; name it .tif"),
    (b"\x93NUMPY", "is a NumPy array"),
    (b"\x95CSDAT", "is a cryoSPARC table; name it .cs"),
    (b"\x80", "is a pickle, which is never loaded"),
)


def require_regular_file(path: str | Path) -> None:
    """Follow links, and refuse what is no regular file: to open a pipe may wait for ever, a device has no end.

    Raises
    ------
    CryorestoreError
        If there is nothing, or something else.
    """
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise CryorestoreError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:  # a zero byte in the name
        raise CryorestoreError(f"{str(path)!r}: cannot be a file's name ({error}); mend the name") from error
    if not stat.S_ISREG(mode):
        found = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise CryorestoreError(f"{path}: found {found}, expected a regular file; give a file")


def seen_form(head: bytes) -> str | None:
    """What a file is by its first bytes, and what to do: words that go on a sentence "the file ..."; None where they are of no known form."""
    return next((words for magic, words in _MAGIC if head.startswith(magic)), None)
