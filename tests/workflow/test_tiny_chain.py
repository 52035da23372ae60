"""The whole chain at 32 px, two methods side by side: every file there, every particle accounted for, nothing done twice."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from datetime import datetime
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryorestore.particles import ParticleTable
from cryorestore.status import read_status

ROOT = Path(__file__).parents[2]
METHODS = ("ours", "sr3+post")

pytestmark = pytest.mark.slow


def snakemake(folder, *arguments):
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--profile", str(ROOT / "profiles/local"), "--configfile", str(ROOT / "config/test/tiny.yaml"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    done = snakemake(folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def results(run):
    return run / "results/tiny"


def test_a_second_run_does_nothing(run):
    done = snakemake(run)
    assert "Nothing to be done" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("override", "first", "untouched"),
    [
        ("postprocess={steps: 9}", "train_postprocess", "train_diffusion"),
        ("normalize={bg_radius: 12}", "normalize_particles", "extract_particles"),
        ("fsc={thresholds: [0.5, 0.2, 0.143]}", "compute_fsc", "reconstruct_map"),
    ],
)
def test_a_changed_parameter_reruns_what_depends_on_it(run, override, first, untouched):
    plan = snakemake(run, "--dry-run", "--quiet", "rules", "--config", override)
    jobs = (plan.stdout + plan.stderr).split("Job stats:")[1]
    assert first in jobs
    assert untouched not in jobs


@pytest.mark.parametrize("method", METHODS)
def test_restored_particles_are_those_of_the_input_one_to_one(run, results, method, monkeypatch):
    monkeypatch.chdir(run)
    source = ParticleTable.read(results / "normalized/particles.star")
    restored = ParticleTable.read(results / f"restored.{method}/particles.star")
    assert len(restored) == len(source) == 192
    for name in ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnDefocusU", "rlnAngleRot", "rlnOriginXAngst"):
        assert restored.particles.column(name) == source.particles.column(name)
    assert restored.particles.column("rlnImageOriginalName")[0].endswith("extracted/particles.mrcs")
    images, raw = restored.load_images(), source.load_images()
    assert images.shape == raw.shape
    assert np.isfinite(images).all()
    assert restored.pixel_size == source.pixel_size == 6.0


@pytest.mark.parametrize("method", METHODS)
def test_halves_share_no_particle(results, method):
    halves = [ParticleTable.read(results / f"restored.{method}/half{half}/particles.star") for half in (1, 2)]
    rows = [set(half.particles.ints("rlnCryorestoreRow").tolist()) for half in halves]
    assert not rows[0] & rows[1]
    assert len(rows[0] | rows[1]) == 192


def test_every_mrc_file_is_valid(results):
    files = [path for path in results.rglob("*.mrc*") if "work" not in path.parts]
    assert len(files) > 20
    assert all(mrcfile.validate(path, print_file=sys.stderr) for path in files)


def test_the_summary_has_its_figures_and_the_headline_is_the_raw_one(results):
    summary = json.loads((results / "summary.json").read_text())
    methods = json.loads((results / "methods.json").read_text())
    assert list(methods) == sorted(METHODS)
    assert summary == methods["ours"]
    assert (summary["particles"], summary["box_size"], summary["pixel_size"]) == (192, 32, 6.0)
    assert summary["resolution_raw_0143"] == json.loads((results / "raw/fsc.json").read_text())["resolutions"]["0.143"]
    assert summary["psnr_restored"] > summary["psnr_raw"]
    assert 0 < summary["peak_memory_gib"] < 6


def test_a_method_without_evidence_reports_no_self_consistency(results):
    methods = json.loads((results / "methods.json").read_text())
    assert methods["sr3+post"]["controls"]["noise_only"]["verdict"] == "failed"
    assert methods["sr3+post"]["self_consistency_restored_0143"] is None
    assert "evidence" in methods["sr3+post"]["self_consistency_reason"]


def test_every_result_folder_tells_where_it_comes_from(results):
    for folder in ("simulated", "extracted", "normalized", "raw/half1", "restored.ours/half2", "models/ours/half1"):
        provenance = json.loads((results / folder / "provenance.json").read_text())
        for entry in provenance.values():
            assert {"inputs", "outputs", "parameters", "packages", "commit", "seed", "finished_utc"} <= entry.keys()


def test_the_report_is_one_file_that_asks_the_network_for_nothing(results):
    text = (results / "report.html").read_text()
    assert 'src="http' not in text
    assert '<link rel="stylesheet"' not in text
    assert "<script src" not in text
    assert text.count("data:image/png;base64") >= 1


def test_snakemakes_own_report_holds_the_pictures_with_their_captions(run):
    made = snakemake(run, "--report", "snakemake_report.zip")
    assert made.returncode == 0, made.stderr[-3000:]
    with zipfile.ZipFile(run / "snakemake_report.zip") as archive:
        names = [Path(name).name for name in archive.namelist()]
        page = archive.read("snakemake_report/report.html").decode()
    assert {"report.html", "fsc.svg", "fsc_truth.svg", "control.svg"} <= set(names)
    for caption in ("Summary of tiny: what was restored", "half-maps of tiny, restored.ours, with the crossings", "A control of sr3+post on tiny"):
        assert caption in re.sub(r"\\n|\s", " ", page), caption


def test_the_status_of_the_run_is_told_with_the_losses_of_every_training(run):
    found = read_status(run, None, now=datetime.now())
    assert found.state == "finished"
    assert {job.state for job in found.run.jobs.values()} == {"finished"}
    assert len(found.run.jobs) == found.run.total > 40
    told = {(losses.method, losses.half, losses.network, losses.step) for losses in found.losses if losses.is_finished}
    assert told == {(method, half, network, 8) for method in METHODS for half in "12" for network in ("diffusion", "postprocess")}
    assert len(told) == len(found.losses)


def test_histories_start_with_the_untrained_network(results):
    for half in (1, 2):
        rows = list(csv.DictReader((results / f"models/ours/half{half}/diffusion_history.csv").open()))
        assert rows[0]["step"] == "0"
        assert float(rows[0]["validation_loss"]) > 0


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="relion_reconstruct is not installed")
@pytest.mark.parametrize("table", ["normalized/particles.star", "restored.ours/particles.star"])
def test_relion_reconstructs_from_what_we_write(run, results, table):
    command = ["relion_reconstruct", "--i", str((results / table).relative_to(run)), "--o", "relion.mrc", "--ctf"]
    done = subprocess.run(command, cwd=run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    volume = mrcfile.read(run / "relion.mrc")
    assert np.isfinite(volume).all()
    assert volume.std() > 0
