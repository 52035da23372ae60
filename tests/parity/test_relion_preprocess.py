"""Extraction and normalization against relion_preprocess (RELION 3.1.3): the same particles in the same order, the same columns, the same pixels."""

from dataclasses import replace

import numpy as np
import pytest

from parity.relion_runs import TOLERANCE, Settings, assert_same_particles, background_sigmas, needs_relion, run_ours, run_relion

pytestmark = needs_relion

SIMULATED = [
    Settings(40),
    Settings(40, invert=True),
    Settings(64),
    Settings(40, scale=20),
    Settings(40, scale=26, invert=True),
    Settings(40, bg_radius=15),
    Settings(40, bg_radius=15, invert=True),
    Settings(40, bg_radius=15, invert=True, ramp=False),
    Settings(40, scale=20, bg_radius=7, invert=True),
    Settings(40, scale=20, bg_radius=8, ramp=False),
    Settings(64, scale=48, bg_radius=18, invert=True),
    Settings(64, scale=32, bg_radius=16, invert=True),
    Settings(72, scale=50, bg_radius=20),
    Settings(60, scale=22, bg_radius=9, invert=True, ramp=False),
    Settings(60, scale=60, bg_radius=1),
]
EXPERIMENTAL = [
    Settings(144),
    Settings(144, invert=True),
    Settings(128, scale=90),
    Settings(144, scale=72, invert=True),
    Settings(144, bg_radius=54),
    Settings(144, bg_radius=54, invert=True, ramp=False),
    Settings(144, scale=72, bg_radius=26, invert=True),
    Settings(144, scale=72, bg_radius=26, ramp=False),
    Settings(144, scale=96, bg_radius=36),
    Settings(180, scale=90, bg_radius=33, invert=True),
    Settings(200, scale=50, bg_radius=18, invert=True),
    Settings(112, scale=64, bg_radius=32, ramp=False),
    Settings(96, bg_radius=30, invert=True),
    Settings(160, scale=108, bg_radius=40, invert=True, ramp=False),
]


def compare(scene, settings, **options):
    assert_same_particles(run_relion(scene, settings), run_ours(scene, settings, **options))


@pytest.mark.parametrize("settings", SIMULATED, ids=str)
def test_simulated_micrographs_give_relions_particles(simulated, settings):
    compare(simulated, settings)


@pytest.mark.parametrize("settings", EXPERIMENTAL, ids=str)
def test_an_experimental_micrograph_of_apoferritin_gives_relions_particles(apoferritin, settings):
    compare(replace(apoferritin, micrographs="one.star"), settings)


@pytest.mark.parametrize("settings", EXPERIMENTAL, ids=str)
def test_an_experimental_micrograph_with_autopicks_gives_relions_particles(contaminated, settings):
    """Its grey values are 6,800 with a sigma of a few: float32 holds what is rescaled to a step of 5e-4 only, in both programs' files."""
    raw = run_relion(contaminated, Settings(settings.box_size, settings.scale)).images
    step = np.spacing(np.abs(raw).max()) / background_sigmas(raw) if settings.scale else 0.0
    assert_same_particles(run_relion(contaminated, settings), run_ours(contaminated, settings), tolerance=TOLERANCE + step)


def test_all_micrographs_of_apoferritin_give_relions_particles(apoferritin):
    compare(apoferritin, Settings(144, scale=72, bg_radius=26, invert=True), threads=2)


@pytest.mark.parametrize("thresholds", [{"white_dust": 2.5}, {"black_dust": 2.2}, {"white_dust": 2.0, "black_dust": 2.5}], ids=str)
@pytest.mark.parametrize("settings", [Settings(40, bg_radius=15), Settings(64, 48, 18, True), Settings(64, 48, 18, True, False)], ids=str)
def test_dust_is_taken_from_the_same_pixels_and_the_others_agree(simulated, settings, thresholds):
    """The draws differ; what they replace must not. RELION removes dust before it inverts, we after: its white dust is our black dust then."""
    options = [word for name, value in thresholds.items() for word in (f"--{name}", str(value))]
    plain, theirs = run_relion(simulated, settings), run_relion(simulated, settings, *options)
    swap = {"white_dust": "black_dust", "black_dust": "white_dust"} if settings.invert else {}
    ours = run_ours(simulated, settings, dust={swap.get(name, name): value for name, value in thresholds.items()})
    raw = run_relion(simulated, Settings(settings.box_size, settings.scale)).images
    expected = dusty_pixels(raw.astype(np.float64), settings.bg_radius, **thresholds)
    assert 0.002 < expected.mean() < 0.05
    for found in (theirs.images, ours.images):
        np.testing.assert_array_equal(replaced_pixels(plain.images, found, settings.ramp), expected)


def dusty_pixels(images, bg_radius, white_dust=np.inf, black_dust=np.inf):
    """Pixels beyond so many sigmas of the background, counted from its mean."""
    y, x = np.indices(images.shape[1:]) - images.shape[-1] // 2
    values = images[:, x**2 + y**2 > bg_radius**2]
    scores = (images - values.mean(1)[:, None, None]) / values.std(1)[:, None, None]
    return (scores > white_dust) | (scores < -black_dust)


def replaced_pixels(plain, found, ramp):
    """Pixels that are no plane (or constant) and multiple of the image without dust removal: fitted again until none more falls out."""
    y, x = np.indices(plain.shape[1:])
    terms = [np.ones(x.size), *([x.ravel(), y.ravel()] if ramp else [])]
    replaced = np.zeros(plain.shape, bool)
    for one, other, out in zip(plain.astype(np.float64), found.astype(np.float64), replaced, strict=True):
        design, target = np.stack([one.ravel(), *terms], 1), other.ravel()
        distance = np.abs(target - one.ravel())
        keep = distance <= np.quantile(distance, 0.5)
        for _ in range(20):
            residual = np.abs(target - design @ np.linalg.lstsq(design[keep], target[keep], rcond=None)[0])
            keep = residual <= max(1e-4, np.quantile(residual, 0.5))
        out[:] = (residual > 1e-4).reshape(out.shape)
    return replaced
