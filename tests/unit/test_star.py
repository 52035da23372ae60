import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import starfile
from hypothesis import given
from hypothesis import strategies as st

from cryorestore.errors import CryorestoreError
from cryorestore.io.packed import CHUNK, pack_lines
from cryorestore.io.star import StarBlock, read_star, write_star

TEXT = """# a comment
data_general
_rlnName  'two words'  # said so
_rlnCount 3

data_
loop_
_rlnA #1
_rlnB #2 [a remark]
 1.50   first   # trailing

# between rows
 2e-3\t"with a space"
data_empty
loop_
_rlnC #1
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "a.star").write_text(TEXT)
    return read_star(tmp_path / "a.star")


def test_tables_pairs_quotes_comments_and_empty_loops_are_read(file):
    assert list(file.blocks) == ["general", "", "empty"]
    assert file.blocks["general"].column("rlnName") == ["two words"]
    assert file.blocks["general"].ints("rlnCount").tolist() == [3]
    assert file.blocks[""].floats("rlnA").tolist() == [1.5, 0.002]
    assert file.blocks[""].column("rlnB") == ["first", "with a space"]
    assert len(file.blocks["empty"]) == 0
    assert file.blocks["empty"].columns == ["rlnC"]


def test_crlf_makes_no_difference(tmp_path, file):
    (tmp_path / "b.star").write_bytes(TEXT.replace("\n", "\r\n").encode())
    again = read_star(tmp_path / "b.star")
    assert {name: block.lines for name, block in again.blocks.items()} == {name: block.lines for name, block in file.blocks.items()}


def test_what_is_written_is_read_again_and_the_bytes_are_fixed(tmp_path, file):
    write_star(tmp_path / "b.star", file.blocks)
    again = read_star(tmp_path / "b.star")
    write_star(tmp_path / "c.star", again.blocks)
    assert (tmp_path / "b.star").read_bytes() == (tmp_path / "c.star").read_bytes()
    for name, block in file.blocks.items():
        assert [again.blocks[name].column(column) for column in block.columns] == [block.column(column) for column in block.columns]


def test_starfile_reads_what_is_written(tmp_path):
    block = StarBlock.from_columns({"rlnA": np.array([1.5, -2.0]), "rlnB": ["x", "y"]})
    write_star(tmp_path / "a.star", {"optics": block, "particles": block})
    tables = starfile.read(tmp_path / "a.star", always_dict=True)
    assert tables["particles"]["rlnA"].tolist() == [1.5, -2.0]
    assert tables["optics"]["rlnB"].tolist() == ["x", "y"]


def test_columns_are_replaced_in_place_and_appended(file):
    block = file.blocks[""].with_columns({"rlnA": np.array([0.1234567, -1.0]), "rlnN": np.array([4, 5]), "rlnS": ["", "b c"]})
    assert block.columns == ["rlnA", "rlnB", "rlnN", "rlnS"]
    assert block.lines == ['0.123457 first 4 ""', '-1.000000 "with a space" 5 "b c"']
    assert block.column("rlnS") == ["", "b c"]


def test_untouched_cells_keep_their_digits(cases_root, tmp_path):
    before = read_star(cases_root / "case-02-digits-kept-particles.star").blocks["particles"]
    write_star(tmp_path / "b.star", {"particles": before.with_columns({"rlnRandomSubset": np.ones(3, int), "rlnNew": np.zeros(3)})})
    after = read_star(tmp_path / "b.star").blocks["particles"]
    for name in set(before.columns) - {"rlnRandomSubset"}:
        assert after.column(name) == before.column(name)


def test_rows_are_taken_by_number_mask_and_slice():
    block = StarBlock.from_columns({"rlnA": np.arange(4)})
    assert block.take([2, 0]).column("rlnA") == ["2", "0"]
    assert block.take(np.array([True, False, False, True])).column("rlnA") == ["0", "3"]
    assert block.take(slice(1, 3)).column("rlnA") == ["1", "2"]
    assert len(block.take([])) == 0


def test_columns_are_left_out():
    block = StarBlock.from_columns({"rlnA": np.arange(2), "rlnB": ["x y", "z"]})
    assert block.without_columns(["rlnA", "rlnNone"]).lines == ['"x y"', "z"]


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("data_a\nloop_\n_rlnA\n_rlnB\n1 2\n3\n", "line 6: found 1 cells .*expected 2"),
        ("data_a\nloop_\n_rlnA\n_rlnA\n", "_rlnA stands there twice"),
        ("data_a\nloop_\n_rlnA\ndata_a\nloop_\n_rlnA\n", "data_a stands there twice"),
        ("x y z\n", "line 1: found 'x y z', expected data_"),
        ("\n", "no line begins with data_"),
        ("data_a\n_rlnA\n", "line 2: .*expected a name and its value"),
        ("data_a\n1 2\n", "line 2: .*expected loop_"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_line(tmp_path, text, facts):
    (tmp_path / "a.star").write_text(text)
    with pytest.raises(CryorestoreError, match=f"a.star.*{facts}"):
        read_star(tmp_path / "a.star")


def test_a_cell_that_is_no_number_is_named(file):
    with pytest.raises(CryorestoreError, match="data_: row 2, column _rlnB: found 'x', expected a number"):
        file.blocks[""].with_columns({"rlnB": ["1", "x"]}).floats("rlnB")
    with pytest.raises(CryorestoreError, match="row 2, column _rlnA: found '2e-3', expected a whole number"):
        file.blocks[""].with_columns({"rlnA": ["3.0", "2e-3"]}).ints("rlnA")
    with pytest.raises(CryorestoreError, match=r"column _rlnZ is missing \(it has rlnA, rlnB\)"):
        file.blocks[""].column("rlnZ")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CryorestoreError, match=r"nowhere\.star: cannot be read"):
        read_star(tmp_path / "nowhere.star")


def read_text(tmp_path, text):
    (tmp_path / "t.star").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_star(tmp_path / "t.star").blocks[""]


@pytest.mark.parametrize(
    ("rows", "cells"),
    [
        ("a.mrc 1", ["a.mrc", "1"]),
        ("\t a.mrc \t\t 1 \t ", ["a.mrc", "1"]),
        ("'my mics/a.mrc' 1", ["my mics/a.mrc", "1"]),
        ('"it\'s.mrc" 1', ["it's.mrc", "1"]),
        ("it's.mrc 1", ["it's.mrc", "1"]),
        ('5"x.mrc 1', ['5"x.mrc', "1"]),
        ("mic#1.mrc 1", ["mic#1.mrc", "1"]),
        ("a.mrc 1 # a remark", ["a.mrc", "1"]),
        ("data_7/a.mrc 1", ["data_7/a.mrc", "1"]),
        ("_a.mrc 1", ["_a.mrc", "1"]),
        ("mü\u00a0x.mrc 1", ["mü\u00a0x.mrc", "1"]),
        ("'' 1", ["", "1"]),
    ],
)
def test_odd_cells_are_read_and_written_as_they_are(tmp_path, rows, cells):
    block = read_text(tmp_path, f"data_\nloop_\n_rlnA #1\n_rlnB #2\n{rows}\n{rows}\n\n")
    assert [block.column("rlnA"), block.column("rlnB")] == [[cells[0]] * 2, [cells[1]] * 2]
    write_star(tmp_path / "u.star", {"": block.with_columns({"rlnB": ["7", "8"], "rlnC": block.column("rlnA")})})
    again = read_star(tmp_path / "u.star").blocks[""]
    assert [again.column(name) for name in ("rlnA", "rlnB", "rlnC")] == [[cells[0]] * 2, ["7", "8"], [cells[0]] * 2]


def test_a_byte_order_mark_and_old_line_ends_make_no_difference(tmp_path):
    text = "data_\nloop_\n_rlnA\n1\n2\n"
    for variant in ("\ufeff" + text, text.replace("\n", "\r"), text.rstrip("\n"), "\n\n" + text):
        assert read_text(tmp_path, variant).column("rlnA") == ["1", "2"]


def test_bytes_that_are_no_utf8_survive(tmp_path):
    block = read_text(tmp_path, b"data_\nloop_\n_rlnA\n_rlnB\n\xfc.mrc 1\n")
    write_star(tmp_path / "u.star", {"": block.with_columns({"rlnB": ["2"]})})
    assert b"\xfc.mrc 2\n" in (tmp_path / "u.star").read_bytes()


@pytest.mark.parametrize("cell", ["two\nlines", "both \"kinds' of quotes"])
def test_a_cell_that_no_star_file_can_hold_is_refused(cell):
    with pytest.raises(CryorestoreError, match="a cell to be written holds a line break or both kinds of quotes"):
        StarBlock.from_columns({"rlnA": [cell]})


def real_rows(data_root, count):
    """A real table's rows with numbers of their own, so that no two are equal."""
    block = read_star(data_root / "metadata-empiar10204/run_it016_data.star").blocks["particles"]
    lines = list(block.lines)
    return block, [lines[row % len(lines)].replace("@", f"@{row:06d}") for row in range(count)]


