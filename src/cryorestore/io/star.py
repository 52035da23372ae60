"""STAR tables whose cells stay text: a cell that is not computed is written as it was read, digit for digit.

starfile 0.5.13 turns every number into a float and back (digits are lost, 2.4 kB a row); hence an own row reader. A row is one
string, kept compressed (`packed`) and split when a column is asked for: benchmarks/metadata has what a million rows cost.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, repeat
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path
from cryorestore.io.file_form import require_regular_file, seen_form
from cryorestore.io.packed import CHUNK, LinePacker, pack_lines

_QUOTE_FIRST = "\"'#"
_NEEDS_QUOTES = re.compile(r"\s")
_MAY_NEED_QUOTES = re.compile(r"[\s\"'#]|\0\0|^\0|\0$|^$")
"""Searched for in many cells at once, joined by NUL"""
Cells = Sequence[str] | NDArray[np.generic]
Rows = NDArray[np.generic] | Sequence[int] | slice
Number = TypeVar("Number", float, int)
Scalar = TypeVar("Scalar", np.float64, np.int64)

_BLANKS = " \t\r\n\v\f"
"""What parts cells; other blanks of Unicode, such as the no-break space, belong to a cell"""
_TOKEN = re.compile(rf"\"[^\"]*\"(?=[{_BLANKS}]|$)|'[^']*'(?=[{_BLANKS}]|$)|[^{_BLANKS}]+")
_COMMENT = "# version 30001\n# written by cryorestore\n"


@dataclass(frozen=True)
class StarBlock:
    """One table: names without the underscore, one string a row."""

    columns: list[str]
    lines: Sequence[str]
    """kept packed (`packed.PackedLines`)"""
    source: str = "table"
    """where it was read, for messages"""
    is_loop: bool = True
    """False: one row, written as pairs of name and value"""
    _position: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        positions = {name: place for place, name in enumerate(self.columns)}
        if len(positions) != len(self.columns):
            twice = next(name for name in self.columns if self.columns.count(name) > 1)
            raise CryorestoreError(f"{self.source}: column _{twice} stands there twice, expected each once; remove one")
        object.__setattr__(self, "_position", positions)
        object.__setattr__(self, "lines", pack_lines(self.lines))

    @classmethod
    def from_columns(cls, values: Mapping[str, Cells], *, source: str = "table") -> "StarBlock":
        """Make a table of columns of one length; cells as in `with_columns`."""
        count = len(next(iter(values.values()))) if values else 0
        return cls([], pack_lines(repeat("", count)), source).with_columns(values)

    def __len__(self) -> int:
        return len(self.lines)

    def __contains__(self, name: str) -> bool:
        return name in self._position

    def column(self, name: str) -> list[str]:
        """The cells of a column, without quotes.

        Raises
        ------
        CryorestoreError
            If there is no such column.
        """
        return [cell for (cell,) in self.cells(name)]

    def cells(self, *names: str) -> Iterator[tuple[str, ...]]:
        """The cells of some columns row by row, without quotes, in one pass and with little memory; raises as `column`."""
        places = [self._place(name) for name in names]
        last = max(places, default=0)
        for number, line in enumerate(self.lines, 1):
            row = _tokens(line, last)
            if places and len(row) <= last:
                raise CryorestoreError(f"{self.source}: row {number}: found {len(row)} cells, expected {len(self.columns)}; mend its quotes")
            yield tuple([_unquoted(row[place]) for place in places])

    def _place(self, name: str) -> int:
        if name not in self._position:
            raise CryorestoreError(f"{self.source}: column _{name} is missing (it has {', '.join(self.columns) or 'none'}); write the table with it")
        return self._position[name]

    def floats(self, name: str) -> NDArray[np.float64]:
        """A column as float64."""
        return self._numbers(name, float, np.float64)

    def ints(self, name: str) -> NDArray[np.int64]:
        """A column as int64; "3.0" is 3, "3.5" an error."""
        return self._numbers(name, _whole_number, np.int64)

    def _numbers(self, name: str, parse: Callable[[str], Number], kind: type[Scalar]) -> NDArray[Scalar]:
        values = np.empty(len(self), kind)
        for row, (cell,) in enumerate(self.cells(name)):
            try:
                values[row] = parse(cell)
            except (ValueError, OverflowError):
                expected = "a number" if kind is np.float64 else "a whole number"
                raise CryorestoreError(f"{self.source}: row {row + 1}, column _{name}: found {cell!r}, expected {expected}; mend that cell") from None
        return values

    def with_columns(self, values: Mapping[str, Cells]) -> "StarBlock":
        """Replace columns where they stand, append new ones; every other cell keeps its text.

        Float arrays are written with 6 decimals, integers and truth values as integers, strings as they are (quoted where needed).
        """
        for name, cells in values.items():
            if len(cells) != len(self):
                raise CryorestoreError(f"{self.source}: column _{name} has {len(cells)} cells to be written, expected {len(self)}")
        new = [name for name in values if name not in self]
        lines = pack_lines(self._edited(values, new))
        return replace(self, columns=[*self.columns, *new], lines=lines)

    def _edited(self, values: Mapping[str, Cells], new: list[str]) -> Iterator[str]:
        """The lines with these columns, turned into text a chunk at a time."""
        old = [name for name in values if name in self]
        rest = iter(self.lines)
        for begin in range(0, len(self), CHUNK):
            texts = {name: _as_text(cells[begin : begin + CHUNK]) for name, cells in values.items()}
            replaced = [(self._position[name], texts[name]) for name in old]
            appended = [texts[name] for name in new]
            for row, line in enumerate(islice(rest, CHUNK)):
                yield _edited_line(line, row, replaced, appended)

    def without_columns(self, names: Iterable[str]) -> "StarBlock":
        """Leave columns out; names that are not there do not matter."""
        drop = {self._position[name] for name in names if name in self}
        if not drop:
            return self
        keep = [place for place in range(len(self.columns)) if place not in drop]
        lines = pack_lines(" ".join([cells[place] for place in keep]) for cells in map(_tokens, self.lines))
        return replace(self, columns=[self.columns[place] for place in keep], lines=lines)

    def take(self, rows: Rows) -> "StarBlock":
        """Some rows, in their order: 0-based numbers, a mask or a slice."""
        chosen = np.arange(len(self))[rows if isinstance(rows, slice) else np.asarray(rows, None if len(rows) else np.int64)]
        return replace(self, lines=pack_lines(self.lines).take(chosen))


def _edited_line(line: str, row: int, replaced: list[tuple[int, list[str]]], appended: list[list[str]]) -> str:
    if replaced:
        cells = _tokens(line)
        for place, column in replaced:
            cells[place] = column[row]
        line = " ".join(cells)
    return " ".join([line, *[column[row] for column in appended]]) if line else " ".join([column[row] for column in appended])


@dataclass(frozen=True)
class StarFile:
    """The tables of one file by name ("optics" for `data_optics`, "" for `data_`), in the file's order."""

    path: Path
    blocks: dict[str, StarBlock]


