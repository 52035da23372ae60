import csv
import struct

import numpy as np
import pytest

from cryorestore.background import Background
from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import MrcStackWriter
from cryorestore.io.star import StarBlock, read_star, write_star
from cryorestore.masks import background_mask
from cryorestore.normalize import normalize_particles
from cryorestore.particles import ParticleTable

BOX = 24


@pytest.fixture
def images():
    return 500 + 20 * np.random.default_rng(1).standard_normal((6, BOX, BOX))


def write_table(folder, images):
    count = len(images)
    with MrcStackWriter(folder / "raw.mrcs", count=count, box_size=BOX, pixel_size=2.0) as writer:
        writer.append(images)
    optics = {"rlnOpticsGroupName": ["one"], "rlnOpticsGroup": ["1"], "rlnImagePixelSize": ["2.0"]}
    rows = {"rlnImageName": [f"{k}@raw.mrcs" for k in range(1, count + 1)], "rlnOpticsGroup": ["1"] * count}
    write_star(folder / "raw.star", {"optics": StarBlock.from_columns(optics), "particles": StarBlock.from_columns(rows)})


def normalize(folder, **settings):
    names = {"normalized_stack": "n.mrcs", "normalized_star": "n.star", "statistics_csv": "s.csv", "rejects_star": "r.star"}
    normalize_particles(star=folder / "raw.star", **{key: folder / name for key, name in names.items()}, **{"bg_radius": 9, **settings})
    return ParticleTable.read(folder / "n.star")


