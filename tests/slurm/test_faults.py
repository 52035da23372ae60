"""A full disk, on a file system of its own: a clear message, nothing half-written, and the next run goes on."""

import os
import subprocess

import pytest

from results_bytes import differences, fingerprints
from slurm.running import CONFIGURATION, LOCAL, Snakemake, run_to_end

pytestmark = pytest.mark.slurm
TARGET = "results/tiny/raw/half1/particles.star"


@pytest.fixture
def small_disk(tmp_path):
    """A folder with place for 3 MB in `results`, and a function that enlarges it."""
    results = tmp_path / "run/results"
    results.mkdir(parents=True)
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(results)], check=False).returncode != 0:
        pytest.skip("mounting a small file system takes root")
    yield results.parent, lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(results)], check=True)
    subprocess.run(["umount", str(results)], check=True)


def test_a_full_disk_is_told_and_the_next_run_goes_on(small_disk, tmp_path):
    folder, enlarge = small_disk
    with Snakemake(folder, TARGET, *CONFIGURATION, "--config", "disk_check=warn", profile=LOCAL, log=tmp_path / "full.log") as full:
        assert full.wait(300) != 0
    assert "the disk is full" in full.log.read_text()
    assert "please report" not in full.log.read_text()
    assert [path for path in (folder / "results").rglob("*") if "partial" in path.name and "work" not in path.parts] == []
    enlarge()
    run_to_end(folder, TARGET, *CONFIGURATION, "--config", "disk_check=warn", profile=LOCAL, seconds=300)
    run_to_end(tmp_path / "whole", TARGET, *CONFIGURATION, "--config", "disk_check=warn", profile=LOCAL, seconds=300)
    assert differences(fingerprints(folder / "results"), fingerprints(tmp_path / "whole/results")) == []
