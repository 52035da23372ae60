import numpy as np
import pytest

from cryorestore.errors import CryorestoreError
from cryorestore.io.star import StarBlock
from cryorestore.joining import join_particles
from cryorestore.particles import ParticleTable
from cryorestore.particles_cs import particle_uids

COUNT = 9


def table_of(rows, path, *, stack, groups=("first", "second"), **more):
    """Rows of a source of two optics groups, as they are after a step that wrote `stack`."""
    columns = {
        "rlnImageName": [f"{place:06d}@{stack}" for place in range(1, len(rows) + 1)],
        "rlnImageOriginalName": [f"{row + 1:06d}@raw.mrcs" for row in rows],
        "rlnMicrographName": [f"m{row % 2}.mrc" for row in rows],
        "rlnCoordinateX": [f"{row}.5" for row in rows],
        "rlnOpticsGroup": np.array([1 + row % 2 for row in rows], int),
        "rlnCryorestoreRow": np.array(rows, int),
        **more,
    }
    optics = {
        "rlnOpticsGroupName": list(groups),
        "rlnOpticsGroup": ["1", "2"],
        "rlnImagePixelSize": ["2.0", "2.0"],
        "rlnBeamTiltX": ["0.1", "-0.2"],
        "rlnImageSize": ["8", "8"],
    }
    table = ParticleTable(StarBlock.from_columns(columns), StarBlock.from_columns(optics), path)
    table.write(path)
    return table


@pytest.fixture
def files(tmp_path):
    paths = {f"{name}_star": tmp_path / f"{name}.star" for name in ("half1", "half2", "source", "joined")}
    table_of(range(COUNT), paths["source_star"], stack="normalized.mrcs")
    table_of([0, 3, 4, 7], paths["half1_star"], stack="r1.mrcs")
    table_of([1, 2, 6, 8], paths["half2_star"], stack="r2.mrcs")
    return paths


def test_rows_come_in_the_source_s_order_with_their_groups_and_images(files):
    join_particles(**files)
    joined = ParticleTable.read(files["joined_star"])
    assert joined.particles.ints("rlnCryorestoreRow").tolist() == [0, 1, 2, 3, 4, 6, 7, 8]
    assert joined.optics_groups().tolist() == [1, 2, 1, 2, 1, 1, 2, 1]
    assert joined.optics.column("rlnBeamTiltX") == ["0.1", "-0.2"]
    assert joined.particles.column("rlnImageName")[:3] == ["000001@r1.mrcs", "000001@r2.mrcs", "000002@r2.mrcs"]


def test_a_half_in_another_order_is_joined_likewise(files):
    join_particles(**files)
    expected = ParticleTable.read(files["joined_star"]).particles.lines
    half = ParticleTable.read(files["half1_star"])
    half.take([2, 0, 3, 1]).write(files["half1_star"])
    join_particles(**files)
    assert ParticleTable.read(files["joined_star"]).particles.lines == expected


def test_the_cs_beside_has_the_source_s_uids(files, tmp_path):
    join_particles(**files, joined_cs=tmp_path / "joined.cs")
    records = np.load(tmp_path / "joined.cs", allow_pickle=False)
    uids = particle_uids(ParticleTable.read(files["source_star"]))
    assert records["uid"].tolist() == uids[[0, 1, 2, 3, 4, 6, 7, 8]].tolist()
    assert records["blob/path"].tolist()[:2] == [b"r1.mrcs", b"r2.mrcs"]
    assert records["blob/idx"].tolist()[:3] == [0, 0, 1]


@pytest.mark.parametrize(
    ("rows", "more", "facts"),
    [
        ([3, 2, 6, 8], {}, "share rows of"),
        ([1, 2, 6, 9], {}, "found rlnCryorestoreRow 9, expected 0 to 8"),
        ([1, 2, 6, 8], {"rlnCoordinateX": ["1.5", "7.5", "6.5", "8.5"]}, r"row 2: found rlnCoordinateX 7\.5, expected 2\.5 \(row 3 of"),
        (
            [1, 2, 6, 8],
            {"rlnImageOriginalName": ["000002@raw.mrcs", "000003@raw.mrcs", "000001@raw.mrcs", "000009@raw.mrcs"]},
            "row 3: found rlnImageOr",
        ),
        ([1, 2, 6, 8], {"rlnOpticsGroup": ["1", "1", "1", "1"]}, "row 1: found rlnOpticsGroup 1, expected 2"),
        ([1, 2, 6, 8], {"groups": ("first", "other")}, "have different optics groups"),
        ([1, 2, 6, 8], {"rlnNew": ["1", "2", "3", "4"]}, "have different columns"),
    ],
)
def test_halves_that_do_not_belong_together_are_refused(files, rows, more, facts):
    table_of(rows, files["half2_star"], stack="r2.mrcs", **more)
    with pytest.raises(CryorestoreError, match=facts):
        join_particles(**files)
    assert not files["joined_star"].exists()
