"""The forms that micrographs, coordinates and tables come in, against relion_preprocess (RELION 3.1.3)."""

from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from PIL import Image

from cryorestore.io.mrc import read_micrograph, write_micrograph
from cryorestore.io.star import read_star
from parity.relion_runs import Scene, Settings, assert_same_columns, assert_same_particles, needs_relion, optics_table, run_ours, run_relion
from parity.relion_runs import star as write_tables

pytestmark = needs_relion
SETTINGS = Settings(40, scale=26, bg_radius=10, invert=True)
PLAIN = Settings(40)

PIXELS = {
    "int8": ("mrc", np.int8, 1, -60),
    "int16": ("mrc", np.int16, 1, -60),
    "uint16": ("mrc", np.uint16, 1, 0),
    "float32": ("mrc", np.float32, 1, 0.25),
    "uint8.tif": ("tif", np.uint8, 1, 0),
    "uint16.tif": ("tif", np.uint16, 1, 0),
    "uint16-large.tif": ("tif", np.uint16, 300, 20000),
    "float32.tif": ("tif", np.float32, 1, 0.25),
}
"""The file, its type, and what the grey values are multiplied with and raised by."""


def write_scene(folder: Path, image: np.ndarray, *, ending: str = "mrc", places: np.ndarray) -> Scene:
    """One micrograph (row 0 first) of the given type, and picks."""
    (folder / "mics").mkdir()
    if ending == "mrc":
        mrcfile.write(folder / "mics/a.mrc", image, voxel_size=1.5)
    else:
        # a TIFF's first row is its uppermost; RELION turns it into MRC's order, lowest first
        Image.fromarray(image[::-1]).save(folder / f"mics/a.{ending}")
    write_tables(folder / "picks/mics/a_pick.star", plain={"rlnCoordinateX": places[:, 0], "rlnCoordinateY": places[:, 1]})
    write_tables(
        folder / "micrographs.star", optics=optics_table([1.5]), micrographs={"rlnMicrographName": [f"mics/a.{ending}"], "rlnOpticsGroup": ["1"]}
    )
    return Scene(folder)


@pytest.fixture
def grey_values():
    """An image of 130 rows and 150 columns from 0 to 120."""
    y, x = np.mgrid[:130, :150]
    return (60 + 15 * np.random.default_rng(3).standard_normal(y.shape) + 0.1 * x - 0.05 * y).clip(0, 120)


@pytest.fixture
def places():
    """Places inside, and some over the edges."""
    return np.concatenate([np.random.default_rng(4).uniform(25, 105, (8, 2)), [[2.5, 60.0], [148.9, 129.0], [-3.5, 70.2], [80.0, 139.5]]])


@pytest.mark.parametrize("settings", [PLAIN, SETTINGS], ids=str)
@pytest.mark.parametrize("pixels", PIXELS)
def test_every_type_of_micrograph_gives_relions_particles(tmp_path, grey_values, places, pixels, settings):
    ending, dtype, gain, offset = PIXELS[pixels]
    scene = write_scene(tmp_path, (gain * grey_values + offset).astype(dtype), ending=ending, places=places)
    assert_same_particles(run_relion(scene, settings), run_ours(scene, settings))


def test_an_experimental_micrograph_as_16_bit_tiff_gives_relions_particles(tmp_path, data_root):
    source = data_root / "apoferritin-empiar10146/micrographs"
    picks = read_star(source / "May08_04.32.27_manualpick.star").blocks[""]
    image = read_micrograph(source / "May08_04.32.27.mrc")[0].astype(np.uint16)
    scene = write_scene(tmp_path, image, ending="tif", places=np.stack([picks.floats("rlnCoordinateX"), picks.floats("rlnCoordinateY")], 1))
    settings = Settings(144, scale=72, bg_radius=26, invert=True)
    assert_same_particles(run_relion(scene, settings), run_ours(scene, settings))


