import logging

import numpy as np
import pytest
import torch

from cryorestore.errors import CryorestoreError
from cryorestore.extract import cut_boxes, extract_particles
from cryorestore.fourier import fourier_crop_2d
from cryorestore.io.mrc import write_micrograph
from cryorestore.io.star import StarBlock, read_star, write_star
from cryorestore.particles import ParticleTable

OPTICS = {"rlnOpticsGroupName": ["one"], "rlnOpticsGroup": ["1"], "rlnMicrographPixelSize": ["2.0"], "rlnVoltage": ["300"]}


@pytest.fixture
def scene(tmp_path):
    """Two micrographs of 40 x 50 px whose pixels are 100 y + x (the second: + 0.5), with CTF and picks."""
    y, x = np.mgrid[:40, :50]
    for name, offset in (("a", 0.0), ("b", 0.5)):
        write_micrograph(tmp_path / f"{name}.mrc", 100 * y + x + offset, pixel_size=2.0)
    rows = {"rlnMicrographName": ["b.mrc", "a.mrc"], "rlnOpticsGroup": ["1", "1"], "rlnDefocusU": ["20000.125", "10000.5"]}
    write_star(tmp_path / "mics.star", {"optics": StarBlock.from_columns(OPTICS), "micrographs": StarBlock.from_columns(rows)})
    for name, places in (("a", ["20.25", "30"]), ("b", ["10", "12", "25.125"])):
        picks = StarBlock.from_columns({"rlnCoordinateX": places, "rlnCoordinateY": ["20"] * len(places), "mine": [name] * len(places)})
        write_star(tmp_path / "picks" / f"{name}_picks.star", {"": picks})
    return tmp_path


def extract(folder, **settings):
    names = {"micrographs_star": folder / "mics.star", "coordinates": folder / "picks"}
    outputs = {"stack": folder / "out" / "p.mrcs", "star": folder / "out" / "p.star", "rejects_star": folder / "out" / "rejects.star"}
    extract_particles(**{**names, **outputs, "box_size": 16, "invert_contrast": False, **settings})
    return ParticleTable.read(folder / "out" / "p.star")


def write_poses(folder, rows, **more):
    columns = {
        "rlnMicrographName": [name for name, _ in rows],
        "rlnCoordinateX": [x for _, x in rows],
        "rlnCoordinateY": ["20.000000"] * len(rows),
        "rlnAngleRot": [f"{k}.5" for k in range(len(rows))],
        "rlnAngleTilt": ["20.0"] * len(rows),
        "rlnAnglePsi": ["30.0"] * len(rows),
        "rlnOriginXAngst": ["5.0"] * len(rows),
        "rlnOriginYAngst": ["-3.5"] * len(rows),
        "rlnRandomSubset": ["2"] * len(rows),
        "rlnGroupName": ["g1"] * len(rows),
        "rlnOpticsGroup": ["1"] * len(rows),
        **more,
    }
    write_star(folder / "poses.star", {"optics": StarBlock.from_columns(OPTICS), "particles": StarBlock.from_columns(columns)})
    return folder / "poses.star"


def test_rows_follow_the_micrographs_and_the_picks_and_keep_their_text(scene):
    table = extract(scene)
    assert table.micrograph_names() == ["b.mrc"] * 3 + ["a.mrc"] * 2
    assert table.particles.column("rlnCoordinateX") == ["10", "12", "25.125", "20.25", "30"]
    assert table.particles.column("rlnDefocusU") == ["20000.125"] * 3 + ["10000.5"] * 2
    assert table.particles.column("mine") == ["b", "b", "b", "a", "a"]
    assert set(table.particles.ints("rlnCryorestoreHasPose").tolist()) == {0}
    np.testing.assert_array_equal(table.load_images()[:, 8, 8], [2010.5, 2012.5, 2025.5, 2020, 2030])
    assert table.pixel_size == 2.0


def test_inversion_changes_the_sign(scene):
    np.testing.assert_array_equal(extract(scene, invert_contrast=True).load_images()[:, 8, 8], [-2010.5, -2012.5, -2025.5, -2020, -2030])


def test_threads_change_nothing(scene):
    extract(scene)
    once = (scene / "out" / "p.mrcs").read_bytes(), (scene / "out" / "p.star").read_bytes()
    extract(scene, threads=3)
    assert once == ((scene / "out" / "p.mrcs").read_bytes(), (scene / "out" / "p.star").read_bytes())


def test_scaling_changes_the_pixel_size_and_keeps_the_mean(scene):
    table = extract(scene, scale=8)
    assert table.pixel_size == 4.0
    scaled = table.load_images()
    assert scaled.shape[1:] == (8, 8)
    full = extract(scene).load_images()
    np.testing.assert_allclose(scaled.mean((1, 2)), full.mean((1, 2)), rtol=1e-6)


