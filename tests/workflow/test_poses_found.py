"""The small chain without poses: particles, poses and half-sets out for other programs, and a refusal where there is nothing to find."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cryorestore.files import read_json
from cryorestore.particles import ParticleTable

ROOT = Path(__file__).parents[2]
RESULTS = Path("results/tiny-ab-initio")

pytestmark = pytest.mark.slow


def snakemake(folder, *arguments):
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--profile", str(ROOT / "profiles/local"), "--config", "datasets_dir=config/test/datasets", "datasets=[tiny-ab-initio]", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    done = snakemake(folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def test_each_half_finds_its_poses_and_a_map_near_the_truth(run):
    verdict = read_json(run / RESULTS / "found/verdict.json")
    assert verdict["reliable"], verdict["statement"]
    assert "cannot tell" in verdict["hand"]
    width, truth = verdict["box_width"], read_json(run / RESULTS / "raw/fsc_truth.json")
    assert truth["resolutions"]["0.5"] < width / verdict["wanted_shell"]


def test_particles_poses_and_half_sets_are_one_table_that_other_programs_start_from(run):
    folder = run / RESULTS / "raw"
    joined = ParticleTable.read(folder / "particles.star")
    halves = [ParticleTable.read(folder / f"half{half}/particles.star") for half in (1, 2)]
    assert len(joined) == sum(map(len, halves)) == 288
    assert [int((joined.halves() == half).sum()) for half in (1, 2)] == [len(half) for half in halves]
    given = ParticleTable.read(run / RESULTS / "normalized/particles.star")
    angles = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    assert not np.allclose(*([table.particles.floats(name) for name in angles] for table in (joined, given)))
    assert (folder / "particles.cs").exists()


def test_relion_reconstructs_the_map_from_that_table(run):
    if shutil.which("relion_reconstruct") is None:
        pytest.skip("relion_reconstruct is not installed")
    command = ["relion_reconstruct", "--i", str(RESULTS / "raw/particles.star"), "--o", "relion.mrc", "--ctf", "--subset", "1"]
    done = subprocess.run(command, cwd=run, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (run / "relion.mrc").exists()


def test_noise_ends_without_a_map_and_without_a_resolution(tmp_path):
    done = snakemake(tmp_path, "simulate={snr_shot: 0.0001, count: 2}")
    assert done.returncode != 0
    assert "no reliable map" in done.stdout + done.stderr
    assert not read_json(tmp_path / RESULTS / "found/verdict.json")["reliable"]
    assert not list((tmp_path / RESULTS).glob("raw/**/fsc*"))
    assert not (tmp_path / RESULTS / "report.html").exists()
