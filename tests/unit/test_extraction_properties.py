"""Extraction and normalization against plain loops in float64, over boxes, places, edges, scales, shapes and types of pixels."""

import tempfile
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cryorestore.errors import CryorestoreError
from cryorestore.extract import EDGE_POLICIES, extract_particles
from cryorestore.io.mrc import MrcStackReader
from cryorestore.io.star import StarBlock, read_star, write_star
from cryorestore.normalize import normalize_particles

PROFILE = settings(max_examples=20, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
PIXELS = {"int8": (-50, 30), "int16": (-3000, 400), "uint16": (40000, 900), "float32": (7.0, 3.0), "float16": (20.0, 3.0)}

places = st.floats(-40, 70, allow_nan=False, width=32).map(lambda value: round(value, 3))
even = st.integers(2, 10).map(lambda half: 2 * half)


@st.composite
def scenes(draw, *, dtypes=tuple(PIXELS)):
    """A micrograph's pixels, and picks inside, over the edges and outside; the first is inside."""
    shape = draw(st.integers(12, 34)), draw(st.integers(12, 34))
    dtype = draw(st.sampled_from(dtypes))
    level, spread = PIXELS[dtype]
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = (level + spread * generator.uniform(-1, 1, shape)).astype(dtype)
    picks = [(shape[1] / 2, shape[0] / 2), *draw(st.lists(st.tuples(places, places), max_size=5))]
    return image, picks


def extract(folder, scene, *, box_size, **options):
    """Files on disk, the step, and what it wrote: kept rows, rejected rows, images."""
    image, picks = scene
    mrcfile.write(folder / "a.mrc", image, overwrite=True)
    optics = {"rlnOpticsGroupName": ["one"], "rlnOpticsGroup": ["1"], "rlnMicrographPixelSize": ["1.5"]}
    micrographs = {"rlnMicrographName": ["a.mrc"], "rlnOpticsGroup": ["1"]}
    write_star(folder / "mics.star", {"optics": StarBlock.from_columns(optics), "micrographs": StarBlock.from_columns(micrographs)})
    rows = {"rlnCoordinateX": [repr(x) for x, _ in picks], "rlnCoordinateY": [repr(y) for _, y in picks], "mine": np.arange(len(picks))}
    write_star(folder / "a_picks.star", {"": StarBlock.from_columns(rows)})
    outputs = {"stack": folder / "p.mrcs", "star": folder / "p.star", "rejects_star": folder / "r.star"}
    extract_particles(micrographs_star=folder / "mics.star", coordinates=[folder / "a_picks.star"], box_size=box_size, **outputs, **options)
    kept, rejected = (read_star(outputs[name]).blocks["particles"] for name in ("star", "rejects_star"))
    return kept, rejected, MrcStackReader(outputs["stack"]).read(range(len(kept)))


def normalize(folder, **options):
    names = {"normalized_stack": "n.mrcs", "normalized_star": "n.star", "statistics_csv": "n.csv", "rejects_star": "nr.star"}
    normalize_particles(star=folder / "p.star", **{name: folder / file for name, file in names.items()}, **options)
    return MrcStackReader(folder / "n.mrcs").read(range(len(read_star(folder / "n.star").blocks["particles"])))


def naive_box(image, x, y, box_size, edge_policy):
    """The box of one pick, pixel by pixel; None where it is not kept."""
    rows, columns = image.shape
    box, inside = np.zeros((box_size, box_size)), np.zeros((box_size, box_size), bool)
    for i in range(box_size):
        for j in range(box_size):
            row, column = int(y) - box_size // 2 + i, int(x) - box_size // 2 + j
            inside[i, j] = 0 <= row < rows and 0 <= column < columns
            box[i, j] = image[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)]
    if not inside.any() or (edge_policy == "drop" and not inside.all()):
        return None
    return np.where(inside, box, box[inside].mean()) if edge_policy == "mean" else box


def naive_rescale(box, scale):
    """Sum of the waves that the smaller box can hold, each by its definition; of the two at its Nyquist frequency the positive one."""
    size, half = len(box), scale // 2
    old, new = np.arange(size) - size // 2, np.arange(scale) - half
    rescaled = np.zeros((scale, scale))
    for ky in range(-half + 1, half + 1):
        for kx in range(half + 1):
            wave = np.exp(-2j * np.pi * (ky * old[:, None] + kx * old) / size)
            amplitude = (box * wave).sum() / size**2
            twice = 1 if kx in (0, half) else 2
            rescaled += twice * (amplitude * np.exp(2j * np.pi * (ky * new[:, None] + kx * new) / scale)).real
    return rescaled


