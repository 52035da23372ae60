import os
import zlib

import numpy as np
import pytest

from cryorestore.ctf import CtfParameters
from cryorestore.errors import CryorestoreError
from cryorestore.geometry import euler_to_matrices
from cryorestore.io.mrc import MrcStackWriter
from cryorestore.io.star import StarBlock, write_star
from cryorestore.logs import warn_once
from cryorestore.particles import ParticleTable


@pytest.fixture
def read_case(cases_root):
    return lambda name, **options: ParticleTable.read(cases_root / f"case-{name}.star", **options)


def first_pixels(images):
    return images[:, 0, 0].tolist()


def test_images_come_in_row_order_from_any_stack_order(read_case):
    table = read_case("04-order-and-subset-particles")
    assert first_pixels(table.load_images()) == [7, 2, 9, 1, 10, 4]
    assert first_pixels(table.load_images([5, 0])) == [4, 7]
    assert [first_pixels(batch) for batch in table.iter_images(4)] == [[7, 2, 9, 1], [10, 4]]
    assert first_pixels(table.take([4, 3]).load_images()) == [10, 1]


def test_rows_of_several_stacks_come_in_row_order(tmp_path):
    for number in (1, 2):
        with MrcStackWriter(tmp_path / f"{number}.mrcs", count=3, box_size=4, pixel_size=1.0) as writer:
            writer.append(np.arange(3)[:, None, None] + 10.0 * number + np.zeros((3, 4, 4)))
    names = ["3@2.mrcs", "1@1.mrcs", "1@2.mrcs", "2@1.mrcs"]
    write_star(tmp_path / "a.star", {"": StarBlock.from_columns({"rlnImageName": names})})
    table = ParticleTable.read(tmp_path / "a.star", pixel_size=1.0)
    assert first_pixels(table.load_images()) == [22, 10, 20, 11]
    stacks, file_id, index = table.image_locations()
    assert [path.name for path in stacks] == ["2.mrcs", "1.mrcs"]
    assert (file_id.tolist(), index.tolist()) == ([0, 1, 0, 1], [2, 0, 0, 1])


def test_new_images_are_numbered_in_row_order_and_the_old_name_is_kept(read_case, tmp_path):
    table = read_case("04-order-and-subset-particles")
    table.with_images("new.mrcs", box_size=16, pixel_size=2.12).write(tmp_path / "a.star")
    new = ParticleTable.read(tmp_path / "a.star")
    assert new.particles.column("rlnImageName") == [f"{k:06d}@new.mrcs" for k in range(1, 7)]
    assert new.particles.column("rlnImageOriginalName") == table.particles.column("rlnImageName")
    assert new.particles.floats("rlnDefocusU").tolist() == [10700, 10200, 10900, 10100, 11000, 10400]
    assert (new.pixel_size, new.optics.column("rlnImageSize")) == (2.12, ["16"])


@pytest.mark.parametrize(("name", "facts"), [("from-zero", "row 1: .*000000@.*from 1 to 4"), ("beyond-end", "row 4: .*000005@.*from 1 to 4")])
def test_an_image_number_outside_the_stack_is_refused(read_case, name, facts):
    table = read_case(f"03-zero-index-{name}")
    with pytest.raises(CryorestoreError, match=f"{name}.star: {facts}"):
        table.load_images([1])


@pytest.mark.parametrize("name", ["7.5@a.mrcs", "-1@a.mrcs", "@a.mrcs", "3@"])
def test_an_image_name_that_cannot_be_understood_is_refused(tmp_path, name):
    write_star(tmp_path / "a.star", {"": StarBlock.from_columns({"rlnImageName": [name]})})
    with pytest.raises(CryorestoreError, match=f"row 1: found rlnImageName '{name}'"):
        ParticleTable.read(tmp_path / "a.star", pixel_size=1.0).image_locations()


