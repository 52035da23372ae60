"""Controls of level full on half-sets whose truth is known, and the changed maps that they teach."""

import json

import numpy as np
import pytest
import torch

from cryorestore.controls.changed_map import control_changed_map, make_control_maps, recovered_share
from cryorestore.controls.junk import PARTICLE, control_junk
from cryorestore.controls.particle_number import control_particle_number
from cryorestore.controls.regions import CHANGES, Domain, find_domain, other_structure
from cryorestore.controls.restoring import Comparison, chosen_rows
from cryorestore.errors import CryorestoreError
from cryorestore.fsc import fourier_shell_correlation
from cryorestore.pairs import make_training_pairs
from cryorestore.restore import restore_particles
from helpers import BOX, PIXEL, POSES, blob_map, prepare_half

METHOD = {"method": "map-bayes", "sampler": "mean", "sampler_steps": 1, "condition": ["mean", "deviation"]}
SPHERE = {"mask_radius": 50.0, "mask_edge": 8.0}
COMPARISON = Comparison(PIXEL, 50.0, 8.0)


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    return [prepare_half(folder / f"half{seed}", seed) for seed in (1, 2)]


def outputs(folder):
    return {"control": folder / "control.json", "picture": folder / "control.svg"}


def read(folder):
    assert (folder / "control.svg").stat().st_size > 1000
    return json.loads((folder / "control.json").read_text())


def blob(centre, sigma=2.0):
    z, y, x = np.mgrid[:BOX, :BOX, :BOX]
    return torch.from_numpy(np.exp(-sum((axis - at) ** 2 for axis, at in zip((z, y, x), centre, strict=True)) / (2 * sigma**2))).float()


def test_the_domain_is_the_densest_place_off_the_centre():
    volume = 0.3 * blob((16, 16, 16)) + blob((16, 16, 23)) + 0.5 * blob((9, 16, 16))
    domain = find_domain(volume, pixel_size=PIXEL, mask_radius=48.0)
    assert np.abs(np.array(domain.centre) - (16, 16, 23)).max() <= 1
    assert domain.radius_px == pytest.approx(0.35 * 12)
    assert float(domain.mask(BOX)[domain.centre]) == 1.0


def test_what_is_left_out_is_gone_and_the_rest_stays():
    volume, domain = blob((16, 16, 9)) + blob((16, 16, 23)), Domain((16, 16, 23), 5.0)
    changed = CHANGES["omitted_domain"](volume, domain)
    assert float(changed[16, 16, 23]) == 0.0
    assert float(changed[16, 16, 9]) == pytest.approx(float(volume[16, 16, 9]))


def test_a_turned_domain_stands_where_25_degrees_take_it():
    volume, domain = blob((16, 16, 24), sigma=1.5), Domain((16, 16, 24), 5.0)
    changed = CHANGES["wrong_conformer"](volume, domain)
    place = np.array(np.unravel_index(int(changed.argmax()), changed.shape)) - 16
    assert np.linalg.norm(place) == pytest.approx(8, abs=0.7)
    assert np.degrees(np.arccos(place[2] / np.linalg.norm(place))) == pytest.approx(25, abs=5)
    assert float(changed.sum()) == pytest.approx(float(volume.sum()), rel=0.03)


def test_the_mirror_image_mirrored_is_the_map_again():
    volume = blob_map()
    mirrored = CHANGES["wrong_structure"](volume, Domain((16, 16, 23), 5.0))
    assert torch.equal(mirrored[9], volume[23])
    assert torch.equal(CHANGES["wrong_structure"](mirrored, Domain((16, 16, 23), 5.0)), volume)


def test_another_structure_has_the_power_of_the_map_and_nothing_in_common_with_it():
    volume = blob_map()
    other = other_structure(volume, radius_px=12.0, seed=1)
    first, second = (torch.fft.rfftn(one).abs().square().sum() for one in (volume, other))
    assert float(second) == pytest.approx(float(first), rel=0.01)
    assert abs(float(fourier_shell_correlation(volume, other, pixel_size=PIXEL).correlation[3:10].mean())) < 0.2


