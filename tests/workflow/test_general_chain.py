"""Small chains with the method general: particles without poses end restored, and with poses the restored resolution is withheld."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cryorestore.io.mrc import MrcStackWriter
from cryorestore.io.star import StarBlock, write_star
from cryorestore.particles import ParticleTable
from helpers import write_narrow_weights

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def snakemake(folder, configfile, *arguments):
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--profile", str(ROOT / "profiles/local"), "--configfile", str(configfile), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_narrow_weights(tmp_path_factory.mktemp("weights"))


def write_config(folder, base, changes):
    settings = yaml.safe_load((ROOT / base).read_text()) if base else {}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | changes))
    return folder / "config.yaml"


def test_particles_without_poses_end_restored(tmp_path, weights, monkeypatch):
    generator = np.random.default_rng(0)
    axis = np.arange(48) - 24
    images = generator.standard_normal((80, 48, 48)) + (np.hypot(axis[:, None], axis) < 14)
    with MrcStackWriter(tmp_path / "particles.mrcs", count=80, box_size=48, pixel_size=4.0) as writer:
        writer.append(images.astype(np.float32))
    optics = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [4.0], "rlnVoltage": [300], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1]}
    columns = {"rlnImageName": [f"{number:06d}@particles.mrcs" for number in range(1, 81)], "rlnOpticsGroup": np.ones(80, int)}
    columns |= {"rlnDefocusU": np.full(80, 1.5e4), "rlnDefocusV": np.full(80, 1.5e4), "rlnDefocusAngle": np.zeros(80)}
    blocks = {"optics": {name: np.array(values) for name, values in optics.items()}, "particles": columns}
    write_star(tmp_path / "particles.star", {name: StarBlock.from_columns(values) for name, values in blocks.items()})
    (tmp_path / "sets").mkdir()
    given = {"kind": "star", "particles_star": "particles.star", "has_poses": False}
    own = {"input": given, "normalize": {"bg_radius": 20}, "mask": {"radius": 60}, "denoisers": ["general"], "general": {"weights": str(weights)}}
    (tmp_path / "sets/unposed.yaml").write_text(yaml.safe_dump(own))
    run = {"datasets": ["unposed"], "datasets_dir": str(tmp_path / "sets"), "data_root": str(tmp_path)}
    snakemake(tmp_path, write_config(tmp_path, None, run))
    monkeypatch.chdir(tmp_path)
    normalized, restored = (ParticleTable.read(f"results/unposed/{folder}/particles.star") for folder in ("normalized", "restored.general"))
    assert restored.particles.column("rlnDefocusU") == normalized.particles.column("rlnDefocusU")
    assert restored.load_images().shape == (80, 48, 48)
    assert np.isfinite(restored.particles.floats("rlnCryorestoreLogEvidence")).all()
    assert "restore_general" in json.loads(Path("results/unposed/restored.general/provenance.json").read_text())
    assert "Nothing to be done" in snakemake(tmp_path, tmp_path / "config.yaml")


def test_with_poses_the_restored_halves_resolution_is_withheld_with_the_reason(tmp_path, weights):
    changes = {"denoisers": ["general"], "general": {"weights": str(weights)}, "datasets_dir": str(ROOT / "config/test/datasets")}
    output = snakemake(tmp_path, write_config(tmp_path, "config/test/tiny.yaml", changes))
    results = tmp_path / "results/tiny"
    summary = json.loads((results / "summary.json").read_text())
    assert summary["method"] == "general"
    assert summary["self_consistency_restored_0143"] is None
    assert "both halves are restored by one network" in summary["self_consistency_reason"]
    assert summary["controls"]["noise_only"]["details"]["simulated_particles"] == 40
    assert "both halves are restored by one network" in (results / "report.html").read_text()
    assert (results / "restored.general/half1/deviation.mrcs").exists()
    assert "train_diffusion" not in output