def test_optics_are_read_wherever_they_stand_and_mixed_pixel_sizes_refused(read_case):
    table = read_case("05-mixed-pixel-sizes-optics-last")
    assert table.pixel_sizes().tolist() == [0.784, 0.764, 0.764, 0.784]
    with pytest.raises(CryorestoreError, match=r"scopeA \(group 1\) 0.784, scopeB \(group 2\) 0.764"):
        _ = table.pixel_size
    assert table.take([1, 2]).pixel_size == 0.764
    assert read_case("05-mixed-pixel-sizes-optics-last", pixel_size=0.5).pixel_size == 0.5


def test_relion_30_is_converted(read_case, tmp_path):
    read_case("06-relion-30-units-particles").write(tmp_path / "a.star")
    table = ParticleTable.read(tmp_path / "a.star")
    assert table.pixel_size == pytest.approx(4.400025, abs=1e-6)
    assert table.origins()[0] == pytest.approx([13.200075, -6.600038], abs=2e-6)
    assert table.ctf_parameters().voltage.tolist() == [300, 300]
    assert not {"rlnOriginX", "rlnMagnification", "rlnDetectorPixelSize", "rlnVoltage"} & set(table.particles.columns)
    assert table.optics_groups().tolist() == [1, 1]


def test_relion_30_rows_of_different_microscopes_get_different_groups(tmp_path):
    columns = {"rlnMagnification": ["10000", "20000", "10000"], "rlnDetectorPixelSize": ["2"] * 3, "rlnVoltage": ["300"] * 3}
    write_star(tmp_path / "a.star", {"images": StarBlock.from_columns(columns)})
    table = ParticleTable.read(tmp_path / "a.star")
    assert table.optics_groups().tolist() == [1, 2, 1]
    assert table.pixel_sizes().tolist() == [2.0, 1.0, 2.0]


def test_aberrations_and_own_columns_survive_as_text(read_case, tmp_path, caplog):
    warn_once.cache_clear()
    table = read_case("12-aberrations-survive-particles")
    table.ctf_parameters()
    table.ctf_parameters()
    assert caplog.text.count("does not model rlnBeamTiltX") == 1
    table.write(tmp_path / "a.star")
    again = ParticleTable.read(tmp_path / "a.star")
    for before, after in ((table.optics, again.optics), (table.particles, again.particles)):
        assert after.columns == before.columns
        assert after.lines == before.lines
    assert (len(again.optics.columns), len(again.particles.columns)) == (18, 17)
    assert again.optics_groups().tolist() == [2, 1, 2, 1]


def test_a_premultiplied_ctf_is_seen(read_case):
    assert read_case("13-ctf-premultiplied-flag1").ctf_premultiplied
    assert not read_case("13-ctf-premultiplied-flag0").ctf_premultiplied
    assert not read_case("04-order-and-subset-particles").ctf_premultiplied


@pytest.mark.parametrize("name", ["from-root", "beside-star", "dotted"])
@pytest.mark.parametrize("inside", [True, False])
def test_images_are_found_through_links_and_dots(make_case, monkeypatch, name, inside):
    root = make_case("case-19-link-and-paths") / "case-19-link-and-paths-project"
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(root if inside else elsewhere)
    star = root / f"Select/job005/{name}.star"
    table = ParticleTable.read(os.path.relpath(star), project_root=None if inside else root)
    assert first_pixels(table.load_images()) == [1, 2, 3, 4]
    assert table.micrograph_names() == ["mics/a.mrc"] * 4


def test_a_missing_stack_is_reported_with_every_place_tried(make_case, monkeypatch):
    root = make_case("case-19-link-and-paths") / "case-19-link-and-paths-project"
    monkeypatch.chdir(root)
    table = ParticleTable.read("Select/job005/missing.star", project_root="store")
    with pytest.raises(CryorestoreError, match=r"missing\.star: row 1: found 'Extract/nowhere\.mrcs'") as error:
        table.load_images()
    for place in ("store/", "", f"{root}/Select/job005/", f"{root}/Select/", f"{root}/"):
        assert f" {place}Extract/nowhere.mrcs," in str(error.value)


