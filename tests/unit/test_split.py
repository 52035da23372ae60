import logging

import numpy as np
import pytest

from cryorestore.errors import CryorestoreError
from cryorestore.io.star import StarBlock, read_star, write_star
from cryorestore.particles import ParticleTable
from cryorestore.split import split_particles

COUNT = 400


def write_table(path, rows, **more):
    """Particles as the steps before write them: images renumbered, identity in micrograph and coordinates."""
    columns = {
        "rlnImageName": [f"{k:06d}@n.mrcs" for k in range(1, len(rows) + 1)],
        "rlnImageOriginalName": [f"{k:06d}@e.mrcs" for k in range(1, len(rows) + 1)],
        "rlnMicrographName": [f"m{row % 7}.mrc" for row in rows],
        "rlnCoordinateX": [f"{row}.5" for row in rows],
        "rlnCoordinateY": ["10"] * len(rows),
        "rlnOpticsGroup": ["1"] * len(rows),
        "rlnCryorestoreHasPose": ["1"] * len(rows),
        **{name: ["10.0"] * len(rows) for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")},
        **more,
    }
    optics = {"rlnOpticsGroupName": ["one"], "rlnOpticsGroup": ["1"], "rlnImagePixelSize": ["2.0"]}
    write_star(path, {"optics": StarBlock.from_columns(optics), "particles": StarBlock.from_columns(columns)})
    return path


def split(star, **settings):
    folder = star.parent
    names = {f"{kind}{half}_star": folder / f"{kind}{half}.star" for kind in ("half", "unposed") for half in (1, 2)}
    split_particles(star=star, **names, **settings)
    return {name.removesuffix("_star"): ParticleTable.read(path) for name, path in names.items()}


def members(table, column="rlnCoordinateX"):
    return dict(zip(table.particles.column("rlnCoordinateX"), table.particles.column(column), strict=True))


def test_drawn_halves_are_whole_disjoint_and_about_equal(tmp_path):
    parts = split(write_table(tmp_path / "a.star", range(COUNT)))
    first, second = members(parts["half1"]), members(parts["half2"])
    assert not set(first) & set(second)
    assert len(first) + len(second) == COUNT
    assert abs(len(first) - COUNT / 2) < 4 * np.sqrt(COUNT / 4)
    assert set(parts["half2"].halves().tolist()) == {2}
    assert "rlnCryorestoreHasPose" not in parts["half1"].particles


def test_dropping_rows_moves_no_other_particle_nor_its_holdout(tmp_path):
    whole = split(write_table(tmp_path / "a.star", range(COUNT)), holdout_fraction=0.2)
    expected = {name: members(whole[name], "rlnCryorestoreHoldout") for name in ("half1", "half2")}
    fewer = split(write_table(tmp_path / "a.star", [row for row in range(COUNT) if row % 9]), holdout_fraction=0.2)
    for name in ("half1", "half2"):
        found = members(fewer[name], "rlnCryorestoreHoldout")
        assert found.items() <= expected[name].items()


def test_the_seed_draws_anew_and_the_holdout_has_its_share(tmp_path):
    star = write_table(tmp_path / "a.star", range(COUNT))
    first, other = split(star, seed=1, holdout_fraction=0.25), split(star, seed=2)
    assert set(members(first["half1"])) != set(members(other["half1"]))
    held = np.concatenate([first[name].particles.ints("rlnCryorestoreHoldout") for name in ("half1", "half2")])
    assert held.mean() == pytest.approx(0.25, abs=0.09)


def test_rows_name_their_place_in_the_input(tmp_path):
    parts = split(write_table(tmp_path / "a.star", range(COUNT)))
    rows = parts["half1"].particles.ints("rlnCryorestoreRow")
    assert members(parts["half1"], "rlnCryorestoreRow") == {f"{row}.5": str(row) for row in rows.tolist()}


def test_particles_without_a_pose_stand_apart_with_a_reason(tmp_path):
    posed = ["0" if row % 4 == 0 else "1" for row in range(80)]
    parts = split(write_table(tmp_path / "a.star", range(80), rlnCryorestoreHasPose=posed))
    apart = parts["unposed1"].particles.ints("rlnCryorestoreRow").tolist() + parts["unposed2"].particles.ints("rlnCryorestoreRow").tolist()
    assert sorted(apart) == list(range(0, 80, 4))
    assert set(parts["unposed1"].particles.column("rlnCryorestoreRejectReason")) == {"no pose"}
    assert len(parts["half1"]) + len(parts["half2"]) == 60


def test_only_absent_halves_are_drawn(tmp_path):
    halves = ["1"] * 30 + ["2"] * 30 + ["0"] * 20
    parts = split(write_table(tmp_path / "a.star", range(80), rlnRandomSubset=halves))
    rows = parts["half1"].particles.ints("rlnCryorestoreRow")
    assert set(range(30)) <= set(rows.tolist())
    assert not set(range(30, 60)) & set(rows.tolist())


def test_an_empty_half_is_an_error_and_a_small_one_a_warning(tmp_path, caplog):
    with pytest.raises(CryorestoreError, match="half 2 has 0 particles"):
        split(write_table(tmp_path / "a.star", range(20), rlnRandomSubset=["1"] * 20))
    with caplog.at_level(logging.WARNING):
        split(write_table(tmp_path / "a.star", range(20), rlnRandomSubset=["1"] * 15 + ["2"] * 5))
    assert "half 2 has only 5 particles" in caplog.text


def test_a_third_half_is_refused(tmp_path):
    with pytest.raises(CryorestoreError, match="row 20: found rlnRandomSubset 3"):
        split(write_table(tmp_path / "a.star", range(20), rlnRandomSubset=["1"] * 19 + ["3"]))


def test_at_least_one_particle_a_half_is_held_out(tmp_path):
    parts = split(write_table(tmp_path / "a.star", range(24)), holdout_fraction=1e-6)
    assert [int(parts[name].particles.ints("rlnCryorestoreHoldout").sum()) for name in ("half1", "half2")] == [1, 1]


@pytest.mark.parametrize("seed", [0, 5])
def test_case_09_a_subset_keeps_its_halves(make_case, seed):
    folder = make_case("case-09-split-kept")
    whole = split(folder / "case-09-split-kept-all.star", seed=seed)
    kept = {half: set(whole[f"half{half}"].particles.column("rlnImageName")) for half in (1, 2)}
    assert [len(kept[half]) for half in (1, 2)] == [6, 6]
    fewer = split(folder / "case-09-split-kept-two-dropped.star", seed=seed)
    given = read_star(folder / "case-09-split-kept-two-dropped.star").blocks["particles"]
    halves = dict(zip(given.column("rlnImageName"), given.column("rlnRandomSubset"), strict=True))
    assert [len(fewer[f"half{half}"]) for half in (1, 2)] == [6, 4]
    for half in (1, 2):
        names = fewer[f"half{half}"].particles.column("rlnImageName")
        assert set(names) <= kept[half]
        assert {halves[name] for name in names} == {str(half)}
