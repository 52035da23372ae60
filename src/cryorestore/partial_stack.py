"""A stack that several micrographs' boxes are written into, in any order, and that a later run takes up where an earlier one stopped.

Beside it lies a journal: one line for every micrograph that is finished, with what the micrograph and the settings were, the statistics and the
hashes of its boxes. Nothing is synchronized to the disk: boxes are compared with their hashes before they are taken over, so that what a crash left
out is done again.
"""

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import HEADER_BYTES, stack_header
from cryorestore.io.stored import Statistics, StoredImages, image_hashes
from cryorestore.logs import get_logger

JOURNAL, STACK = "journal.jsonl", "particles.partial.mrcs"
_COPIED_BYTES = 1 << 22


@dataclass(frozen=True)
class Finished:
    """What is known of a micrograph whose boxes are in the stack."""

    statistics: Statistics
    """of the good boxes"""
    hashes: str
    """8 hexadecimal digits a box"""
    bad: list[int]
    """places of boxes that are not finite, counted from 0 within the micrograph; the stack has zeros there until `remove_bad`"""

    @property
    def count(self) -> int:
        """Boxes, bad ones among them."""
        return len(self.hashes) // 8

    def good_hashes(self) -> list[str]:
        """Of the good boxes, in their order."""
        bad = set(self.bad)
        return [self.hashes[8 * place : 8 * place + 8] for place in range(self.count) if place not in bad]


class PartialStack:
    """A stack of `count` images in a folder of its own, and its journal; only one process at a time has it open.

    Parameters
    ----------
    folder
        Kept when the run fails or is killed; `remove` removes it.
    count, box_size, dtype
        Of the stack.
    keys
        For each micrograph what its boxes depend on: a line of the journal with another key is not used.
    """

    def __init__(self, folder: Path, *, count: int, box_size: int, dtype: np.dtype[np.generic], keys: Sequence[str]) -> None:
        self.folder, self.count, self.box_size, self.dtype, self._keys = folder, count, box_size, dtype, list(keys)
        self.image_bytes = box_size * box_size * dtype.itemsize
        self.path = folder / STACK
        self._found: dict[str, Finished] = {}
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._journal = (self.folder / JOURNAL).open("a+b")
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._journal.close()
            raise CryorestoreError(f"{self.folder}: another process extracts into it; wait for its end or choose another work_dir") from error
        if self.path.exists() and self.path.stat().st_nlink > 1:  # published by a run that was killed before it tidied up: not to be written to
            self.path.unlink()
        if self.path.exists():
            self._read_journal()
        else:
            self._journal.truncate(0)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        os.ftruncate(self._descriptor, HEADER_BYTES + self.count * self.image_bytes)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        os.close(self._descriptor)
        self._journal.close()

    def _read_journal(self) -> None:
        self._journal.seek(0)
        lines = self._journal.read().splitlines(keepends=True)
        wanted, kept = set(self._keys), list[bytes]()
        for line in lines:
            read = _parsed(line)
            if read is not None and read[0] in wanted:
                self._found[read[0]] = read[1]
                kept.append(line)
        if lines:
            say = get_logger().info if len(kept) == len(lines) else get_logger().warning
            left_out = f"; {len(lines) - len(kept)} lines are damaged or of other files or settings and discarded" if len(kept) < len(lines) else ""
            say("%s: %d of %d micrographs are there from an earlier run%s", self.folder, len(self._found), len(self._keys), left_out)
        if len(kept) < len(lines):
            self._journal.truncate(0)
            self._journal.writelines(kept)
            self._journal.flush()

    def take_over(self, number: int, *, first: int) -> Finished | None:
        """What an earlier run wrote for micrograph `number`, whose boxes begin at `first`, if the stack still holds it; else None."""
        finished = self._found.get(self._keys[number])
        if finished is None:
            return None
        step, place = max(1, _COPIED_BYTES // self.image_bytes), 0
        while place < finished.count:
            count = min(step, finished.count - place)
            raw = os.pread(self._descriptor, count * self.image_bytes, self._offset(first + place))
            if len(raw) < count * self.image_bytes:
                return None
            if "".join(image_hashes(np.frombuffer(raw, np.uint8).reshape(count, -1))) != finished.hashes[8 * place : 8 * (place + count)]:
                return None
            place += count
        return finished

    def write(self, stored: StoredImages, *, first: int) -> None:
        """Write images so that they begin at place `first`; from any thread."""
        view, offset = stored.values.reshape(-1).view(np.uint8).data, self._offset(first)
        while len(view):
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def finish(self, number: int, finished: Finished) -> None:
        """Note that all boxes of a micrograph are written; from any thread."""
        content = json.dumps({"key": self._keys[number], **asdict(finished)})
        with self._writing:
            self._journal.write(content.encode() + b"\n")
            self._journal.flush()

    def _offset(self, place: int) -> int:
        return HEADER_BYTES + place * self.image_bytes

    def complete(self, parts: Iterable[Finished], *, pixel_size: float | None) -> None:
        """Take bad boxes out, those after them moving up, and write the header; `parts` are all micrographs in the stack's order."""
        whole, first, good = Statistics(), 0, 0
        for part in parts:
            whole, bad = whole.merged(part.statistics), set(part.bad)
            for place in range(first, first + part.count):
                if place - first not in bad:
                    self._move(place, good)
                    good += 1
            first += part.count
        os.ftruncate(self._descriptor, self._offset(good))
        header = stack_header(count=good, box_size=self.box_size, pixel_size=pixel_size, dtype=self.dtype, statistics=whole)
        os.pwrite(self._descriptor, header, 0)
        self.count = good

    def _move(self, place: int, to: int) -> None:
        if place != to:
            os.pwrite(self._descriptor, os.pread(self._descriptor, self.image_bytes, self._offset(place)), self._offset(to))

    def publish(self, target: Path) -> None:
        """Give the stack a second name, or, where the file system has no such, copy it."""
        target.unlink(missing_ok=True)
        try:
            target.hardlink_to(self.path)
        except OSError:
            shutil.copyfile(self.path, target)

    def remove(self) -> None:
        """Remove what was kept for a later run."""
        for name in (STACK, JOURNAL):
            (self.folder / name).unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _parsed(line: bytes) -> tuple[str, Finished] | None:
    """Key and content of a journal's line; None where it is damaged."""
    try:
        content: dict[str, Any] = json.loads(line)
        key = str(content.pop("key"))
        return key, Finished(Statistics(**content.pop("statistics")), **content)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