def read_star(path: str | Path) -> StarFile:
    """Read every table of a STAR file; comments are skipped, tables without rows are kept.

    Raises
    ------
    CryorestoreError
        If the file is missing, is no STAR file, or a row has not as many cells as the table has columns.
    """
    path = Path(path)
    blocks: dict[str, StarBlock] = {}
    require_regular_file(path)
    try:
        form = _form(path)
        if form:
            raise CryorestoreError(f"{path}: found a file that {form}; expected a STAR file")
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as handle:
            for name, block in _blocks(path, handle):
                if name in blocks:
                    raise CryorestoreError(f"{path}: data_{name} stands there twice, expected each table once; remove one")
                blocks[name] = block
    except OSError as error:
        raise CryorestoreError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if not blocks:
        raise CryorestoreError(f"{path}: no line begins with data_, expected a STAR file; check that it is one")
    return StarFile(path, blocks)


def _form(path: Path) -> str | None:
    with path.open("rb") as handle:
        return seen_form(handle.read(8))


def _blocks(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, StarBlock]]:
    """Cut the lines at `data_...`; only the rows are kept, so that a table is never in memory twice."""
    draft: _Draft | None = None
    for number, text in enumerate(lines, 1):
        line = text.strip(_BLANKS)
        if not line or line.startswith("#"):
            continue
        if line.startswith("data_") and not (draft is not None and draft.is_row(line)):
            if draft is not None:
                yield draft.name, draft.block()
            draft = _Draft(path, line.split()[0].removeprefix("data_"))
        elif draft is not None:
            draft.add(number, line)
        else:
            raise CryorestoreError(f"{path}: line {number}: found {line[:40]!r}, expected data_ or a comment; check that it is a STAR file")
    if draft is not None:
        yield draft.name, draft.block()