@pytest.mark.parametrize(("kept", "expected"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_the_recovered_share_of_a_domain_is_what_is_there_of_it(kept, expected):
    data, domain = blob((16, 16, 9)) + blob((16, 16, 23)), Domain((16, 16, 23), 5.0)
    restored = 0.3 * (blob((16, 16, 9)) + kept * blob((16, 16, 23)))
    assert recovered_share(restored, data, domain, COMPARISON, last=14) == pytest.approx(expected, abs=0.02)


def test_chosen_rows_are_some_of_the_candidates_in_their_order():
    candidates = np.array([3, 5, 8, 13, 21])
    rows = chosen_rows(candidates, 3, seed=1)
    assert len(rows) == 3
    assert set(rows) <= set(candidates)
    assert (np.diff(rows) > 0).all()
    assert chosen_rows(candidates, 9, seed=1).tolist() == candidates.tolist()


def test_an_unknown_change_is_refused(tmp_path):
    files = dict.fromkeys(("map", "map_odd", "map_even", "changed_map", "changed_map_odd", "changed_map_even", "domain_json"), tmp_path / "none")
    with pytest.raises(CryorestoreError, match="change: found 'upside_down'"):
        make_control_maps(**files, change="upside_down", mask_radius=50.0)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["omitted_domain", "wrong_structure"])
def test_a_posterior_over_a_changed_map_returns_what_it_was_taught_and_the_control_says_so(halves, tmp_path, change):
    first, second = halves
    changed = {f"changed_{name}": tmp_path / f"{name}.mrc" for name in first["maps"]}
    make_control_maps(**first["maps"], **changed, domain_json=tmp_path / "domain.json", change=change, mask_radius=50.0)
    reference = {"reference_map": tmp_path / "reference.mrc", "noise_json": tmp_path / "noise.json"}
    maps = {name: changed[f"changed_{name}"] for name in first["maps"]}
    make_training_pairs(star=first["star"], **maps, pairs=tmp_path / "pairs.safetensors", **reference, bg_radius=12.0, count=10, **SPHERE, **POSES)
    files = {"star": first["star"], "other_half_map": second["maps"]["map"], "domain_json": tmp_path / "domain.json", **reference}
    control_changed_map(**files, **outputs(tmp_path), **METHOD, images=60, evidence_threshold=0.0, **SPHERE, **POSES)
    result = read(tmp_path)
    assert result["name"] == change
    assert result["verdict"] == "failed"
    assert result["score"] < 0.3 if change == "omitted_domain" else result["score"] < 0
    # nothing that the evidence accepts: nothing wrong is passed on
    control_changed_map(**files, **outputs(tmp_path), **METHOD, images=16, evidence_threshold=1.0, **SPHERE, **POSES)
    assert read(tmp_path)["verdict"] == "passed"


@pytest.mark.slow
def test_junk_of_every_kind_is_counted_and_ice_is_refused(halves, tmp_path):
    options = {"star": halves[0]["star"], **halves[0]["reference"], **outputs(tmp_path), **METHOD}
    control_junk(**options, images=40, shares=[0.3, 0.5], **SPHERE, **POSES)
    result = read(tmp_path)
    accepted = result["details"]["accepted"]
    assert accepted.keys() == {PARTICLE, "ice", "neighbour", "another structure", "another conformer"}
    assert accepted[PARTICLE] > 0.9
    assert accepted["ice"] < 0.1
    # a conformer looks much like the particle: the evidence asks whether this or nothing is there
    assert accepted["another conformer"] > 0.5
    assert result["score"] == pytest.approx(np.mean([share for kind, share in accepted.items() if kind != PARTICLE]))
    assert (result["verdict"] == "passed") == (result["score"] <= result["threshold"])
    assert result["details"]["shares"] == [0.0, 0.3, 0.5]
    assert result["details"]["raw"][0] > result["details"]["raw"][-1]


@pytest.mark.slow
def test_a_crossing_that_does_not_care_for_the_number_of_particles_is_told(halves, tmp_path):
    files = {}
    for number, half in enumerate(halves, 1):
        names = {name: tmp_path / f"{number}.{end}" for name, end in (("restored_stack", "mrcs"), ("restored_star", "star"), ("evidence_csv", "csv"))}
        restore_particles(star=half["star"], **half["reference"], **names, condition=METHOD["condition"], **POSES)
        files |= {f"half{number}_star": half["star"], f"restored{number}_star": names["restored_star"]}
    control_particle_number(**files, **outputs(tmp_path), method="map-bayes", shares=[0.25, 1.0], **SPHERE)
    result = read(tmp_path)
    raw, restored = result["details"]["raw"], result["details"]["restored"]
    assert raw[0] > 1.1 * raw[1]
    assert result["score"] == pytest.approx((restored[0] / restored[1] - 1) / (raw[0] / raw[1] - 1))
    assert (result["verdict"] == "passed") == (result["score"] >= result["threshold"])