def test_rescaling_keeps_a_slow_wave():
    x = torch.arange(32)
    wave = torch.cos(2 * torch.pi * 3 * x / 32)[None, None].expand(1, 32, 32)
    expected = torch.cos(2 * torch.pi * 3 * torch.arange(16) / 16).expand(1, 16, 16)
    torch.testing.assert_close(fourier_crop_2d(wave, 16), expected, atol=1e-5, rtol=0)


def test_poses_go_to_the_picks_within_a_hundredth_of_a_pixel(scene):
    poses = write_poses(scene, [("x/a.mrc", "30.009"), ("x/b.mrc", "12.02"), ("x/b.mrc", "10.000000")])
    table = extract(scene, particles_star=poses)
    assert table.particles.ints("rlnCryorestoreHasPose").tolist() == [1, 0, 0, 0, 1]
    assert table.particles.column("rlnAngleRot") == ["2.5", "0.0", "0.0", "0.0", "0.5"]
    assert table.halves().tolist() == [2, 0, 0, 0, 2]
    assert table.particles.column("rlnGroupName") == ["g1", "None", "None", "None", "g1"]
    assert table.particles.column("rlnDefocusU")[1] == "20000.125"


def test_picks_without_any_ctf_are_rejected_when_others_have_one(scene):
    rows = {"rlnMicrographName": ["a.mrc"], "rlnOpticsGroup": ["1"]}
    write_star(scene / "mics.star", {"optics": StarBlock.from_columns(OPTICS), "micrographs": StarBlock.from_columns(rows)})
    poses = write_poses(scene, [("a.mrc", "30")], rlnDefocusU=["9000.25"])
    table = extract(scene, particles_star=poses)
    assert table.particles.column("rlnDefocusU") == ["9000.25"]
    rejects = read_star(scene / "out" / "rejects.star").blocks["particles"]
    assert "no CTF" in rejects.column("rlnCryorestoreRejectReason")[0]


def test_particles_alone_give_the_boxes(scene):
    poses = write_poses(scene, [("a.mrc", "30"), ("b.mrc", "12"), ("a.mrc", "21")], rlnImageName=["7@o.mrcs", "8@o.mrcs", "9@o.mrcs"])
    text = poses.read_text().replace("_rlnVoltage #4", "_rlnImagePixelSize #4")
    poses.write_text(text)
    table = extract(scene, coordinates=None, particles_star=poses)
    assert table.particles.column("rlnImageOriginalName") == ["8@o.mrcs", "7@o.mrcs", "9@o.mrcs"]
    assert table.particles.column("rlnCoordinateX") == ["12", "30", "21"]


def test_a_pick_on_the_stem_of_another_micrograph_is_not_mistaken(scene):
    (scene / "picks" / "b_picks.star").rename(scene / "picks" / "b1_picks.star")
    assert extract(scene).micrograph_names() == ["a.mrc"] * 2


def test_two_files_for_a_micrograph_are_refused(scene):
    (scene / "picks" / "a.box").write_text("1 1 16 16\n")
    with pytest.raises(CryorestoreError, match=r"belongs to micrograph a"):
        extract(scene)


def test_picks_are_kept_above_the_threshold(scene):
    picks = StarBlock.from_columns({"rlnCoordinateX": ["20", "22"], "rlnCoordinateY": ["20", "20"], "rlnAutopickFigureOfMerit": ["0.5", "0.4"]})
    write_star(scene / "picks" / "a_picks.star", {"": picks})
    (scene / "picks" / "b_picks.star").unlink()
    assert extract(scene, figure_of_merit_threshold=0.4).particles.column("rlnCoordinateX") == ["20"]


def test_boxes_over_the_edge_follow_the_policy(scene):
    write_star(scene / "picks" / "a_picks.star", {"": StarBlock.from_columns({"rlnCoordinateX": ["20", "4"], "rlnCoordinateY": ["20", "20"]})})
    (scene / "picks" / "b_picks.star").unlink()
    assert len(extract(scene, edge_policy="drop")) == 1
    box = extract(scene, edge_policy="mean").load_images()[1]
    assert box[0, 0] == pytest.approx(box[:, 4:].mean(), rel=1e-6)
    assert extract(scene).load_images()[1][8, 0] == 2000