def test_all_faulty_stacks_are_listed_at_once(cases_root, tmp_path):
    names = [f"1@{cases_root}/case-08-truncated-stack-{kind}.mrcs" for kind in ("short", "surplus", "mode", "empty")]
    write_star(tmp_path / "a.star", {"": StarBlock.from_columns({"rlnImageName": names})})
    with pytest.raises(CryorestoreError) as error:
        ParticleTable.read(tmp_path / "a.star", pixel_size=1.0).image_locations()
    assert [line.split("stack-")[1].split(":")[0] for line in str(error.value).splitlines()] == ["short.mrcs", "mode.mrcs", "empty.mrcs"]


def test_a_pixel_size_is_never_guessed(data_root):
    with pytest.raises(CryorestoreError, match="no pixel size, expected _rlnImagePixelSize"):
        ParticleTable.read(data_root / "metadata-aspire/rln_proj_64.star")
    table = ParticleTable.read(data_root / "metadata-aspire/rln_proj_64.star", pixel_size=3.0)
    assert (table.pixel_size, table.box_size) == (3.0, 64)
    with pytest.raises(CryorestoreError, match="_rlnDefocusU is missing"):
        table.ctf_parameters()


@pytest.mark.parametrize(
    ("name", "rows", "box_size", "pixel_size"),
    [
        ("metadata-aspire/sample_particles_relion30.star", 17, 200, 1.338),
        ("metadata-aspire/sample_particles_relion31.star", 17, 200, 1.4),
        ("metadata-cryodrgn/relion31.star", 5, 256, 2.806),
        ("metadata-cryodrgn/empiar_10076_7.star", 7, 320, 1.309998),
        ("metadata-cryodrgn/empiar_10076_7.cs", 7, 320, 1.309998),
        ("metadata-cryodrgn/sta_testing_bin8.star", 219, 64, 1.96),
        ("ribosome-tilts-c1/ribosome_tilts_1430.star", 1430, 32, 12.0),
    ],
)
def test_real_tables_are_read(data_root, name, rows, box_size, pixel_size):
    table = ParticleTable.read(data_root / name)
    assert (len(table), table.box_size) == (rows, box_size)
    assert table.pixel_size == pytest.approx(pixel_size, abs=1e-6)
    assert table.load_images([0, rows - 1]).shape == (2, box_size, box_size)
    parameters = table.ctf_parameters()
    assert isinstance(parameters, CtfParameters)
    assert parameters.phase_shift.shape == (rows,)


def test_picks_without_images_are_a_table_too(data_root):
    table = ParticleTable.read(data_root / "apoferritin-empiar10146/particles_with_poses.star")
    assert table.pixel_size == 1.5
    assert table.has_poses.all()
    assert set(table.halves().tolist()) == {1, 2}
    assert np.array_equal(table.rotation_matrices()[:1], euler_to_matrices(np.array([[84.030573, 23.682833, 38.730780]])))
    assert table.origins()[0].tolist() == [1.250256, -1.749740]
    assert set(table.particles.column("rlnPhaseShift")) == {"0.000000"}
    with pytest.raises(CryorestoreError, match=r"rlnImageName is missing.*extract the particles first"):
        table.load_images()


def test_particles_without_poses_are_told_apart(read_case):
    table = read_case("04-order-and-subset-particles")
    part = table.with_columns({"rlnAngleTilt": ["20", "nan", "None", "20", "20", "20"]})
    assert part.has_poses.tolist() == [True, False, False, True, True, True]
    with pytest.raises(CryorestoreError, match=r"2 of 6 particles have no pose \(first: row 2"):
        part.rotation_matrices()
    none = ParticleTable(table.particles.without_columns(["rlnAngleRot", "rlnRandomSubset", "rlnOriginXAngst"]), table.optics, table.path)
    assert not none.has_poses.any()
    assert none.halves().tolist() == [0] * 6
    assert not none.origins().any()


def test_a_group_that_the_optics_table_lacks_is_named(read_case, tmp_path):
    read_case("04-order-and-subset-particles").with_columns({"rlnOpticsGroup": ["1", "1", "4", "1", "1", "1"]}).write(tmp_path / "a.star")
    with pytest.raises(CryorestoreError, match=r"row 3: found rlnOpticsGroup 4, expected one of the optics table's \[1\]"):
        ParticleTable.read(tmp_path / "a.star")


