import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cryorestore.converting import convert_particles
from cryorestore.errors import CryorestoreError
from cryorestore.io import cryosparc_write
from cryorestore.io.cryosparc import read_cs
from cryorestore.io.mrc import MrcStackWriter
from cryorestore.io.star import StarBlock
from cryorestore.logs import warn_once
from cryorestore.particles import ParticleTable
from cryorestore.particles_cs import particle_uids, write_particles_cs

COUNT = 5
LOCATION = [
    *(("location/micrograph_path", "S9"), ("location/micrograph_shape", "u4", (2,))),
    *(("location/center_x_frac", "f4"), ("location/center_y_frac", "f4")),
]


@pytest.fixture
def records():
    draw = np.random.default_rng(2)
    dtype = [
        *(("uid", "u8"), ("blob/path", "S20"), ("blob/idx", "u4"), ("blob/shape", "u4", (2,)), ("blob/psize_A", "f4")),
        *(("ctf/accel_kv", "f4"), ("ctf/cs_mm", "f4"), ("ctf/amp_contrast", "f4"), ("ctf/df1_A", "f4"), ("ctf/df2_A", "f4")),
        *(("ctf/df_angle_rad", "f4"), ("ctf/phase_shift_rad", "f4"), ("ctf/exp_group_id", "u4")),
        *(("alignments3D/pose", "f4", (3,)), ("alignments3D/shift", "f4", (2,)), ("alignments3D/psize_A", "f4"), ("alignments3D/split", "u4")),
    ]
    table = np.zeros(COUNT, dtype)
    table["uid"] = draw.integers(1, 2**63, COUNT).astype("u8")
    table["blob/path"], table["blob/idx"], table["blob/shape"], table["blob/psize_A"] = b">J1/a.mrcs", [4, 0, 3, 1, 2], 64, 1.3450001
    table["ctf/accel_kv"], table["ctf/cs_mm"], table["ctf/amp_contrast"], table["ctf/exp_group_id"] = 300, 2.7, 0.1, [7, 3, 7, 7, 3]
    table["ctf/df1_A"], table["ctf/df2_A"] = draw.uniform(5e3, 2e4, (2, COUNT))
    table["ctf/df_angle_rad"] = draw.uniform(-3, 3, COUNT)
    table["alignments3D/pose"] = Rotation.random(COUNT, rng=draw).as_rotvec()
    table["alignments3D/shift"], table["alignments3D/psize_A"] = draw.uniform(-5, 5, (COUNT, 2)), 2.69
    table["alignments3D/split"] = [0, 1, 1, 0, 1]
    return table


def save(path, records):
    with path.open("wb") as handle:
        np.save(handle, records, allow_pickle=False)
    return path


def test_fields_become_relion_columns(tmp_path, records):
    table = ParticleTable.read(save(tmp_path / "a.cs", records))
    assert table.particles.column("rlnImageName") == [f"{number:06d}@J1/a.mrcs" for number in (5, 1, 4, 2, 3)]
    assert table.halves().tolist() == [1, 2, 2, 1, 2]
    assert table.optics_groups().tolist() == [7, 3, 7, 7, 3]
    assert table.pixel_size == pytest.approx(1.345, abs=1e-6)
    assert np.allclose(table.origins(), records["alignments3D/shift"] * 2.69, atol=1e-5)
    assert np.allclose(table.ctf_parameters().defocus_angle, np.degrees(records["ctf/df_angle_rad"]), atol=1e-5)


def test_a_pose_is_the_transpose_of_its_rotation_vector(tmp_path, records):
    table = ParticleTable.read(save(tmp_path / "a.cs", records))
    expected = Rotation.from_rotvec(records["alignments3D/pose"].astype(float)).as_matrix().transpose(0, 2, 1)
    assert np.allclose(table.rotation_matrices(), expected, atol=1e-6)


def test_what_is_written_is_what_was_read(tmp_path, records):
    write_particles_cs(tmp_path / "b.cs", ParticleTable.read(save(tmp_path / "a.cs", records)))
    again = np.load(tmp_path / "b.cs", allow_pickle=False)
    for name in ("uid", "blob/idx", "blob/shape", "blob/psize_A", "ctf/df1_A", "ctf/df2_A", "ctf/accel_kv", "alignments3D/split"):
        assert np.array_equal(again[name], records[name]), name
    assert np.allclose(again["ctf/df_angle_rad"], records["ctf/df_angle_rad"], atol=1e-6)
    rotations = [Rotation.from_rotvec(poses["alignments3D/pose"].astype(float)) for poses in (again, records)]
    assert (rotations[0].inv() * rotations[1]).magnitude().max() < 1e-5
    shifts = [table["alignments3D/shift"] * table["alignments3D/psize_A"][:, None] for table in (again, records)]
    assert np.allclose(*shifts, atol=1e-5)


