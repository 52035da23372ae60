"""relion_reconstruct and cryoDRGN read our particles as they are and make the same map of them as of RELION's."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from cryorestore.fsc import fourier_shell_correlation
from cryorestore.io.mrc import read_map
from cryorestore.io.star import read_star, write_star
from cryorestore.masks import soft_sphere
from parity.conftest import simulate
from parity.relion_runs import Scene, Settings, needs_relion, run_ours, run_relion

CRYODRGN = Path(__file__).parents[2] / ".venv-peers/bin/cryodrgn"
pytestmark = needs_relion
BOX, PIXEL = 40, 5.0
SIGNAL = 19
POSES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")
SETTINGS = Settings(BOX, bg_radius=15, invert=True)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The folder, and the tables of the same particles by RELION and by us, both normalized and white.

    The poses have three decimals, which RELION writes too: relion_reconstruct's map of so few particles changes near Nyquist with the sixth
    decimal of an angle.
    """
    folder = simulate(tmp_path_factory.mktemp("maps"), count=6, per_micrograph=24, micrograph_size=420)
    blocks = read_star(folder / "particles.star").blocks
    poses = {name: [f"{value:.3f}" for value in blocks["particles"].floats(name)] for name in POSES}
    write_star(folder / "rounded.star", {"optics": blocks["optics"], "particles": blocks["particles"].with_columns(poses)})
    scene = Scene(folder, micrographs="simulated.star")
    run_relion(scene, SETTINGS, reextract="rounded.star")
    run_ours(scene, SETTINGS, particles_star=folder / "rounded.star")
    return folder, next(folder.glob("relion_*/all.star")), next(folder.glob("ours_*/n.star"))


def assert_same_map(paths, truth, *, least):
    """In every shell from 1 to Nyquist, signal or noise; and with the CTF corrected it is a map of the molecule, up to the last shell with signal.

    Shell 0, the mean, is rounding: cryoDRGN's maps have none.
    """
    theirs, ours = (torch.from_numpy(read_map(path)[0]) for path in paths)
    same = fourier_shell_correlation(theirs, ours, pixel_size=PIXEL).correlation[1 : BOX // 2 + 1]
    sphere = soft_sphere(BOX, 13.0, 4.0)
    right = fourier_shell_correlation(ours * sphere, torch.from_numpy(read_map(truth)[0]) * sphere, pixel_size=PIXEL).correlation
    print(f"smallest FSC {float(same.min()):.7f} at shell {int(same.argmin()) + 1}; to the truth", right[: BOX // 2 + 1].numpy().round(2).tolist())
    assert float(same.min()) > 0.999
    assert float(right[1:SIGNAL].min()) > least


@pytest.mark.parametrize("options", [("--ctf",), ()], ids=["ctf", "no_ctf"])
def test_relion_reconstruct_makes_the_same_map_of_both(tables, options):
    folder, *stars = tables
    maps = [folder / f"relion_{number}_{len(options)}.mrc" for number in range(2)]
    for star, volume in zip(stars, maps, strict=True):
        command = ["relion_reconstruct", "--i", str(star.relative_to(folder)), "--o", volume.name, *options]
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-1000:]
    assert_same_map(maps, folder / "truth.mrc", least=0.143 if options else -1.0)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(CRYODRGN) is None, reason=f"{CRYODRGN} is not installed")
def test_cryodrgn_makes_the_same_map_of_both(tables):
    """Poses and CTF are read from our table, images from both."""
    folder, *stars = tables
    for command in ("parse_pose_star", "parse_ctf_star"):
        run_cryodrgn(folder, command, str(stars[1]), "-o", f"{command}.pkl", "-D", str(BOX), "--Apix", str(PIXEL))
    options = ("--poses", "parse_pose_star.pkl", "--ctf", "parse_ctf_star.pkl", "--no-fsc-vals", "-o")
    outputs = [f"cryodrgn_{number}" for number in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda star, output: run_cryodrgn(folder, "backproject_voxel", str(star), *options, output), stars, outputs))
    assert_same_map([folder / output / "backproject.mrc" for output in outputs], folder / "truth.mrc", least=0.143)


def run_cryodrgn(folder, *command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(CRYODRGN), *command], cwd=folder, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
