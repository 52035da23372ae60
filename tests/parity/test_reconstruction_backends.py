"""One set of particles, three reconstructions: RELION, cryoDRGN and ours must agree in orientation, hand, sign and half-map FSC."""

import shutil
from pathlib import Path

import pytest
import torch

from cryorestore.fsc import fourier_shell_correlation
from cryorestore.io.mrc import read_map
from cryorestore.masks import soft_sphere
from cryorestore.reconstruct import reconstruct_map
from helpers import BOX, PIXEL, simulate_particles, write_particles

CRYODRGN = Path(__file__).parents[2] / ".venv-peers/bin/cryodrgn"
COUNT = 301
PROGRAMS = {
    "relion": pytest.param("relion", "relion_reconstruct", marks=[pytest.mark.relion]),
    "cryodrgn": pytest.param("cryodrgn", str(CRYODRGN), marks=[pytest.mark.slow]),
}


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("particles")
    data = simulate_particles(COUNT, sigma=0.3)
    return folder, write_particles(folder, data), data["volume"]


def reconstruct(particles, backend, program="", **options):
    folder, star, _ = particles
    outputs = {name: folder / f"{backend}_{name}.mrc" for name in ("map", "map_odd", "map_even")}
    reconstruct_map(star=star, **outputs, backend=backend, program=program, **options)
    return {name: torch.from_numpy(read_map(path)[0]) * soft_sphere(BOX, 11.0, 3.0) for name, path in outputs.items()}


def correlate(first, second):
    return fourier_shell_correlation(first, second, pixel_size=PIXEL).correlation


@pytest.mark.parametrize(("backend", "program"), PROGRAMS.values())
def test_a_backend_agrees_with_ours_and_with_the_truth(particles, backend, program):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    ours, theirs, truth = reconstruct(particles, "native"), reconstruct(particles, backend, program), particles[2] * soft_sphere(BOX, 11.0, 3.0)
    assert float(correlate(ours["map"], theirs["map"])[1:9].min()) > 0.97
    assert float(correlate(theirs["map"], truth)[1:9].min()) > 0.9
    assert float(correlate(theirs["map"].flip(0).roll(1, 0), truth)[6:11].mean()) < 0.5
    half_ours, half_theirs = correlate(ours["map_odd"], ours["map_even"]), correlate(theirs["map_odd"], theirs["map_even"])
    assert float((half_ours - half_theirs)[1:9].abs().max()) < 0.08


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="relion_reconstruct is not installed")
def test_our_map_is_no_worse_than_relions(particles):
    ours, theirs, truth = (
        reconstruct(particles, "native"),
        reconstruct(particles, "relion", "relion_reconstruct"),
        particles[2] * soft_sphere(BOX, 11.0, 3.0),
    )
    assert float((correlate(ours["map"], truth) - correlate(theirs["map"], truth))[1:12].mean()) > -0.01