def test_cutting_beyond_every_edge_repeats_the_nearest_pixel():
    image = np.arange(16, dtype=np.float32).reshape(4, 4)
    box = cut_boxes(image, np.array([[-2, -2]]), box_size=8, edge_policy="replicate")[0]
    assert [box[0, 0], box[0, 7], box[7, 0], box[7, 7], box[2, 2]] == [0, 3, 12, 15, 0]


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"box_size": 15}, "box_size: found 15"),
        ({"scale": 7}, "scale: found 7"),
        ({"scale": 18}, "scale: found 18"),
        ({"edge_policy": "x"}, "edge_policy"),
    ],
)
def test_wrong_settings_are_refused(scene, settings, found):
    with pytest.raises(CryorestoreError, match=found):
        extract(scene, **settings)


def test_no_pixel_size_anywhere_is_an_error(scene):
    (scene / "mics.star").write_text((scene / "mics.star").read_text().replace("rlnMicrographPixelSize", "mine"))
    with pytest.raises(CryorestoreError, match="no pixel size"):
        extract(scene)
    assert extract(scene, pixel_size=1.25).pixel_size == 1.25


def test_case_01_a_micrograph_without_picks_is_one_warning(make_case, caplog):
    folder = make_case("case-01-zero-picks") / "case-01-zero-picks"
    outputs = {"stack": folder / "p.mrcs", "star": folder / "p.star", "rejects_star": folder / "r.star", "box_size": 24}
    with caplog.at_level(logging.WARNING):
        extract_particles(micrographs_star=folder / "mics", coordinates=folder / "coords", pixel_size=1.06, **outputs)
    assert [record.message for record in caplog.records] == ["1 of 2 micrographs has no picks: mic_02"]
    assert len(ParticleTable.read(folder / "p.star")) == 3
    (folder / "p.mrcs").unlink()
    with pytest.raises(CryorestoreError, match="0 particles to extract"):
        extract_particles(micrographs_star=folder / "mics" / "mic_02.mrc", coordinates=folder / "coords", pixel_size=1.06, **outputs)
    assert not (folder / "p.mrcs").exists()


def test_case_10_boxes_over_the_edge_and_outside(make_case, caplog):
    stem = make_case("case-10-outside-and-negative") / "case-10-outside-and-negative-mic"
    outputs = {"stack": stem.with_name("p.mrcs"), "star": stem.with_name("p.star"), "rejects_star": stem.with_name("r.star")}
    with caplog.at_level(logging.WARNING):
        extract_particles(
            micrographs_star=stem.with_suffix(".mrc"),
            coordinates=[stem.with_suffix(".box")],
            pixel_size=1.0,
            box_size=24,
            invert_contrast=False,
            **outputs,
        )
    assert len(caplog.records) == 1
    for word in ("1 of 4", "row 2", "(-28, 22)", "wholly outside", "64 x 64"):
        assert word in caplog.text
    table = ParticleTable.read(outputs["star"])
    images = table.load_images()
    assert [images[0, 0, 0], images[0, 23, 23], images[1, 0, 0], images[2, 0, 0], images[2, 23, 23]] == [0, 1818, 2020, 5050, 6363]
    np.testing.assert_allclose(table.particles.floats("rlnCoordinateX"), [7, 32, 62.6])
    np.testing.assert_allclose(table.particles.floats("rlnCoordinateY"), [7, 32, 62.2])
    rejects = read_star(outputs["rejects_star"]).blocks["particles"]
    assert rejects.floats("rlnCoordinateX").tolist() == [-28]


@pytest.mark.parametrize("scale", [None, 16])
def test_case_11_recentring_moves_whole_pixels_only(make_case, scale):
    folder = make_case("case-11-recentre-remainder")
    stem = folder / "case-11-recentre-remainder"
    outputs = {"stack": folder / "p.mrcs", "star": folder / "p.star", "rejects_star": folder / "r.star", "box_size": 32, "scale": scale}
    inputs = {"micrographs_star": f"{stem}-mic.mrc", "particles_star": f"{stem}-particles.star"}
    extract_particles(**inputs, **outputs)
    table = ParticleTable.read(folder / "p.star")
    assert table.particles.column("rlnCoordinateX") == ["60.000000"]
    assert table.particles.column("rlnOriginXAngst") == ["5.830000"]
    extract_particles(**inputs, **outputs, recentre=True)
    table = ParticleTable.read(folder / "p.star")
    coordinate = np.array([table.particles.floats(f"rlnCoordinate{axis}")[0] for axis in "XY"])
    origin = table.origins()[0]
    np.testing.assert_allclose(coordinate * 1.06 - origin, [57.77, 71.285], atol=1e-4)
    assert (np.abs(origin) < 1.06).all()
    assert (np.abs(coordinate - (54.5, 67.25)) < 1).all()
    assert table.pixel_size == pytest.approx(1.06 if scale is None else 2.12)