class _Draft:
    """One table while its lines come in."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.columns: list[str] = []
        self.rows = LinePacker()
        self.is_loop = False

    def add(self, number: int, line: str) -> None:
        if line.startswith("loop_") and not self.columns:
            self.is_loop = True
        elif line.startswith("_") and not (self.is_loop and (self.rows or self.is_row(line))):
            cells = _tokens(line)
            self.columns.append(cells[0][1:])
            if not self.is_loop:
                self.rows.append(self._value(number, line, cells))
        elif self.is_loop:
            self.rows.append(_checked_row(self.path, number, line, len(self.columns)))
        else:
            raise CryorestoreError(f"{self.path}: line {number}: found {line[:40]!r}, expected loop_ or a name and its value; mend it")

    def is_row(self, line: str) -> bool:
        """Whether a line that begins like a label or a table's name is a row nevertheless: it has a cell for every column."""
        cells = _tokens(line)
        return self.is_loop and 1 < len(cells) == len(self.columns) and not cells[1].startswith("#")

    def _value(self, number: int, line: str, cells: list[str]) -> str:
        if len(cells) < 2:
            raise CryorestoreError(f"{self.path}: line {number}: found {line[:40]!r}, expected a name and its value; mend it")
        return cells[1]

    def block(self) -> StarBlock:
        lines = self.rows.lines()
        if not self.is_loop and lines:
            lines = pack_lines([" ".join(lines)])
        return StarBlock(self.columns, lines, f"{self.path}, data_{self.name}", is_loop=self.is_loop or not self.columns)


def _checked_row(path: Path, number: int, line: str, expected: int) -> str:
    cells = _tokens(line)
    if len(cells) > expected > 0 and cells[expected].startswith("#"):
        return " ".join(cells[:expected])
    if len(cells) != expected or line.startswith("loop_"):
        raise CryorestoreError(f"{path}: line {number}: found {len(cells)} cells ({line[:40]!r}), expected {expected}, one a column; mend that row")
    return line


def write_star(path: str | Path, blocks: Mapping[str, StarBlock]) -> None:
    """Write tables under a fixed comment (no date: the same tables give the same bytes); the file appears whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as handle:
        handle.write(_COMMENT)
        for name, block in blocks.items():
            handle.write(f"\ndata_{name}\n\n")
            if block.is_loop:
                handle.write("loop_\n")
                handle.writelines(f"_{column} #{number}\n" for number, column in enumerate(block.columns, 1))
                handle.writelines(f"{line}\n" for line in block.lines)
            else:
                handle.writelines(f"_{column} {cell}\n" for line in block.lines for column, cell in zip(block.columns, _tokens(line), strict=True))


def _tokens(line: str, last: int = -1) -> list[str]:
    """Cells of a row with their quotes; at least up to cell number `last`, all if it is -1."""
    if '"' in line or "'" in line or not line.isascii():
        return _TOKEN.findall(line)
    return line.split(None, last + 1 if last >= 0 else -1)


def _unquoted(cell: str) -> str:
    return cell[1:-1] if len(cell) > 1 and cell[0] in "\"'" and cell[-1] == cell[0] else cell


def _as_text(cells: Cells) -> list[str]:
    if isinstance(cells, np.ndarray):
        if np.issubdtype(cells.dtype, np.floating):
            return [f"{value:.6f}" for value in cells.tolist()]
        if np.issubdtype(cells.dtype, np.integer) or cells.dtype == np.bool_:
            return [str(int(value)) for value in cells.tolist()]
    texts = [str(cell) for cell in cells]
    if not _MAY_NEED_QUOTES.search("\0".join(texts)):
        return texts
    return [_quoted(text) for text in texts]


def _quoted(cell: str) -> str:
    if cell and cell[0] not in _QUOTE_FIRST and not _NEEDS_QUOTES.search(cell):
        return cell
    if "\n" in cell or "\r" in cell or ('"' in cell and "'" in cell):
        raise CryorestoreError(f"a cell to be written holds a line break or both kinds of quotes ({cell!r}), which no STAR file can; rename it")
    return f"'{cell}'" if '"' in cell else f'"{cell}"'


def _whole_number(cell: str) -> int:
    try:
        return int(cell)
    except ValueError:
        value = float(cell)
        if value != int(value):
            raise
        return int(value)