def naive_normalize(image, bg_radius, remove_ramp):
    """A plane or a mean taken from the background, then its sigma; also the sigma."""
    size = len(image)
    background = [(i, j) for i in range(size) for j in range(size) if (i - size // 2) ** 2 + (j - size // 2) ** 2 > bg_radius**2]
    design = np.array([[1.0, i, j] if remove_ramp else [1.0] for i, j in background])
    plane = np.linalg.lstsq(design, np.array([image[place] for place in background]), rcond=None)[0]
    flat = np.array([[image[i, j] - plane @ ([1.0, i, j] if remove_ramp else [1.0]) for j in range(size)] for i in range(size)])
    values = np.array([flat[place] for place in background])
    sigma = np.sqrt(((values - values.mean()) ** 2).mean())
    return (flat - values.mean()) / sigma, sigma, values - values.mean()


def expected_boxes(scene, box_size, scale, invert, edge_policy):
    image, picks = scene
    boxes = [naive_box(image.astype(np.float64), x, y, box_size, edge_policy) for x, y in picks]
    kept = [number for number, box in enumerate(boxes) if box is not None]
    sign = -1.0 if invert else 1.0
    return kept, [sign * (boxes[number] if scale == box_size else naive_rescale(boxes[number], scale)) for number in kept]


@PROFILE
@given(scene=scenes(), box_size=even, smaller=even, invert=st.booleans(), edge_policy=st.sampled_from(EDGE_POLICIES))
def test_every_pick_is_kept_or_rejected_once_and_every_pixel_is_the_loops(scene, box_size, smaller, invert, edge_policy):
    scale = min(smaller, box_size)
    kept, images = expected_boxes(scene, box_size, scale, invert, edge_policy)
    assume(kept)
    with tempfile.TemporaryDirectory() as folder:
        options = {"scale": scale, "invert_contrast": invert, "edge_policy": edge_policy}
        rows, rejected, found = extract(Path(folder), scene, box_size=box_size, **options)
    assert rows.ints("mine").tolist() == kept
    assert rejected.ints("mine").tolist() == [number for number in range(len(scene[1])) if number not in kept]
    assert all("outside the micrograph" in reason for reason in (rejected.column("rlnCryorestoreRejectReason") if len(rejected) else []))
    level = np.abs(scene[0].astype(np.float64)).max()
    np.testing.assert_allclose(found, images, rtol=0, atol=3e-7 * level)


@PROFILE
@given(scene=scenes(dtypes=("float32", "int16")), box_size=even, smaller=even, ramp=st.booleans(), fraction=st.floats(0.3, 1.0))
def test_normalization_is_the_loops_and_commutes_with_inversion(scene, box_size, smaller, ramp, fraction):
    scale = max(6, min(smaller, box_size))
    assume(scale <= box_size)
    bg_radius = fraction * scale / 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, _, raw = extract(folder, scene, box_size=box_size, scale=scale, invert_contrast=False)
        naive = [naive_normalize(image.astype(np.float64), bg_radius, ramp) for image in raw]
        assume(all(sigma > 1e-3 * np.abs(scene[0]).max() for _, sigma, _ in naive))
        upright = normalize(folder, bg_radius=bg_radius, remove_ramp=ramp)
        extract(folder, scene, box_size=box_size, scale=scale, invert_contrast=True)
        inverted = normalize(folder, bg_radius=bg_radius, remove_ramp=ramp)
    np.testing.assert_allclose(upright, [image for image, _, _ in naive], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(inverted, -upright)
    y, x = np.indices((scale, scale)) - scale // 2
    values = upright[:, x**2 + y**2 > bg_radius**2].astype(np.float64)
    np.testing.assert_allclose(values.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(1), 1, atol=1e-5)


@PROFILE
@given(scene=scenes(), box_size=even, smaller=even, edge_policy=st.sampled_from(EDGE_POLICIES))
def test_rescaling_keeps_the_mean_and_inversion_commutes_with_it(scene, box_size, smaller, edge_policy):
    assume(expected_boxes(scene, box_size, box_size, False, edge_policy)[0])
    with tempfile.TemporaryDirectory() as name:
        options = {"box_size": box_size, "edge_policy": edge_policy}
        _, _, full = extract(Path(name), scene, invert_contrast=False, **options)
        _, _, small = extract(Path(name), scene, scale=min(smaller, box_size), invert_contrast=False, **options)
        _, _, inverted = extract(Path(name), scene, scale=min(smaller, box_size), invert_contrast=True, **options)
    level = np.abs(scene[0].astype(np.float64)).max()
    np.testing.assert_allclose(small.mean((1, 2), np.float64), full.mean((1, 2), np.float64), rtol=0, atol=3e-7 * level)
    np.testing.assert_array_equal(inverted, -small)


def test_no_pick_on_the_micrograph_is_an_error_that_counts_them(tmp_path):
    with pytest.raises(CryorestoreError, match="0 particles to extract"):
        extract(tmp_path, (np.ones((20, 20), np.float32), [(-40.0, 3.0), (10.0, 90.0)]), box_size=8)
