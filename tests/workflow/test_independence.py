"""Half-sets are independent: whatever becomes of half 2, what half 1 learns and restores keeps every byte."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cryorestore.io.mrc import MrcStackReader, MrcStackWriter
from helpers import BOX, PIXEL, simulate_particles, write_particles

ROOT = Path(__file__).parents[2]
COUNT = 128
RESULTS = "results/small"
TARGETS = [f"{RESULTS}/restored.ours/half1/particles.star"]
LEARNT = [
    "raw/half1/map.mrc",
    "pairs/half1/reference_map.mrc",
    "pairs/half1/noise.json",
    "pairs/half1/pairs.safetensors",
    "models/ours/half1/diffusion.safetensors",
    "models/ours/half1/postprocess.safetensors",
]
RESTORED = ["particles.mrcs", "particles.star", "deviation.mrcs", "evidence.csv"]
SETTINGS = {
    "input": {"kind": "star", "particles_star": "particles.star", "box_size": BOX, "pixel_size": PIXEL},
    "normalize": {"bg_radius": 13, "whiten": "half_and_optics_group"},
    "preflight": {"refuse": False},
    "mask": {"radius": 50, "edge": 8},
    "reconstruct": {"backend": "native"},
    "poses": {"shift_sigma": 2.0},
    "posterior": {"rotations": [24, 16, 16]},
    "pairs": {"count": 48},
    "denoisers": ["ours"],
    "diffusion": {"steps": 6, "batch_size": 8, "warmup_steps": 2, "validation_every": 2, "patience": 2},
    "postprocess": {"steps": 6, "batch_size": 8, "warmup_steps": 2, "validation_every": 2, "patience": 2},
}


@pytest.fixture
def project(tmp_path):
    """A stack whose table says which half each particle belongs to, and its configuration."""
    data = simulate_particles(COUNT, sigma=1.0)
    halves = 1 + np.arange(COUNT) % 2
    write_particles(tmp_path, data, extra={"rlnRandomSubset": halves, "rlnMicrographName": [f"mic{row // 32}.mrc" for row in range(COUNT)]})
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SETTINGS))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"datasets": ["small"], "datasets_dir": str(tmp_path), "data_root": str(tmp_path)}))
    return tmp_path


def snakemake(folder, *arguments):
    command = [sys.executable, "-m", "snakemake", *arguments, "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--profile", str(ROOT / "profiles/local"), "--configfile", str(folder / "run.yaml")]
    environment = {name: value for name, value in os.environ.items() if name != "CRYORESTORE_DATA"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


def contents(folder):
    restored = [f"restored.ours/half1/{name}" for name in RESTORED]
    return {name: (folder / RESULTS / name).read_bytes() for name in (*LEARNT, *restored)}


def replace_half(folder, half):
    """Put other images, of another scale, in the place of every particle of a half."""
    stack = folder / "particles.mrcs"
    images = MrcStackReader(stack).read(range(COUNT))
    generator = np.random.default_rng(99)
    images[half - 1 :: 2] = 7.0 + 3.0 * generator.standard_normal(images[half - 1 :: 2].shape).astype(np.float32)
    with MrcStackWriter(stack, count=COUNT, box_size=BOX, pixel_size=PIXEL) as writer:
        writer.append(images)


@pytest.mark.slow
def test_other_particles_in_half_2_leave_every_byte_of_half_1_as_it_was(project):
    snakemake(project, *TARGETS)
    before, normalized = contents(project), (project / RESULTS / "normalized/particles.mrcs").read_bytes()
    replace_half(project, 2)
    output = snakemake(project, "--forceall", *TARGETS)
    # the second run did the work again, from other images
    for rule in ("normalize_particles", "reconstruct_map", "make_training_pairs", "train_diffusion", "train_postprocess", "restore_particles"):
        assert f"rule {rule}:" in output
    assert (project / RESULTS / "normalized/particles.mrcs").read_bytes() != normalized
    after = contents(project)
    assert [name for name in before if before[name] != after[name]] == []


def test_no_job_that_half_1_depends_on_reads_anything_of_half_2(project):
    plan = snakemake(project, "--dry-run", *TARGETS)
    inputs = [line for line in plan.splitlines() if line.strip().startswith("input:")]
    assert sum("half1" in line for line in inputs) >= 5
    assert [line for line in inputs if "half2" in line] == []
