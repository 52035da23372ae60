"""The claims' cells and page, without measuring anything."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_cells_come_in_the_order_of_the_claims_and_none_twice():
    names = [line.split()[1] for line in run("benchmarks/claims/measure.py", "--list").splitlines()]
    assert len(set(names)) == len(names)
    assert names[0].startswith("sr3_")
    # a claim that is left out takes away the cells that serve it alone
    few = [line.split()[1] for line in run("benchmarks/claims/measure.py", "--list", "--claims", "a").splitlines()]
    assert few == [name for name in names if name.startswith("sr3_")]


def test_the_page_is_what_the_cells_say():
    run("benchmarks/claims/page.py", "--check")