def test_a_half_that_is_none_is_named(read_case):
    with pytest.raises(CryorestoreError, match="row 2: found rlnRandomSubset 3"):
        read_case("04-order-and-subset-particles").with_columns({"rlnRandomSubset": np.array([1, 3, 1, 2, 2, 1])}).halves()


def test_a_table_without_rows_is_written_and_read(read_case, tmp_path):
    read_case("04-order-and-subset-particles").take([]).write(tmp_path / "a.star")
    empty = ParticleTable.read(tmp_path / "a.star")
    assert (len(empty), empty.pixel_size, empty.halves().shape, empty.has_poses.shape) == (0, 1.06, (0,), (0,))


def write_stack(path, values, dtype="float32"):
    """A stack whose images are constants; the hashes of its images."""
    with MrcStackWriter(path, count=len(values), box_size=4, pixel_size=1.0, dtype=dtype) as writer:
        writer.append(np.array(values, np.float32)[:, None, None] + np.zeros((1, 4, 4), np.float32))
    return list(writer.hashes)


def bound_table(tmp_path, dtype="float32"):
    hashes = write_stack(tmp_path / "a.mrcs", [1, 2, 3, 4], dtype)
    block = StarBlock.from_columns({"rlnImageName": [f"{k}@raw.mrcs" for k in (9, 7, 5, 3)], "rlnOpticsGroup": ["1"] * 4})
    optics = StarBlock.from_columns({"rlnOpticsGroup": ["1"], "rlnImagePixelSize": ["1.0"]})
    table = ParticleTable(block, optics, tmp_path / "a.star").with_images("a.mrcs", box_size=4, hashes=hashes)
    table.write(tmp_path / "a.star")
    return ParticleTable.read(tmp_path / "a.star")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_images_are_bound_to_their_rows(tmp_path, dtype):
    table = bound_table(tmp_path, dtype)
    assert first_pixels(table.load_images()) == [1, 2, 3, 4]
    assert first_pixels(table.take([3, 1]).load_images()) == [4, 2]
    stored = np.full((4, 4), 2, "<f4" if dtype == "float32" else "<f2")
    assert table.particles.column("rlnCryorestoreImageHash")[1] == f"{zlib.crc32(stored.tobytes()):08x}"


def test_a_replaced_stack_is_refused(tmp_path):
    table = bound_table(tmp_path)
    write_stack(tmp_path / "a.mrcs", [1, 2, 7, 4])
    assert first_pixels(table.load_images([0, 1])) == [1, 2]
    with pytest.raises(CryorestoreError, match=r"a\.star: row 3: image 3 of .*a\.mrcs has the hash .{8}, expected .{8} .*1 of 4 images read differ"):
        ParticleTable.read(tmp_path / "a.star").load_images()


def test_exchanged_rows_are_refused(tmp_path):
    table = bound_table(tmp_path)
    names = table.particles.column("rlnImageName")
    swapped = table.with_columns({"rlnImageName": [names[place] for place in (0, 2, 1, 3)]})
    with pytest.raises(CryorestoreError, match=r"row 2: image 3 of .*2 of 4 images read differ"):
        swapped.load_images()
    whole_rows = table.take([0, 2, 1, 3])
    assert first_pixels(whole_rows.load_images()) == [1, 3, 2, 4]


def test_more_or_fewer_images_than_rows_are_refused(tmp_path):
    table = bound_table(tmp_path)
    with pytest.raises(CryorestoreError, match=r"b\.mrcs: found 3 images written, expected 4, one a row of"):
        table.with_images("b.mrcs", box_size=4, hashes=["00000000"] * 3)
    assert "rlnCryorestoreImageHash" not in table.with_images("b.mrcs", box_size=4).particles
    with pytest.raises(CryorestoreError, match="row 2: found rlnCryorestoreImageHash 'none', expected 8 hexadecimal digits"):
        table.with_columns({"rlnCryorestoreImageHash": ["00000000", "none", "00000000", "00000000"]}).load_images([0])