def test_the_background_has_mean_zero_and_sigma_one(tmp_path, images):
    write_table(tmp_path, images)
    outside = normalize(tmp_path).load_images()[:, background_mask(BOX, 9).numpy()]
    np.testing.assert_allclose(outside.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(outside.std(1), 1, atol=1e-6)


def test_a_plane_is_found_and_taken_away():
    y, x = np.indices((BOX, BOX)) - BOX // 2
    checkered = np.where((x + y) % 2, 3.0, -3.0)
    found = Background(BOX, 9).normalize((7 + 0.5 * x - 0.25 * y + checkered)[None], remove_ramp=True)
    np.testing.assert_allclose(found.ramp[0], [0.5, -0.25], atol=1e-2)
    np.testing.assert_allclose(found.mean, 7, atol=1e-1)
    np.testing.assert_allclose(found.sigma, 3, atol=1e-1)


def test_without_the_ramp_only_the_mean_goes(tmp_path, images):
    write_table(tmp_path, images)
    found = normalize(tmp_path, remove_ramp=False).load_images()
    background = background_mask(BOX, 9).numpy()
    means, sigmas = images[:, background].mean(1), images[:, background].std(1)
    np.testing.assert_allclose(found, (images - means[:, None, None]) / sigmas[:, None, None], atol=1e-4)


def test_the_statistics_give_the_raw_images_back(tmp_path, images):
    write_table(tmp_path, images)
    found = normalize(tmp_path).load_images()
    y, x = np.indices((BOX, BOX)) - BOX // 2
    with (tmp_path / "s.csv").open() as file:
        for row in csv.DictReader(file):
            plane = float(row["mean"]) + float(row["ramp_x"]) * x + float(row["ramp_y"]) * y
            number = int(row["row"])
            np.testing.assert_allclose(found[number] * float(row["sigma"]) + plane, images[number], atol=1e-2)


def test_constant_and_nan_images_are_set_apart_with_their_reasons(tmp_path, images):
    images[1] = 7
    write_table(tmp_path, images)
    with (tmp_path / "raw.mrcs").open("r+b") as stack:
        stack.seek(1024 + 4 * (3 * BOX * BOX + 5))
        stack.write(struct.pack("<f", float("nan")))
    table = normalize(tmp_path)
    assert table.particles.column("rlnImageOriginalName") == [f"{k}@raw.mrcs" for k in (1, 3, 5, 6)]
    reasons = read_star(tmp_path / "r.star").blocks["particles"].column("rlnCryorestoreRejectReason")
    assert reasons[0].startswith("constant background")
    assert "NaN" in reasons[1]
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 5


def test_a_stack_without_a_good_image_is_an_error_and_leaves_nothing(tmp_path):
    write_table(tmp_path, np.ones((2, BOX, BOX)))
    with pytest.raises(CryorestoreError, match="0 of 2 particles"):
        normalize(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw.mrcs", "raw.star"]


def test_dust_is_replaced_and_depends_on_the_particle_alone(tmp_path, images):
    images[2, 4, 4], images[2, 12, 12], images[2, 5, 5] = 900, 900, 100
    write_table(tmp_path, images)
    found = normalize(tmp_path, white_dust=5.0).load_images()[2]
    assert abs(found[4, 4]) < 5
    assert abs(found[12, 12]) < 5
    assert found[5, 5] < -5
    block = read_star(tmp_path / "raw.star").blocks
    write_star(tmp_path / "raw.star", {"optics": block["optics"], "particles": block["particles"].take([4, 2])})
    np.testing.assert_array_equal(normalize(tmp_path, white_dust=5.0).load_images()[1], found)


def test_float16_is_written_as_mode_12(tmp_path, images):
    write_table(tmp_path, images)
    exact = normalize(tmp_path).load_images()
    found = normalize(tmp_path, dtype="float16").load_images()
    assert (tmp_path / "n.mrcs").stat().st_size == 1024 + 2 * images.size
    np.testing.assert_allclose(found, exact, atol=5e-3)


@pytest.mark.parametrize("bg_radius", [0, 12.5])
def test_a_circle_that_does_not_fit_the_box_is_refused(tmp_path, images, bg_radius):
    write_table(tmp_path, images)
    with pytest.raises(CryorestoreError, match="bg_radius"):
        normalize(tmp_path, bg_radius=bg_radius)


def with_columns(folder, columns):
    blocks = read_star(folder / "raw.star").blocks
    write_star(folder / "raw.star", {"optics": blocks["optics"], "particles": blocks["particles"].with_columns(columns)})


def many_images(count=120):
    return (500 + 20 * np.random.default_rng(3).standard_normal((count, BOX, BOX))).astype(np.float32)


@pytest.mark.parametrize("threads", [2, 5])
def test_the_bytes_do_not_depend_on_threads(tmp_path, threads):
    write_table(tmp_path, many_images(1200))
    written = []
    for number in (1, threads):
        normalize(tmp_path, threads=number)
        written.append([(tmp_path / name).read_bytes() for name in ("n.mrcs", "n.star", "s.csv")])
    assert written[0] == written[1]


def test_a_particle_does_not_depend_on_those_beside_it(tmp_path):
    images = many_images(40)
    write_table(tmp_path, images)
    whole = normalize(tmp_path).load_images()
    write_table(tmp_path, images[7:20])
    np.testing.assert_array_equal(normalize(tmp_path).load_images(), whole[7:20])


@pytest.mark.parametrize("level", [0.0, 3e4, -1e6])
def test_the_grey_level_costs_no_digits(level):
    noise = np.random.default_rng(5).standard_normal((3, 64, 64))
    images = (level + 50 * noise).astype(np.float32)
    mask = background_mask(64, 24).numpy()
    exact = images.astype(np.float64)
    exact -= exact[:, mask].mean(1)[:, None, None]
    exact /= exact[:, mask].std(1)[:, None, None]
    np.testing.assert_allclose(Background(64, 24).normalize(images, remove_ramp=False).images, exact, atol=2e-6)


@pytest.mark.parametrize("place", [(0, 0), (12, 12)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_pixel_that_is_not_finite_spoils_the_sigma_wherever_it_is(images, place, value):
    images[2][place] = value
    sigma = Background(BOX, 9).normalize(images, remove_ramp=True).sigma
    assert not np.isfinite(sigma[2])
    assert np.isfinite(np.delete(sigma, 2)).all()


def test_outliers_of_their_micrograph_are_set_apart_with_the_reason(tmp_path, caplog):
    images = many_images()
    images[60:] += 400  # another micrograph is thicker: nobody in it is an outlier for that
    images[5] += 300
    images[70] *= 3
    images[100, 12, 12] = 5000
    write_table(tmp_path, images)
    with_columns(tmp_path, {"rlnMicrographName": ["a.mrc"] * 60 + ["b.mrc"] * 60})
    assert len(normalize(tmp_path)) == 120
    with caplog.at_level("WARNING", logger="cryorestore"):
        table = normalize(tmp_path, outlier_sigma=8.0)
    assert len(table) == 117
    reject = read_star(tmp_path / "r.star").blocks["particles"]
    assert reject.column("rlnImageName") == ["6@raw.mrcs", "71@raw.mrcs", "101@raw.mrcs"]
    for reason, name in zip(reject.column("rlnCryorestoreRejectReason"), ("background mean", "background", "farthest pixel"), strict=True):
        assert reason.startswith(f"outlier: {name}")
    assert [record.message.split(": ", 1)[1].split(";")[0] for record in caplog.records if record.levelname == "WARNING"] == [
        "3 of 120 particles are rejected"
    ]


def test_outliers_of_one_half_do_not_depend_on_the_other(tmp_path):
    images = many_images()
    columns = {"rlnMicrographName": ["a.mrc"] * 120, "rlnRandomSubset": np.arange(120) % 2 + 1}
    images[4] += 100
    kept = []
    for change in (0, 1000):
        changed = images.copy()
        changed[1::2] += change * np.random.default_rng(1).standard_normal((60, 1, 1)).astype(np.float32)
        write_table(tmp_path, changed)
        with_columns(tmp_path, columns)
        table = normalize(tmp_path, outlier_sigma=6.0)
        kept.append([name for name in table.particles.column("rlnImageOriginalName") if int(name.split("@")[0]) % 2])
    assert kept[0] == kept[1]
    assert "5@raw.mrcs" not in kept[0]


def test_outliers_without_micrographs_are_refused(tmp_path, images):
    write_table(tmp_path, images)
    with pytest.raises(CryorestoreError, match=r"_rlnMicrographName is missing.*outlier_sigma"):
        normalize(tmp_path, outlier_sigma=6.0)