def test_a_passthrough_file_is_joined_on_uid(tmp_path, records):
    names = list(records.dtype.names)
    particles = records[[name for name in names if not name.startswith("ctf/")]]
    passthrough = records[["uid", *(name for name in names if name.startswith("ctf/"))]][::-1]
    paths = [save(tmp_path / "a.cs", particles), save(tmp_path / "p.cs", passthrough)]
    whole = read_cs([save(tmp_path / "whole.cs", records)], "project")
    assert read_cs(paths, "project").blocks["particles"].lines == whole.blocks["particles"].lines
    assert whole.blocks["particles"].column("rlnImageName")[0] == "000005@project/J1/a.mrcs"
    save(paths[1], passthrough[1:])
    with pytest.raises(CryorestoreError, match=r"p\.cs: 1 of 5 particles are not in it"):
        read_cs(paths)


def test_picks_become_pixels(tmp_path, records):
    located = np.zeros(COUNT, [*records.dtype.descr, *LOCATION])
    for name in records.dtype.names:
        located[name] = records[name]
    located["location/micrograph_path"], located["location/micrograph_shape"] = b">m/a.mrc", (400, 200)
    located["location/center_x_frac"], located["location/center_y_frac"] = 0.25, 0.75
    particles = read_cs([save(tmp_path / "a.cs", located)]).blocks["particles"]
    assert particles.floats("rlnCoordinateX").tolist() == [50.0] * COUNT
    assert particles.floats("rlnCoordinateY").tolist() == [300.0] * COUNT
    assert particles.column("rlnMicrographName") == ["m/a.mrc"] * COUNT


@pytest.mark.parametrize("name", ["cryosparc_J2_particles_exported.cs", "empiar_10076_7.cs"])
def test_a_real_table_makes_the_round_trip(data_root, tmp_path, name):
    path = data_root / "metadata-cryodrgn" / name
    table = ParticleTable.read(path)
    write_particles_cs(tmp_path / "a.cs", table)
    before, after = np.load(path, allow_pickle=False), np.load(tmp_path / "a.cs", allow_pickle=False)
    for field in (
        "uid",
        "blob/idx",
        "blob/shape",
        "blob/psize_A",
        "ctf/df1_A",
        "ctf/df2_A",
        "ctf/accel_kv",
        "ctf/cs_mm",
        "ctf/amp_contrast",
        "ctf/scale",
    ):
        assert np.array_equal(after[field], before[field]), field
    assert [path.lstrip(b">") for path in before["blob/path"]] == after["blob/path"].tolist()
    assert np.allclose(after["ctf/df_angle_rad"], before["ctf/df_angle_rad"], atol=1e-6)


def test_cs_and_star_of_the_same_particles_agree(data_root):
    cs, star = (ParticleTable.read(data_root / f"metadata-cryodrgn/empiar_10076_7.{ending}") for ending in ("cs", "star"))
    for one, other in zip(vars(cs.ctf_parameters()).values(), vars(star.ctf_parameters()).values(), strict=True):
        assert np.allclose(one, other, rtol=1e-6, atol=1e-6)
    assert np.array_equal(cs.load_images([6]), -star.load_images([6]))
    assert cs.signs.tolist() == [-1] * 7


def test_cryosparc_tools_reads_what_is_written_and_its_own_form_is_read(tmp_path, records):
    dataset = pytest.importorskip("cryosparc.dataset")
    table = ParticleTable.read(save(tmp_path / "a.cs", records))
    write_particles_cs(tmp_path / "b.cs", table)
    loaded = dataset.Dataset.load(tmp_path / "b.cs")
    assert loaded["blob/path"].tolist() == ["J1/a.mrcs"] * COUNT
    dataset.Dataset.load(tmp_path / "a.cs").save(tmp_path / "c.cs", format=dataset.CSDAT_FORMAT)
    assert ParticleTable.read(tmp_path / "c.cs").particles.lines == table.particles.lines


