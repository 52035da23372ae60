from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryorestore.errors import CryorestoreError
from cryorestore.files import read_json
from cryorestore.fsc import fourier_shell_correlation
from cryorestore.geometry import symmetry_matrices
from cryorestore.io.mrc import read_map
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct import HalfMaps, reconstruct_map, step, used_rows
from cryorestore.reconstruct.check import check_backend
from cryorestore.reconstruct.cryodrgn import _alternating
from cryorestore.reconstruct.native import PEAK_COPIES, BackProjector, backproject
from helpers import BOX, PIXEL, blob_map, simulate_particles, write_particles


def reconstruct(folder, star, **options):
    outputs = {name: folder / f"{name}.mrc" for name in ("map", "map_odd", "map_even")}
    reconstruct_map(star=star, **outputs, **{"backend": "native", **options})
    return {name: torch.from_numpy(read_map(path)[0]) for name, path in outputs.items()}


def test_noise_free_projections_give_the_map_back(tmp_path):
    data = simulate_particles(600, sigma=1e-4)
    maps = reconstruct(tmp_path, write_particles(tmp_path, data))
    curve = fourier_shell_correlation(maps["map"], data["volume"], pixel_size=PIXEL)
    assert float(curve.correlation[1:11].min()) > 0.99
    assert float((maps["map"] * data["volume"]).sum() / data["volume"].square().sum()) == pytest.approx(1.0, abs=0.05)


def test_the_mirror_image_does_not_fit(tmp_path):
    data = simulate_particles(300, sigma=1e-4)
    maps = reconstruct(tmp_path, write_particles(tmp_path, data))
    mirrored = fourier_shell_correlation(maps["map"].flip(0).roll(1, 0), data["volume"], pixel_size=PIXEL)
    assert float(mirrored.correlation[6:12].mean()) < 0.5


def test_symmetry_is_applied(tmp_path):
    volume = blob_map()
    turned = volume + volume.flip((1, 2)).roll((1, 1), (1, 2))
    data = simulate_particles(150, sigma=1e-4, volume=turned)
    with_symmetry = reconstruct(tmp_path, write_particles(tmp_path, data), symmetry="C2")["map"]
    assert torch.allclose(with_symmetry, with_symmetry.flip((1, 2)).roll((1, 1), (1, 2)), atol=2e-2 * float(with_symmetry.max()))
    assert float(fourier_shell_correlation(with_symmetry, turned, pixel_size=PIXEL).correlation[1:10].min()) > 0.97


def test_turning_the_grid_is_the_same_as_inserting_every_image_at_every_rotation():
    data = simulate_particles(5, sigma=0.1)
    operators = torch.from_numpy(symmetry_matrices("O")).float()
    turned, inserted = BackProjector(BOX), BackProjector(BOX)
    rotations, shifts = torch.from_numpy(data["rotations"]).float(), torch.from_numpy(data["shifts"]).float()
    backproject(data["images"], data["ctf"], rotations, shifts, turned)
    for operator in operators:
        backproject(data["images"], data["ctf"], rotations @ operator, shifts, inserted)
    assert torch.allclose(turned.volume(operators), inserted.volume(), atol=1e-3)


def test_images_that_are_multiplied_by_their_ctf_give_the_same_map(tmp_path):
    data = simulate_particles(60, sigma=0.1)
    expected = reconstruct(tmp_path, write_particles(tmp_path, data))["map"]
    data["images"] = torch.fft.irfft2(torch.fft.rfft2(data["images"]) * data["ctf"], s=data["images"].shape[-2:])
    table = ParticleTable.read(write_particles(tmp_path, data))
    flagged = replace(table, optics=table.optics.with_columns({"rlnCtfDataAreCtfPremultiplied": ["1"]}))
    flagged.write(tmp_path / "flagged.star")
    assert torch.allclose(reconstruct(tmp_path, tmp_path / "flagged.star")["map"], expected, atol=1e-3 * float(expected.max()))


def test_held_out_and_refused_particles_enter_no_map(tmp_path):
    data = simulate_particles(40, sigma=0.1)
    extra = {"rlnCryorestoreHoldout": np.arange(40) % 4 == 0, "rlnCryorestoreAccepted": np.arange(40) % 4 != 1}
    star = write_particles(tmp_path, data, extra={name: values.astype(int) for name, values in extra.items()})
    assert used_rows(ParticleTable.read(star)).tolist() == [row for row in range(40) if row % 4 in (2, 3)]


def test_too_few_particles_are_an_error(tmp_path):
    star = write_particles(tmp_path, simulate_particles(3, sigma=0.1))
    with pytest.raises(CryorestoreError, match="3 of 3 particles"):
        reconstruct(tmp_path, star)


def test_an_unknown_backend_and_a_missing_program_are_named(tmp_path):
    star = write_particles(tmp_path, simulate_particles(8, sigma=0.1))
    with pytest.raises(CryorestoreError, match="frealign"):
        reconstruct(tmp_path, star, backend="frealign")
    with pytest.raises(CryorestoreError, match=r"programs\.cryodrgn"):
        reconstruct(tmp_path, star, backend="cryodrgn", program="no-such-program")


def check(folder, star, maps, **options):
    check_backend(star=star, **maps, agreement=folder / "check.json", mask_radius=44.0, mask_edge=8.0, **options)
    return read_json(folder / "check.json")


def test_another_backend_agrees_or_was_not_found(tmp_path):
    star = write_particles(tmp_path, simulate_particles(60, sigma=0.3))
    maps = {name: tmp_path / f"{name}.mrc" for name in ("map", "map_odd", "map_even")}
    reconstruct_map(star=star, **maps, backend="native")
    assert check(tmp_path, star, maps, backend="native")["agreement"] == pytest.approx(1.0, abs=1e-6)
    other = write_particles(tmp_path, simulate_particles(60, sigma=0.3, volume=blob_map(seed=1)))
    assert check(tmp_path, other, maps, backend="native")["agreement"] < 0.9
    missing = check(tmp_path, star, maps, backend="cryodrgn", program="no-such-program")
    assert missing["agreement"] is None
    assert "no-such-program" in missing["reason"]


@pytest.mark.parametrize(("damage", "message"), [("nan", "NaN or infinite"), ("flat", "empty")])
def test_a_broken_map_is_refused_and_nothing_is_written(tmp_path, monkeypatch, damage, message):
    star = write_particles(tmp_path, simulate_particles(8, sigma=0.1))
    broken = torch.full((BOX, BOX, BOX), float("nan") if damage == "nan" else 0.0)
    monkeypatch.setitem(step.BACKENDS, "native", lambda *_, **__: HalfMaps(broken, broken, broken))
    with pytest.raises(CryorestoreError, match=message):
        reconstruct(tmp_path, star)
    assert not list(tmp_path.glob("map*.mrc"))


def test_the_rules_ask_for_the_memory_that_a_reconstruction_states():
    rules = (Path(__file__).parents[2] / "rules/resources.smk").read_text()
    assert f"MAP_COPIES = {PEAK_COPIES} " in rules


@pytest.mark.parametrize("count", [6, 7])
def test_copies_of_a_particle_stay_on_one_side_of_cryodrgns_split(count):
    rows, operators = _alternating(count, len(symmetry_matrices("D2")))
    assert sorted(zip(rows.tolist(), operators.tolist(), strict=True)) == [(row, op) for row in range(count) for op in range(4)]
    pairs = count // 2 * 2
    sides = [{place % 2 for place in np.flatnonzero(rows == row)} for row in range(pairs)]
    assert all(len(side) == 1 for side in sides)
