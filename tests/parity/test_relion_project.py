"""Our projections, shifts and CTF against RELION's own: angles, signs and grey scale at once, on an asymmetric map."""

import shutil
import subprocess

import numpy as np
import pytest
import torch

from cryorestore.ctf import ctf_2d
from cryorestore.io.mrc import MrcStackReader, write_map
from cryorestore.particles import ParticleTable
from cryorestore.project import FourierVolume
from helpers import BOX, PIXEL, simulate_particles, write_particles

pytestmark = [pytest.mark.relion, pytest.mark.skipif(shutil.which("relion_project") is None, reason="relion_project is not installed")]


@pytest.fixture(scope="module")
def projections(tmp_path_factory):
    folder = tmp_path_factory.mktemp("relion")
    data = simulate_particles(6, sigma=0.0, shift=3.0)
    star = write_particles(folder, data)
    write_map(folder / "map.mrc", data["volume"].numpy(), pixel_size=PIXEL)
    command = ["relion_project", "--i", "map.mrc", "--o", "projected", "--ang", star.name, "--angpix", str(PIXEL), "--ctf"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return ParticleTable.read(star), data["volume"], torch.from_numpy(MrcStackReader(folder / "projected.mrcs").read(range(6)))


def test_every_shell_agrees_in_phase_and_in_grey_scale(projections):
    table, volume, theirs = projections
    slicer = FourierVolume(volume, max_shell=BOX // 2 - 1)
    coefficients = slicer.coefficients
    contrast = coefficients.select(ctf_2d(table.ctf_parameters(), box_size=BOX, pixel_size=PIXEL))
    shifts = torch.from_numpy(-table.origins() / PIXEL).float()
    ours = slicer.slices(torch.from_numpy(table.rotation_matrices()).float()) * contrast * coefficients.shift_phases(shifts)
    relion = coefficients.from_images(theirs)
    for shell in range(1, 13):
        here = coefficients.shell == shell
        a, b = ours[:, here], relion[:, here]
        correlation = (a * b.conj()).real.sum() / (a.abs().square().sum() * b.abs().square().sum()).sqrt()
        assert float(correlation) > 0.999
        assert float(a.abs().square().sum() / b.abs().square().sum()) == pytest.approx(1.0, abs=0.02)


def test_the_other_sign_of_the_origin_does_not_agree(projections):
    table, volume, theirs = projections
    slicer = FourierVolume(volume, max_shell=BOX // 2 - 1)
    coefficients = slicer.coefficients
    contrast = coefficients.select(ctf_2d(table.ctf_parameters(), box_size=BOX, pixel_size=PIXEL))
    wrong = slicer.slices(torch.from_numpy(table.rotation_matrices()).float()) * contrast
    wrong = coefficients.to_images(wrong * coefficients.shift_phases(torch.from_numpy(table.origins() / PIXEL).float()))
    assert np.corrcoef(wrong.flatten(), theirs.flatten())[0, 1] < 0.9
