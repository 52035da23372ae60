"""Every spoiled input ends in one message with exit code 1; nothing is written, lost or executed, and the documentation shows what is said."""

import re

import pytest

from bad_input.cases import CASES
from bad_input.running import run_case
from bad_input.table import BEGIN, END, PAGE, row
from made_pages import made_part


def contents(folder):
    """Files by name with their bytes; what is no file has none."""
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def documented():
    return made_part(PAGE, BEGIN, END)


@pytest.mark.parametrize("name", CASES)
def test_a_spoiled_input_ends_in_one_message_and_leaves_everything_as_it_was(name, tmp_path):
    case = CASES[name]
    case.make(tmp_path)
    before = contents(tmp_path)
    code, said, message = run_case(case, tmp_path)
    assert (code, said.count("error: "), "Traceback" in said) == (1, 1, False), said
    assert re.search(case.facts, message), message
    assert contents(tmp_path) == before
    assert row(case.seen, message) in documented()


def test_the_documentation_has_no_other_rows():
    assert documented().count("\n| ") == 1 + len(CASES)
