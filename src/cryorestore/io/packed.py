"""Many lines of text in little memory: compressed some hundred at a time, decompressed when they are asked for.

A row of a refinement's table is about 430 characters, and rows resemble each other: zlib's fastest level keeps a third or less of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

CHUNK = 1024
"""lines compressed together; a table of no more than these stays plain"""
_LEVEL = 1
_ENCODING, _ERRORS = "utf-8", "surrogateescape"


class PackedLines(Sequence[str]):
    """A sequence of lines without line breaks; equal to any sequence of the same lines.

    Going through it, or taking rows that ascend, holds one chunk of text at a time.
    """

    def __init__(self, chunks: list[bytes], plain: list[str], count: int) -> None:
        self._chunks, self._plain, self._count = chunks, plain, count
        self._recent: tuple[int, list[str]] = (-1, [])

    def __len__(self) -> int:
        return self._count

    def chunks(self) -> Iterator[list[str]]:
        """The lines, up to CHUNK at a time; all lists but the last have that many."""
        if not self._chunks and self._plain:
            yield self._plain
        for chunk in self._chunks:
            yield _unpacked(chunk)

    def __iter__(self) -> Iterator[str]:
        for part in self.chunks():
            yield from part

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> "PackedLines": ...

    def __getitem__(self, place: int | slice) -> "str | PackedLines":
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        number = range(len(self))[place]
        return self._chunk(number // CHUNK)[number % CHUNK]

    def _chunk(self, number: int) -> list[str]:
        """One chunk's lines; the last one asked for is kept, as neighbours are asked for one after the other."""
        if not self._chunks:
            return self._plain
        if self._recent[0] != number:
            self._recent = number, _unpacked(self._chunks[number])
        return self._recent[1]

    def take(self, rows: NDArray[np.int64]) -> "PackedLines":
        """Some lines in the order of `rows` (from 0). Where these ascend, one chunk of text is held; otherwise all lines that are taken."""
        if len(rows) < 2 or bool((np.diff(rows) >= 0).all()):
            return pack_lines(self._ascending(rows))
        order = np.argsort(rows, kind="stable")
        lines = [""] * len(rows)
        for place, line in zip(order.tolist(), self._ascending(rows[order]), strict=True):
            lines[place] = line
        return pack_lines(lines)

    def _ascending(self, rows: NDArray[np.int64]) -> Iterator[str]:
        places = rows // CHUNK
        for number in np.unique(places).tolist():
            part = self._plain if not self._chunks else _unpacked(self._chunks[number])
            begin, end = np.searchsorted(places, [number, number + 1])
            for row in (rows[begin:end] - number * CHUNK).tolist():
                yield part[row]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PackedLines({list(self)!r})" if len(self) <= CHUNK else f"PackedLines of {len(self)} lines"


class LinePacker:
    """Take lines one by one; a full chunk is compressed at once."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._open: list[str] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, line: str) -> None:
        """Add a line."""
        if len(self._open) == CHUNK:
            self._chunks.append(_packed(self._open))
            self._open = []
        self._open.append(line)
        self._count += 1

    def lines(self) -> PackedLines:
        """What was added: plain where it is no more than one chunk."""
        if not self._chunks:
            return PackedLines([], self._open, self._count)
        return PackedLines([*self._chunks, _packed(self._open)], [], self._count)


def pack_lines(lines: Iterable[str]) -> PackedLines:
    """Pack lines, unless they are packed already."""
    if isinstance(lines, PackedLines):
        return lines
    packer = LinePacker()
    for line in lines:
        packer.append(line)
    return packer.lines()


def _packed(lines: list[str]) -> bytes:
    return zlib_ng.compress("\n".join(lines).encode(_ENCODING, _ERRORS), _LEVEL)


def _unpacked(chunk: bytes) -> list[str]:
    return zlib_ng.decompress(chunk).decode(_ENCODING, _ERRORS).split("\n")
