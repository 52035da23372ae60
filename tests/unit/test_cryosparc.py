import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryorestore.errors import CryorestoreError
from cryorestore.io.cryosparc import read_cs, write_cs
from cryorestore.io.star import StarBlock
from cryorestore.particles import ParticleTable

COUNT = 5


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
    assert table.optics_groups().tolist() == [1, 2, 1, 1, 2]
    assert table.pixel_size == pytest.approx(1.345, abs=1e-6)
    assert np.allclose(table.origins(), records["alignments3D/shift"] * 2.69, atol=1e-5)
    assert np.allclose(table.ctf_parameters().defocus_angle, np.degrees(records["ctf/df_angle_rad"]), atol=1e-5)


def test_a_pose_is_the_transpose_of_its_rotation_vector(tmp_path, records):
    table = ParticleTable.read(save(tmp_path / "a.cs", records))
    expected = Rotation.from_rotvec(records["alignments3D/pose"].astype(float)).as_matrix().transpose(0, 2, 1)
    assert np.allclose(table.rotation_matrices(), expected, atol=1e-6)


def test_what_is_written_is_what_was_read(tmp_path, records):
    write_cs(tmp_path / "b.cs", ParticleTable.read(save(tmp_path / "a.cs", records)))
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
    location = [("location/micrograph_path", "S9"), ("location/micrograph_shape", "u4", (2,))]
    fractions = [("location/center_x_frac", "f4"), ("location/center_y_frac", "f4")]
    located = np.zeros(COUNT, [*records.dtype.descr, *location, *fractions])
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
    write_cs(tmp_path / "a.cs", table)
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
    assert np.array_equal(cs.load_images([6]), star.load_images([6]))


def test_cryosparc_tools_reads_what_is_written_and_its_own_form_is_read(tmp_path, records):
    dataset = pytest.importorskip("cryosparc.dataset")
    table = ParticleTable.read(save(tmp_path / "a.cs", records))
    write_cs(tmp_path / "b.cs", table)
    loaded = dataset.Dataset.load(tmp_path / "b.cs")
    assert loaded["blob/path"].tolist() == ["J1/a.mrcs"] * COUNT
    dataset.Dataset.load(tmp_path / "a.cs").save(tmp_path / "c.cs", format=dataset.CSDAT_FORMAT)
    assert ParticleTable.read(tmp_path / "c.cs").particles.lines == table.particles.lines


def test_a_uid_is_made_of_the_image_name_where_there_is_none(tmp_path):
    optics = StarBlock.from_columns({"rlnOpticsGroup": ["1"], "rlnImagePixelSize": ["1.5"], "rlnImageSize": ["8"]})
    particles = StarBlock.from_columns({"rlnImageName": ["000002@a.mrcs", "000001@a.mrcs"], "rlnOpticsGroup": ["1", "1"]})
    write_cs(tmp_path / "a.cs", ParticleTable(particles, optics, tmp_path / "a.star"))
    write_cs(tmp_path / "b.cs", ParticleTable(particles, optics, tmp_path / "a.star"))
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