def test_images_that_are_not_finite_are_read_where_that_is_asked_for(tmp_path):
    table = bound_table(tmp_path)
    data = np.memmap(tmp_path / "a.mrcs", "<f4", "r+", offset=1024, shape=(4, 4, 4))
    data[1] = np.nan
    data.flush()
    block = table.particles.without_columns(["rlnCryorestoreImageHash"])
    loose = ParticleTable(block, table.optics, table.path)
    assert np.isnan(loose.load_images([1], finite=False)).all()
    assert first_pixels(loose.load_images([3, 0], finite=False)) == [4, 1]
    with pytest.raises(CryorestoreError, match="image 2 holds NaN"):
        loose.load_images([1])


def test_names_with_blanks_signs_zeros_and_several_stacks_find_their_images(tmp_path):
    folders = ["my stacks", "a#b", "d@e", "mü"]
    for number, folder in enumerate(folders):
        (tmp_path / folder).mkdir()
        write_stack(tmp_path / folder / "p q.mrcs", [10 * number + 1, 10 * number + 2])
    names = [f"{text}@{folder}/p q.mrcs" for folder in folders for text in ("2", "0000000001")]
    write_star(tmp_path / "a.star", {"": StarBlock.from_columns({"rlnImageName": names[::-1]})})
    images = ParticleTable.read(tmp_path / "a.star", pixel_size=1.0).load_images()
    assert first_pixels(images) == [31, 32, 21, 22, 11, 12, 1, 2]


def test_images_beyond_four_gib_are_read_from_their_place(tmp_path):
    box, count = 1024, 1100
    path = tmp_path / "big.mrcs"
    with MrcStackWriter(path, count=1, box_size=box, pixel_size=1.0) as writer:
        writer.append(np.zeros((box, box), np.float32))
    with path.open("r+b") as handle:
        handle.seek(8)
        handle.write(np.int32(count).tobytes())
        for number in (1060, 1099):
            handle.seek(1024 + number * box * box * 4)
            handle.write(np.float32(number).tobytes())
        handle.truncate(1024 + count * box * box * 4)
    assert path.stat().st_size > 2**32 < 1024 + 1060 * box * box * 4
    write_star(tmp_path / "a.star", {"": StarBlock.from_columns({"rlnImageName": ["1100@big.mrcs", "1@big.mrcs", "1061@big.mrcs"]})})
    table = ParticleTable.read(tmp_path / "a.star", pixel_size=1.0)
    assert first_pixels(table.load_images()) == [1099, 0, 1060]
    assert first_pixels(table.load_images(finite=False)) == [1099, 0, 1060]


def test_a_missing_pixel_size_is_an_error_in_every_form(tmp_path):
    forms = {
        "3.0": {"images": {"rlnImageName": ["1@a.mrcs"], "rlnMagnification": ["10000"]}},
        "3.1": {"optics": {"rlnOpticsGroup": ["1"], "rlnVoltage": ["300"]}, "particles": {"rlnImageName": ["1@a.mrcs"], "rlnOpticsGroup": ["1"]}},
        "origins": {"": {"rlnImageName": ["1@a.mrcs"], "rlnOriginX": ["1"]}},
        "zero": {"optics": {"rlnOpticsGroup": ["1"], "rlnImagePixelSize": ["0"]}, "particles": {"rlnImageName": ["1@a.mrcs"]}},
    }
    for name, blocks in forms.items():
        write_star(tmp_path / f"{name}.star", {block: StarBlock.from_columns(columns) for block, columns in blocks.items()})
        with pytest.raises(CryorestoreError, match=r"pixel size|rlnImagePixelSize \[0\.0\]"):
            ParticleTable.read(tmp_path / f"{name}.star")
        assert ParticleTable.read(tmp_path / f"{name}.star", pixel_size=2.0).pixel_size == 2.0


def test_a_group_number_that_stands_twice_in_the_optics_table_is_refused(read_case, tmp_path):
    table = read_case("04-order-and-subset-particles")
    twice = StarBlock(table.optics.columns, [*table.optics.lines, *table.optics.lines])
    ParticleTable(table.particles, twice, table.path).write(tmp_path / "a.star")
    with pytest.raises(CryorestoreError, match=r"rlnOpticsGroup number stands there twice \(\[1, 1\]\)"):
        ParticleTable.read(tmp_path / "a.star")
