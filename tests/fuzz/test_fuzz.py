"""A thousand damaged files of every kind that is read, in a process of its own: a reader that crashes must not take the tests with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.table import BEGIN, END, FIGURES, PAGE, table
from made_pages import made_part

FILES = 1000


@pytest.mark.slow
def test_a_thousand_damaged_files_are_read_or_refused():
    run = Path(__file__).with_name("run.py")
    done = subprocess.run(
        [sys.executable, str(run), "--count", str(FILES)], capture_output=True, text=True, check=False, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.returncode == 0, f"{done.stdout}\nthe last file: {done.stderr[-300:]}"
    figures = json.loads(done.stdout)
    assert figures["faults"] == []
    outcomes = figures["outcomes"].values()
    assert sum(sum(counts.values()) for counts in outcomes) == FILES
    assert all(counts["refused"] > 0 and counts["read"] > 0 for counts in outcomes)


def test_the_documentation_shows_the_last_run_of_ten_thousand_and_it_found_no_fault():
    assert made_part(PAGE, BEGIN, END) == table()
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    assert (figures["files"], figures["faults"]) == (10000, [])
