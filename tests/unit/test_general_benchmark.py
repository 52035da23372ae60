"""The general restorer's benchmark: its page, its cells, and what its particles are, without restoring anything."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks/general"


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_page_is_what_the_cells_say():
    run("benchmarks/general/page.py", "--check")


def test_a_cell_is_a_lane_an_snr_and_a_noise():
    listed = [line.split()[1] for line in run("benchmarks/general/measure.py", "--list").splitlines()]
    assert len(listed) == len(set(listed)) == 9 * 4 * 3
    assert {f"general_{noise}_snr{snr}" for noise in ("plain", "structural", "crowded") for snr in ("0.1", "0.05", "0.02", "0.01")} <= set(listed)


def test_particles_have_the_snr_that_was_asked_for(monkeypatch, data_root):
    path = data_root / "models/5fn5.cif.gz"
    monkeypatch.syspath_prepend(str(FOLDER))
    from particles import at_snr, drawn

    drawing = drawn(path, 10, noise="structural", seed=1)
    few = at_snr(drawing, 0.02)
    assert torch.allclose(few.clean.var((1, 2)), torch.full((10,), 0.02), rtol=1e-3)
    assert few.structural.square().sum() > 0
    assert float((few.images - few.clean - few.structural).std()) == pytest.approx(1, abs=0.02)
    assert torch.equal(at_snr(drawing, 0.1).ctf, few.ctf)
