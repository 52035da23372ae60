"""Extraction and normalization against relion_preprocess (RELION 3.1): the same particles in the same order, the same pixels."""

import os
import shutil
import subprocess

import numpy as np
import pytest

from cryorestore.extract import extract_particles
from cryorestore.io.mrc import MrcStackReader, read_micrograph, write_micrograph
from cryorestore.io.star import StarBlock, read_star, write_star
from cryorestore.normalize import normalize_particles
from cryorestore.particles import ParticleTable

pytestmark = [pytest.mark.relion, pytest.mark.skipif(shutil.which("relion_preprocess") is None, reason="relion_preprocess is not on PATH")]
TOLERANCE = 1e-4  # background sigmas

# box, scale, bg_radius, invert, ramp; bg_radius None: not normalized
COMBINATIONS = [
    (64, None, None, False, True),
    (64, None, None, True, True),
    (64, None, 24, False, True),
    (64, None, 24, True, True),
    (64, None, 24, True, False),
    (64, 48, None, False, True),
    (64, 48, 18, True, True),
    (64, 32, 12, True, False),
    (72, 50, 20, False, True),
    (60, 22, 9, True, True),
]


@pytest.fixture
def simulated(tmp_path):
    """A noisy micrograph with a gradient; picks with fractions, some over the edge."""
    generator = np.random.default_rng(3)
    y, x = np.mgrid[:300, :340]
    image = 1000 + 40 * generator.standard_normal((300, 340)) + 0.2 * x - 0.1 * y + 60 * np.sin(x / 7) * np.cos(y / 11)
    write_micrograph(tmp_path / "mics" / "a.mrc", image, pixel_size=1.5)
    places = np.concatenate([generator.uniform(40, 260, (12, 2)), [[3.7, 150.2], [-4.6, 20.0], [330.9, 290.9], [170.5, -0.4], [336, 5]]])
    picks = StarBlock.from_columns({"rlnCoordinateX": places[:, 0], "rlnCoordinateY": places[:, 1]})
    write_star(tmp_path / "picks" / "mics" / "a_pick.star", {"": picks})
    _write_micrograph_table(tmp_path, "mics/a.mrc")
    return tmp_path, "picks/", "_pick.star"


@pytest.fixture
def apoferritin(tmp_path, data_root):
    """One experimental micrograph with hand picks, some of them at its edge."""
    source = data_root / "apoferritin-empiar10146" / "micrographs"
    name = "May08_04.32.27"
    (tmp_path / "picks" / "micrographs").mkdir(parents=True)
    # as float32: RELION 3.1.3 takes the unsigned 16-bit values above 32767 for negative ones
    write_micrograph(tmp_path / "micrographs" / f"{name}.mrc", read_micrograph(source / f"{name}.mrc")[0], pixel_size=1.5)
    shutil.copy(source / f"{name}_manualpick.star", tmp_path / "picks" / "micrographs")
    _write_micrograph_table(tmp_path, f"micrographs/{name}.mrc")
    return tmp_path, "picks/", "_manualpick.star"


def _write_micrograph_table(folder, name):
    optics = {"rlnOpticsGroupName": "one", "rlnOpticsGroup": "1", "rlnMicrographPixelSize": "1.5", "rlnMicrographOriginalPixelSize": "1.5"}
    optics |= {"rlnVoltage": "300.0", "rlnSphericalAberration": "2.7", "rlnAmplitudeContrast": "0.07"}
    row = {"rlnMicrographName": name, "rlnOpticsGroup": "1", "rlnDefocusU": "17000.0", "rlnDefocusV": "16500.0", "rlnDefocusAngle": "-40.0"}
    blocks = {"optics": optics, "micrographs": row}
    write_star(folder / "micrographs.star", {key: StarBlock.from_columns({k: [v] for k, v in values.items()}) for key, values in blocks.items()})


def _run_relion(scene, box_size, scale, bg_radius, invert, ramp, dust=()):
    folder, picks, suffix = scene
    command = ["relion_preprocess", "--i", "micrographs.star", "--coord_dir", picks, "--coord_suffix", suffix, "--part_star", "relion.star"]
    command += ["--part_dir", "relion/", "--extract", "--extract_size", str(box_size), *dust]
    command += ["--scale", str(scale)] if scale else []
    command += ["--norm", "--bg_radius", str(bg_radius)] if bg_radius else []
    command += ["--invert_contrast"] if invert else []
    command += [] if ramp else ["--no_ramp"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    rows = read_star(folder / "relion.star").blocks["particles"]
    images = []
    for name in rows.column("rlnImageName"):
        number, _, stack = name.partition("@")
        images.append(MrcStackReader(folder / stack).read([int(number) - 1])[0])
    return rows, read_star(folder / "relion.star").blocks["optics"], np.stack(images)


def _run_ours(scene, box_size, scale, bg_radius, invert, ramp, **dust):
    folder, picks, _ = scene
    coordinates = next((folder / picks).iterdir())
    star = folder / "ours.star"
    extract_particles(
        micrographs_star=folder / "micrographs.star",
        coordinates=coordinates,
        stack=folder / "ours.mrcs",
        star=star,
        rejects_star=folder / "rejects.star",
        box_size=box_size,
        scale=scale,
        invert_contrast=invert,
    )
    if bg_radius:
        star = folder / "ours_normalized.star"
        normalize_particles(
            star=folder / "ours.star",
            normalized_stack=folder / "ours_normalized.mrcs",
            normalized_star=star,
            statistics_csv=folder / "statistics.csv",
            rejects_star=folder / "rejects.star",
            bg_radius=bg_radius,
            remove_ramp=ramp,
            **dust,
        )
    return ParticleTable.read(star)


def _compare(scene, box_size, scale, bg_radius, invert, ramp):
    rows, optics, expected = _run_relion(scene, box_size, scale, bg_radius, invert, ramp)
    table = _run_ours(scene, box_size, scale, bg_radius, invert, ramp)
    for name in ("rlnCoordinateX", "rlnCoordinateY", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"):
        np.testing.assert_allclose(table.particles.floats(name), rows.floats(name), atol=1e-5)
    assert table.pixel_size == pytest.approx(optics.floats("rlnImagePixelSize")[0], abs=1e-5)
    found = table.load_images()
    sigma = 1.0 if bg_radius else expected.std()
    worst = float(np.abs(found - expected).max() / sigma)
    print(f"largest difference {worst:.2e} background sigmas")
    assert worst < TOLERANCE


@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
def test_a_simulated_micrograph_gives_relions_particles(simulated, combination):
    _compare(simulated, *combination)


@pytest.mark.parametrize("combination", [(144, None, None, False, True), (144, 72, 26, True, True), (144, 72, 26, True, False)], ids=str)
def test_experimental_apoferritin_gives_relions_particles(apoferritin, combination):
    _compare(apoferritin, *combination)


def test_relions_white_dust_is_our_black_dust_after_inversion(simulated):
    combination = (64, None, 24, True, True)
    _, _, expected = _run_relion(simulated, *combination, dust=("--white_dust", "2.5"))
    found = _run_ours(simulated, *combination, black_dust=2.5).load_images()
    plain = _run_ours(simulated, *combination).load_images()
    assert np.abs(found - expected).mean() < 0.5 * np.abs(plain - expected).mean()
