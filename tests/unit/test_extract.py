import logging
import zlib

import mrcfile
import numpy as np
import pytest
import torch

from cryorestore.errors import CryorestoreError
from cryorestore.extract import extract_particles
from cryorestore.fourier import fourier_crop_2d
from cryorestore.io.mrc import MrcStackReader, write_micrograph
from cryorestore.io.star import StarBlock, read_star, write_star
from cryorestore.particles import ParticleTable
from cryorestore.windows import cut_boxes

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


def test_the_table_knows_the_hash_of_every_image(scene):
    table = extract(scene, scale=8)
    stored = np.fromfile(scene / "out" / "p.mrcs", np.uint8, offset=1024).reshape(5, -1)
    assert table.particles.column("rlnCryorestoreImageHash") == [f"{zlib.crc32(image):08x}" for image in stored]


def test_the_stack_satisfies_mrcfile_and_its_header_tells_of_its_pixels(scene):
    extract(scene, threads=2)
    assert mrcfile.validate(scene / "out" / "p.mrcs")
    with mrcfile.open(scene / "out" / "p.mrcs") as stack:
        assert (stack.data.shape, float(stack.voxel_size.x)) == ((5, 16, 16), 2.0)
        assert float(stack.header.dmean) == pytest.approx(stack.data.mean(dtype=float), rel=1e-6)
        assert float(stack.header.rms) == pytest.approx(stack.data.std(dtype=float), rel=1e-6)
        assert (stack.header.dmin, stack.header.dmax) == (stack.data.min(), stack.data.max())


def test_float16_is_mode_12_and_what_does_not_fit_is_an_error(scene):
    for name in ("a", "b"):
        write_micrograph(scene / f"{name}.mrc", np.random.default_rng(7).standard_normal((40, 50)), pixel_size=2.0)
    full = extract(scene).load_images()
    half = extract(scene, dtype="float16").load_images()
    assert mrcfile.validate(scene / "out" / "p.mrcs")
    np.testing.assert_array_equal(half, full.astype(np.float16))
    write_micrograph(scene / "a.mrc", np.full((40, 50), 1e6), pixel_size=2.0)
    with pytest.raises(CryorestoreError, match=r"a\.mrc: found values too large for float16; choose dtype float32"):
        extract(scene, dtype="float16")


def two_groups(scene, sizes):
    optics = {"rlnOpticsGroupName": ["one", "two"], "rlnOpticsGroup": ["1", "2"], "rlnMicrographPixelSize": sizes, "rlnVoltage": ["300", "200"]}
    rows = {"rlnMicrographName": ["b.mrc", "a.mrc"], "rlnOpticsGroup": ["2", "1"]}
    write_star(scene / "mics.star", {"optics": StarBlock.from_columns(optics), "micrographs": StarBlock.from_columns(rows)})


def test_optics_groups_keep_their_pixel_sizes_and_the_header_does_not_lie(scene, caplog):
    two_groups(scene, ["2.0", "2.5"])
    table = extract(scene, scale=8)
    assert table.optics.floats("rlnImagePixelSize").tolist() == [4.0, 5.0]
    assert table.optics.column("rlnVoltage") == ["300", "200"]
    assert table.optics_groups().tolist() == [2, 2, 2, 1, 1]
    assert table.pixel_sizes().tolist() == [5.0, 5.0, 5.0, 4.0, 4.0]
    assert MrcStackReader(scene / "out" / "p.mrcs").pixel_size is None
    assert mrcfile.validate(scene / "out" / "p.mrcs")
    assert "different pixel sizes (4, 5 angstrom)" in caplog.text


def test_a_group_without_particles_does_not_matter_for_the_header(scene):
    two_groups(scene, ["2.0", "2.5"])
    (scene / "picks" / "a_picks.star").unlink()
    assert extract(scene).pixel_size == 2.5
    assert MrcStackReader(scene / "out" / "p.mrcs").pixel_size == 2.5