def test_a_real_row_is_held_in_300_bytes(data_root):
    block, lines = real_rows(data_root, 20_000)
    assert np.mean([len(line) for line in lines]) > 400
    tracemalloc.start()
    try:
        held = replace(block, lines=lines)
        del lines
        changed = held.with_columns({"rlnRandomSubset": np.arange(len(held)) % 2 + 1}).take(slice(None))
        bytes_held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(changed) == 20_000
    assert bytes_held / 2 / 20_000 <= 300


def test_many_rows_are_taken_changed_and_compared_like_few(data_root):
    block, lines = real_rows(data_root, 3 * CHUNK + 5)
    many = replace(block, lines=lines)
    assert many.lines == lines
    assert [many.lines[place] for place in (0, CHUNK, -1)] == [lines[0], lines[CHUNK], lines[-1]]
    assert many.lines[CHUNK - 1 : CHUNK + 2] == lines[CHUNK - 1 : CHUNK + 2]
    rows = np.random.default_rng(1).permutation(len(lines))
    assert many.take(rows).lines == [lines[row] for row in rows.tolist()]
    assert many.take(rows[: CHUNK // 2] % 7).lines == [lines[row] for row in (rows[: CHUNK // 2] % 7).tolist()]
    numbers = np.arange(len(lines))
    assert many.with_columns({"rlnNew": numbers}).ints("rlnNew").tolist() == numbers.tolist()
    with pytest.raises(IndexError):
        many.lines[len(lines)]


@given(st.lists(st.text(st.characters(exclude_characters="\n\r\"'", exclude_categories=["Cs"]), max_size=8), max_size=30), st.randoms())
def test_any_lines_are_unpacked_as_they_were(lines, random):
    packed = pack_lines(lines)
    assert list(packed) == lines
    rows = [random.randrange(len(lines)) for _ in range(len(lines))] if lines else []
    assert packed.take(np.array(rows, np.int64)) == [lines[row] for row in rows]