def test_large_unsigned_values_of_mode_6_stay_positive_here_and_become_negative_in_relion(tmp_path, data_root):
    source = data_root / "apoferritin-empiar10146/micrographs/May08_04.32.27.mrc"
    image = mrcfile.read(source)
    assert image.dtype == np.uint16
    scene = write_scene(tmp_path, image, places=np.array([[600.0, 620.0]]))
    theirs, ours = run_relion(scene, PLAIN).images[0], run_ours(scene, PLAIN).images[0]
    np.testing.assert_array_equal(ours, image[600:640, 580:620])
    np.testing.assert_array_equal(theirs, np.where(ours > 32767, ours - 65536, ours))
    assert (ours > 32767).mean() > 0.3


def test_float16_which_relion_refuses_is_read_as_its_float32_copy(tmp_path, grey_values, places):
    half = grey_values.astype(np.float16)
    (tmp_path / "half").mkdir()
    (tmp_path / "single").mkdir()
    refused, copy = write_scene(tmp_path / "half", half, places=places), write_scene(tmp_path / "single", half.astype(np.float32), places=places)
    assert "does not support half-precision" in run_relion(refused, PLAIN, check=False)
    assert_same_particles(run_relion(copy, SETTINGS), run_ours(refused, SETTINGS))


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".box", "20 30 24 24\n100\t90\t24\t24\t-3\n-5 -7 24 24\n"),
        (".box", "20 30 25 25\n60 61 39 41\n"),
        (".txt", "20 30\n140 125\n-4 60\n"),
        ("_picks.txt", "x y\n20 30\n77 78 0.5\n"),
    ],
)
def test_whole_numbers_in_box_and_text_files_give_relions_particles(tmp_path, grey_values, places, suffix, text):
    scene = replace(write_scene(tmp_path, grey_values.astype(np.float32), places=places), suffix=suffix, picks="./")
    (tmp_path / f"mics/a{suffix}").write_text(text)
    theirs, ours = run_relion(scene, PLAIN), run_ours(scene, PLAIN)
    assert theirs.images.shape == ours.images.shape
    np.testing.assert_array_equal(theirs.images, ours.images)
    for name in ("rlnCoordinateX", "rlnCoordinateY"):
        # 25 / 2 is 12 for RELION, which cuts every digit after the point
        np.testing.assert_array_equal(np.trunc(ours.rows.floats(name)), theirs.rows.floats(name))


@pytest.mark.parametrize(
    ("suffix", "text", "ours", "relions"),
    [
        (".txt", "20.7 30.2\n40.9 50.5\n-3.7 5\n", [[20.7, 30.2], [40.9, 50.5], [-3.7, 5]], [[20, 30], [40, 50], [-3, 5]]),
        (".box", "50.6 50.2 24 24\n-5.6 -7 24 24\n", [[62.6, 62.2], [6.4, 5]], [[62, 62], [7, 5]]),
        (".box", "20.7 30.2 25 25\n", [[33.2, 42.7]], [[32, 42]]),
    ],
)
def test_fractions_in_box_and_text_files_are_kept_where_relion_cuts_them(tmp_path, grey_values, places, suffix, text, ours, relions):
    """Known difference: the box lies where the uncut centre is, so up to 1 px beside RELION's where a corner or half a size has a fraction."""
    scene = replace(write_scene(tmp_path, grey_values.astype(np.float32), places=places), suffix=suffix, picks="./")
    (tmp_path / f"mics/a{suffix}").write_text(text)
    for expected, rows in ((relions, run_relion(scene, PLAIN).rows), (ours, run_ours(scene, PLAIN).rows)):
        np.testing.assert_allclose(np.stack([rows.floats("rlnCoordinateX"), rows.floats("rlnCoordinateY")], 1), expected, atol=1e-6)


def test_coordinates_beside_the_micrographs_give_relions_particles(simulated, tmp_path):
    for name in ("mic_0001", "mic_0002"):
        for source in (simulated.folder / "micrographs" / f"{name}.mrc", simulated.folder / "picks/micrographs" / f"{name}_pick.star"):
            (tmp_path / "micrographs").mkdir(exist_ok=True)
            (tmp_path / "micrographs" / source.name).write_bytes(source.read_bytes())
    (tmp_path / "micrographs.star").write_bytes((simulated.folder / "micrographs.star").read_bytes())
    rows = read_star(tmp_path / "micrographs.star").blocks
    write_tables(
        tmp_path / "micrographs.star",
        optics={name: rows["optics"].column(name) for name in rows["optics"].columns},
        micrographs={name: rows["micrographs"].column(name)[:2] for name in rows["micrographs"].columns},
    )
    scene = Scene(tmp_path, picks="./")
    assert_same_particles(run_relion(scene, SETTINGS), run_ours(scene, SETTINGS))


