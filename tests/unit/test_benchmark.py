"""The restoration benchmark's cells and page, without measuring anything."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def listed():
    """Names of all cells, in order."""
    return [line.split()[1] for line in run("benchmarks/restoration/measure.py", "--list").splitlines()]


def test_the_most_telling_cells_come_first_and_none_twice(listed):
    main = [name for name in listed if name.startswith("demo_none_snr0.05_") and name.endswith("_seed1")]
    assert listed[: len(main)] == main
    assert len(set(listed)) == len(listed)
    learned = [name for name in main if "_ours_" in name or "_unet_" in name]
    assert learned == [f"demo_none_snr0.05_{lane}_seed1" for lane in ("true_ours", "own_ours", "none_unet")]
    # two thousand evaluations a particle: in one cell, the last of its table
    assert [name for name in listed if "_sr3_" in name] == main[-1:]


def test_every_method_of_the_configuration_is_a_lane(listed):
    lanes = {name.split("_")[4] for name in listed if name.startswith("demo_none_snr0.05_")}
    expected = "raw low-pass wiener wiener-masked cwf bm3d topaz noise2noise gan unet sr3 sr3+post projection map-bayes ours limit true-pose"
    assert set(expected.split()) <= lanes


def test_a_filter_leaves_cells_out_and_changes_none(listed):
    few = run("benchmarks/restoration/measure.py", "--list", "--seeds", "2", "--lanes", "unet").splitlines()
    assert [line.split()[1] for line in few] == [name for name in listed if "_unet_" in name and name.endswith("_seed2")]


def test_the_page_is_what_the_cells_say():
    run("benchmarks/restoration/page.py", "--check")