def test_a_uid_is_made_of_the_image_name_where_there_is_none(tmp_path):
    optics = StarBlock.from_columns({"rlnOpticsGroup": ["1"], "rlnImagePixelSize": ["1.5"], "rlnImageSize": ["8"]})
    particles = StarBlock.from_columns({"rlnImageName": ["000002@a.mrcs", "000001@a.mrcs"], "rlnOpticsGroup": ["1", "1"]})
    write_particles_cs(tmp_path / "a.cs", ParticleTable(particles, optics, tmp_path / "a.star"))
    write_particles_cs(tmp_path / "b.cs", ParticleTable(particles, optics, tmp_path / "a.star"))
    assert (tmp_path / "a.cs").read_bytes() == (tmp_path / "b.cs").read_bytes()
    assert len(set(np.load(tmp_path / "a.cs")["uid"].tolist())) == 2


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_table_is_refused(tmp_path, content):
    (tmp_path / "a.cs").write_bytes(content)
    with pytest.raises(CryorestoreError, match=r"a\.cs: cannot be read as a cryoSPARC table"):
        read_cs([tmp_path / "a.cs"])


def test_a_pickled_table_is_refused(tmp_path):
    with (tmp_path / "a.cs").open("wb") as handle:
        np.save(handle, np.array([{"uid": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CryorestoreError, match="cannot be read"):
        read_cs([tmp_path / "a.cs"])


def round_trip(table, folder):
    write_particles_cs(folder / "a.cs", table)
    return ParticleTable.read(folder / "a.cs")


def assert_same_particles(before, after):
    """Poses to 1e-6, shifts to 1e-5 angstrom, CTF to single precision (1e-3 angstrom of defocus), groups, halves and pixel sizes."""
    assert len(after) == len(before)
    assert np.array_equal(after.optics_groups(), before.optics_groups())
    assert np.allclose(after._from_optics(after._group_pixel_sizes()), before._from_optics(before._group_pixel_sizes()), rtol=2e-7)
    if before.has_poses.all():
        assert np.allclose(after.rotation_matrices(), before.rotation_matrices(), atol=1e-6)
        assert np.allclose(after.origins(), before.origins(), rtol=1e-6, atol=1e-5)
    if (before.halves() > 0).all():
        assert np.array_equal(after.halves(), before.halves())
    for name in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift", "rlnCtfBfactor", "rlnCtfScalefactor"):
        if name in before.particles:
            assert np.allclose(after.particles.floats(name), before.particles.floats(name), rtol=2e-7, atol=1e-5), name
    for name in ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImageSize"):
        if name in before.particles or name in before.optics:
            assert np.allclose(after._ctf_column(name), before._ctf_column(name), rtol=2e-7), name
    for name in ("rlnImageName", "rlnMicrographName"):
        if name in before.particles:
            one, other = ([cell.lstrip("0") for cell in table.particles.column(name)] for table in (after, before))
            assert one == other


NO_IMAGES_NOR_MICROGRAPHS = ("micrographs.star", "manualpick.star", "autopick.star")


def particle_tables(data_root):
    """Every STAR and .cs of the data that lists particles."""
    found = [*data_root.glob("**/*.star"), *data_root.glob("**/*.cs"), *data_root.glob("**/*.star.gz")]
    return sorted(path for path in found if not path.name.endswith(NO_IMAGES_NOR_MICROGRAPHS))


@pytest.mark.slow
def test_every_real_table_makes_the_round_trip(data_root, tmp_path):
    paths = particle_tables(data_root)
    for path in paths:
        if path.suffix == ".gz":
            (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
            path = tmp_path / path.stem
        sized = path.name in ("rln_proj_64.star", "rln_proj_65.star", "starfile_3796.star")
        table = ParticleTable.read(path, pixel_size=1.2345 if sized else None)
        if path.name in ("FinalRefinement-OriginalParticles-PfCRT.star", "starfile_3796.star"):  # their stacks are not at hand
            table = ParticleTable(table.particles, table.optics.with_columns({"rlnImageSize": np.full(len(table.optics), 300)}), table.path)
        assert_same_particles(table.take(slice(0, 400)), round_trip(table.take(slice(0, 400)), tmp_path))
    assert len(paths) >= 15


def test_picks_without_images_make_the_round_trip(data_root, tmp_path):
    table = ParticleTable.read(data_root / "apoferritin-empiar10146/particles_with_poses.star")
    again = round_trip(table, tmp_path)
    for name in ("rlnCoordinateX", "rlnCoordinateY"):
        assert np.allclose(again.particles.floats(name), table.particles.floats(name), atol=1e-3)
    assert again.particles.ints("rlnCryorestoreMicrographSizeY").tolist() == [1200] * len(table)
    fractions = np.load(tmp_path / "a.cs")["location/center_y_frac"]
    assert np.allclose(fractions * 1200, table.particles.floats("rlnCoordinateY"), atol=1e-3)


def test_a_table_of_micrographs_is_no_table_of_particles(data_root, tmp_path):
    table = ParticleTable.read(data_root / "apoferritin-empiar10146/micrographs.star")
    with pytest.raises(CryorestoreError, match="neither image names nor picks"):
        write_particles_cs(tmp_path / "a.cs", table)
    assert not (tmp_path / "a.cs").exists()


@st.composite
def random_tables(draw):
    count = draw(st.integers(1, 6))

    def numbers(low, high):
        return np.array(draw(st.lists(st.floats(low, high, width=32), min_size=count, max_size=count)))

    columns = {
        "rlnImageName": [f"{number:06d}@a b/{draw(st.sampled_from(['x', 'y#1', 'ü']))}.mrcs" for number in range(1, count + 1)],
        "rlnOpticsGroup": np.array(draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))),
        "rlnAngleRot": numbers(-180, 180),
        "rlnAngleTilt": numbers(0, 180),
        "rlnAnglePsi": numbers(-180, 180),
        "rlnOriginXAngst": numbers(-30, 30),
        "rlnOriginYAngst": numbers(-30, 30),
        "rlnDefocusU": numbers(-1000, 60000),
        "rlnDefocusV": numbers(-1000, 60000),
        "rlnDefocusAngle": numbers(-180, 180),
        "rlnPhaseShift": numbers(0, 180),
        "rlnRandomSubset": np.array(draw(st.lists(st.integers(1, 2), min_size=count, max_size=count))),
        "rlnClassNumber": np.array(draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))),
    }
    optics = {
        "rlnOpticsGroup": np.arange(1, 4),
        "rlnVoltage": ["200", "300", "300"],
        "rlnSphericalAberration": ["2.7", "2.7", "0.01"],
        "rlnAmplitudeContrast": ["0.1", "0.07", "0.1"],
        "rlnImagePixelSize": np.array(draw(st.lists(st.floats(0.2, 12), min_size=3, max_size=3))),
        "rlnImageSize": ["64", "64", "128"],
    }
    return ParticleTable(StarBlock.from_columns(columns), StarBlock.from_columns(optics), Path("random.star"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(random_tables())
def test_any_table_makes_the_round_trip(tmp_path, table):
    again = round_trip(table, tmp_path)
    assert_same_particles(table, again)
    assert again.particles.ints("rlnClassNumber").tolist() == table.particles.ints("rlnClassNumber").tolist()


def test_a_sign_of_minus_one_turns_dark_images_white_and_survives(tmp_path, records):
    with MrcStackWriter(tmp_path / "a.mrcs", count=COUNT, box_size=4, pixel_size=1.345) as writer:
        writer.append(np.arange(COUNT, dtype=np.float32)[:, None, None] + np.ones((COUNT, 4, 4), np.float32))
    signed = np.zeros(COUNT, [*records.dtype.descr, ("blob/sign", "f4")])
    for name in records.dtype.names:
        signed[name] = records[name]
    signed["blob/path"], signed["blob/shape"], signed["blob/sign"] = b">a.mrcs", 4, [-1, 1, -1, 1, 1]
    table = ParticleTable.read(save(tmp_path / "a.cs", signed))
    assert table.load_images()[:, 0, 0].tolist() == [-5, 1, -4, 2, 3]
    write_particles_cs(tmp_path / "b.cs", table)
    assert np.load(tmp_path / "b.cs")["blob/sign"].tolist() == [-1, 1, -1, 1, 1]
    assert "rlnCryorestoreBlobSign" not in table.with_images("new.mrcs", box_size=4).particles
    signed["blob/sign"] = 0
    with pytest.raises(CryorestoreError, match=r"row 1: found blob/sign 0, expected 1 or -1"):
        ParticleTable.read(save(tmp_path / "a.cs", signed))


def test_uids_do_not_depend_on_the_rows_beside_and_are_never_equal(tmp_path):
    names = ["000001@a.mrcs", "000002@a.mrcs", "000001@a.mrcs"]
    block = StarBlock.from_columns({"rlnImageName": names, "rlnOpticsGroup": ["1"] * 3})
    optics = StarBlock.from_columns({"rlnOpticsGroup": ["1"], "rlnImagePixelSize": ["1.5"], "rlnImageSize": ["8"]})
    table = ParticleTable(block, optics, tmp_path / "a.star")
    uids = particle_uids(table).tolist()
    assert len(set(uids)) == 3
    assert particle_uids(table.take([1])).tolist() == [uids[1]]
    with pytest.raises(CryorestoreError, match="uid 5 stands there twice"):
        write_particles_cs(tmp_path / "a.cs", table.with_columns({"rlnCryorestoreUid": ["5", "6", "5"]}))


def test_poses_are_left_out_where_some_particle_has_none(tmp_path, records):
    table = ParticleTable.read(save(tmp_path / "a.cs", records)).with_columns({"rlnAngleTilt": ["10", "None", "20", "30", "40"]})
    assert not round_trip(table, tmp_path).has_poses.any()


def test_convert_turns_either_into_the_other(tmp_path, records):
    job = tmp_path / "P1/J7"
    job.mkdir(parents=True)
    names = list(records.dtype.names)
    save(job / "J7_particles.cs", records[[name for name in names if not name.startswith("ctf/")]])
    save(job / "J7_passthrough_particles.cs", records[["uid", *(name for name in names if name.startswith("ctf/"))]])
    convert_particles(job, out=tmp_path / "a.star")
    convert_particles(tmp_path / "a.star", out=tmp_path / "b.cs")
    whole = ParticleTable.read(save(tmp_path / "whole.cs", records))
    assert_same_particles(whole, ParticleTable.read(tmp_path / "b.cs"))
    assert np.load(tmp_path / "b.cs")["uid"].tolist() == records["uid"].tolist()
    with pytest.raises(CryorestoreError, match=r"found the ending '\.txt', expected \.cs or \.star"):
        convert_particles(job, out=tmp_path / "a.txt")
    with pytest.raises(CryorestoreError, match="found 2 tables, expected one STAR file"):
        convert_particles(tmp_path / "a.star", tmp_path / "a.star", out=tmp_path / "b.cs")


def test_flip_y_counts_picks_from_the_other_end(data_root, tmp_path):
    source = data_root / "apoferritin-empiar10146/particles_with_poses.star"
    convert_particles(source, out=tmp_path / "a.star", flip_y=True)
    before, after = ParticleTable.read(source), ParticleTable.read(tmp_path / "a.star")
    assert np.allclose(after.particles.floats("rlnCoordinateY"), 1199 - before.particles.floats("rlnCoordinateY"))
    assert after.particles.column("rlnCoordinateX") == before.particles.column("rlnCoordinateX")


def test_a_premultiplied_ctf_is_lost_with_a_warning(data_root, tmp_path, caplog):
    warn_once.cache_clear()
    write_particles_cs(tmp_path / "a.cs", ParticleTable.read(data_root / "ribosome-tilts-c1/ribosome_tilts_1430.star"))
    assert "a .cs does not say rlnCtfDataAreCtfPremultiplied" in caplog.text


def test_a_shift_without_a_pixel_size_is_refused(tmp_path, records):
    kept = [name for name in records.dtype.names if not name.startswith("blob/") and name != "alignments3D/psize_A"]
    picks = np.zeros(COUNT, [*((name, *records.dtype.descr[records.dtype.names.index(name)][1:]) for name in kept), *LOCATION])
    picks["uid"] = records["uid"]
    with pytest.raises(CryorestoreError, match="expected alignments3D/psize_A"):
        read_cs([save(tmp_path / "a.cs", picks)])


def test_a_table_of_many_rows_is_written_in_parts(tmp_path, monkeypatch, records):
    table = ParticleTable.read(save(tmp_path / "a.cs", records))
    table = table.with_columns({"rlnImageName": [f"{number}@{'long' * number}.mrcs" for number in range(1, COUNT + 1)]})
    write_particles_cs(tmp_path / "whole.cs", table)
    monkeypatch.setattr(cryosparc_write, "_ROWS", 2)
    write_particles_cs(tmp_path / "parts.cs", table)
    assert (tmp_path / "parts.cs").read_bytes() == (tmp_path / "whole.cs").read_bytes()
    assert np.load(tmp_path / "parts.cs")["blob/path"].tolist()[-1] == b"long" * COUNT + b".mrcs"


def test_a_table_without_rows_is_written_and_read(tmp_path, records):
    table = ParticleTable.read(save(tmp_path / "a.cs", records))
    assert len(round_trip(table.take([]), tmp_path)) == 0