def test_optics_groups_of_different_pixel_size_are_extracted_like_relions(simulated, tmp_path):
    rows = read_star(simulated.folder / "micrographs.star").blocks["micrographs"]
    (tmp_path / "micrographs").symlink_to(simulated.folder / "micrographs")
    (tmp_path / "picks").symlink_to(simulated.folder / "picks")
    columns = {name: rows.column(name) for name in rows.columns}
    more = {"rlnMtfFileName": ["one.star", "two.star"], "rlnBeamTiltX": ["0.1", "-0.2"], "rlnBeamTiltY": ["0.0", "0.3"]}
    write_tables(tmp_path / "micrographs.star", optics=optics_table([5.0, 4.0], **more), micrographs=columns)
    scene = Scene(tmp_path)
    # normalize_particles asks for one pixel size
    settings = Settings(40, scale=26, invert=True)
    assert_same_particles(run_relion(scene, settings), run_ours(scene, settings))


def test_a_threshold_of_merit_is_relions_run_on_the_picks_above_it(simulated, contaminated, tmp_path):
    for scene, threshold in ((simulated, 0.4), (contaminated, 0.2)):
        chosen = replace(scene, suffix=f"_above{scene.suffix}")
        for path in scene.coordinate_files():
            block = read_star(path).blocks[""]
            kept = block.take(block.floats("rlnAutopickFigureOfMerit") > threshold)
            assert 0 < len(kept) < len(block)
            name = path.with_name(path.name.replace(scene.suffix, chosen.suffix))
            write_tables(name, plain={column: kept.column(column) for column in kept.columns})
        assert_same_particles(run_relion(chosen, PLAIN), run_ours(scene, PLAIN, figure_of_merit_threshold=threshold))


def test_a_pick_wholly_outside_ends_relions_run_and_is_left_out_here(tmp_path, grey_values, places):
    outside = np.array([[-20.0, 60.0], [170.0, 60.0], [40.0, 150.0]])
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    image = grey_values.astype(np.float32)
    scene = write_scene(tmp_path / "with", image, places=np.concatenate([places[:3], outside, places[3:]]))
    assert "lies completely outside micrograph" in run_relion(scene, SETTINGS, check=False)
    assert_same_particles(run_relion(write_scene(tmp_path / "without", image, places=places), SETTINGS), run_ours(scene, SETTINGS))


def test_edge_policy_drop_is_relions_particles_without_those_over_an_edge(tmp_path, grey_values, places):
    scene = write_scene(tmp_path, grey_values.astype(np.float32), places=places)
    theirs, ours = run_relion(scene, SETTINGS), run_ours(scene, SETTINGS, edge_policy="drop")
    inside = np.all((np.trunc(places) >= 20) & (np.trunc(places) <= np.array([150, 130]) - 20), axis=1)
    assert 0 < inside.sum() < len(places)
    assert_same_columns(theirs.rows.take(inside), ours.rows, leave_out=("rlnImageName",))
    np.testing.assert_allclose(ours.images, theirs.images[inside], atol=1e-4)


def test_micrographs_without_ctf_give_relions_particles(tmp_path, grey_values, places):
    write_micrograph(tmp_path / "mics" / "b.mrc", grey_values[::-1], pixel_size=1.5)
    (tmp_path / "mics" / "a.mrc").write_bytes((tmp_path / "mics" / "b.mrc").read_bytes())
    columns = {"rlnMicrographName": ["mics/b.mrc", "mics/a.mrc"], "rlnOpticsGroup": ["1", "1"]}
    write_tables(tmp_path / "micrographs.star", optics=optics_table([1.5]), micrographs=columns)
    for name, rows in (("a", places), ("b", places[::-1])):
        write_tables(tmp_path / f"picks/mics/{name}_pick.star", plain={"rlnCoordinateX": rows[:, 0], "rlnCoordinateY": rows[:, 1]})
    assert_same_particles(run_relion(Scene(tmp_path), SETTINGS), run_ours(Scene(tmp_path), SETTINGS))