def test_a_threshold_is_the_same_as_a_table_without_the_other_picks(scene):
    generator = np.random.default_rng(5)
    columns = {"rlnCoordinateX": generator.uniform(0, 50, 30), "rlnCoordinateY": generator.uniform(0, 40, 30)}
    picks = StarBlock.from_columns({**columns, "rlnAutopickFigureOfMerit": generator.uniform(0, 1, 30)})
    above = picks.floats("rlnAutopickFigureOfMerit") > 0.4
    (scene / "picks" / "b_picks.star").unlink()
    written = []
    for content, threshold in ((picks, 0.4), (picks.take(above), None)):
        write_star(scene / "picks" / "a_picks.star", {"": content})
        extract(scene, figure_of_merit_threshold=threshold)
        written.append([(scene / "out" / name).read_bytes() for name in ("p.mrcs", "p.star", "rejects.star")])
    assert 0 < above.sum() < 30
    assert written[0] == written[1]


def test_boxes_that_are_not_finite_are_set_aside_and_the_stack_closes_up(scene):
    image = 100.0 * np.mgrid[:40, :50][0] + np.mgrid[:40, :50][1]
    image[20, 2] = np.nan
    with pytest.warns(RuntimeWarning, match="NaN"):
        mrcfile.write(scene / "b.mrc", image.astype(np.float32), overwrite=True)
    whole = extract(scene, scale=8)
    images = whole.load_images()
    assert whole.particles.column("rlnCoordinateX") == ["12", "25.125", "20.25", "30"]
    assert whole.particles.column("rlnImageName")[0].startswith("000001@")
    rejects = read_star(scene / "out" / "rejects.star").blocks["particles"]
    assert rejects.column("rlnCoordinateX") == ["10"]
    assert rejects.column("rlnCryorestoreRejectReason") == ["holds NaN or infinite values"]
    assert mrcfile.validate(scene / "out" / "p.mrcs")
    (scene / "picks" / "b_picks.star").unlink()
    np.testing.assert_array_equal(extract(scene, scale=8).load_images(), images[2:])


@pytest.fixture
def discs(tmp_path):
    """Sixty discs in noise, darker than their surroundings by a third of the noise."""
    generator = np.random.default_rng(6)
    y, x = np.mgrid[:512, :512]
    image, places = generator.standard_normal((512, 512)), [(40 + 60 * k, 40 + 60 * j) for k in range(8) for j in range(8)]
    for px, py in places:
        image -= 0.7 * ((x - px) ** 2 + (y - py) ** 2 < 100)
    write_micrograph(tmp_path / "dark.mrc", image, pixel_size=1.0)
    write_micrograph(tmp_path / "white.mrc", -image, pixel_size=1.0)
    write_micrograph(tmp_path / "noise.mrc", generator.standard_normal((512, 512)), pixel_size=1.0)
    for name in ("dark", "white", "noise"):
        (tmp_path / "picks").mkdir(exist_ok=True)
        (tmp_path / "picks" / f"{name}.txt").write_text("".join(f"{px} {py}\n" for px, py in places))
    return tmp_path


def centres(folder, name, setting):
    inputs = {"micrographs_star": folder / f"{name}.mrc", "coordinates": [folder / "picks" / f"{name}.txt"], "pixel_size": 1.0}
    table = extract(folder, **inputs, box_size=40, invert_contrast=setting)
    return table.load_images()[:, 12:28, 12:28].mean()


def test_auto_inverts_dark_particles_and_leaves_white_ones_and_says_so(discs, caplog):
    assert centres(discs, "dark", "auto") > 0.3
    assert "auto: 64 boxes show dark particles" in caplog.text
    assert "so they are inverted" in caplog.text
    assert centres(discs, "white", "auto") > 0.3
    assert "so they are not inverted" in caplog.text


def test_auto_is_refused_where_the_boxes_do_not_show_the_sign(discs):
    with pytest.raises(CryorestoreError, match="64 boxes do not show whether particles are dark or white"):
        centres(discs, "noise", "auto")


@pytest.mark.parametrize("setting", [True, False])
@pytest.mark.parametrize("name", ["dark", "white"])
def test_a_setting_that_the_boxes_contradict_is_a_warning(discs, caplog, name, setting):
    centres(discs, name, setting)
    assert (f"invert_contrast is {str(setting).lower()}, but" in caplog.text) == (setting is not (name == "dark"))
    assert centres(discs, "noise", setting) == pytest.approx(0, abs=0.05)
