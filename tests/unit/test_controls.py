"""Controls on half-sets whose truth is known: each must see what it is for."""

import json

import numpy as np
import pytest
import torch

from cryorestore.controls.noise_only import control_noise_only
from cryorestore.controls.phase_randomised import control_phase_randomised, randomised_beyond
from cryorestore.controls.raw_poses import control_raw
from cryorestore.controls.shared_network import control_shared_network, shared_prior_fsc
from cryorestore.errors import CryorestoreError
from cryorestore.files import write_json
from cryorestore.fourier import radial_shells_2d, to_fourier
from cryorestore.fsc import FscCurve, fourier_shell_correlation
from cryorestore.io.mrc import write_map
from cryorestore.resolution.correction import MaskedCurves
from cryorestore.resolution.curve_files import write_curves_csv
from cryorestore.restore import restore_particles
from helpers import BOX, PIXEL, POSES, blob_map, prepare_half

METHOD = {"method": "map-bayes", "sampler": "mean", "sampler_steps": 1, "condition": ["mean", "deviation"]}
SPHERE = {"mask_radius": 50.0, "mask_edge": 8.0}
SCHEMA = {"name", "method", "score", "score_text", "threshold", "null", "verdict", "gates", "text", "picture", "details"}


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Two halves, each restored with what it knows itself."""
    folder = tmp_path_factory.mktemp("halves")
    halves = [prepare_half(folder / f"half{seed}", seed) for seed in (1, 2)]
    for half in halves:
        outputs = {
            name: half["folder"] / f"restored.{end}" for name, end in (("restored_stack", "mrcs"), ("restored_star", "star"), ("evidence_csv", "csv"))
        }
        restore_particles(star=half["star"], **half["reference"], **outputs, condition=METHOD["condition"], **POSES)
        half["restored_star"] = outputs["restored_star"]
    return halves


def outputs(folder):
    return {"control": folder / "control.json", "picture": folder / "control.svg"}


def read(folder):
    result = json.loads((folder / "control.json").read_text())
    assert result.keys() == SCHEMA
    assert result["verdict"] in ("passed", "failed", "not judged")
    assert (folder / result["picture"]).read_text().startswith("<?xml")
    return result


def noise_only(halves, folder, **changes):
    keys = {f"{name}_{number}": half["reference"][name] for number, half in enumerate(halves, 1) for name in ("reference_map", "noise_json")}
    stars = {f"half{number}_star": half["star"] for number, half in enumerate(halves, 1)}
    control_noise_only(**stars, **keys, **outputs(folder), **METHOD | changes, images=60, **SPHERE, **POSES)
    return read(folder)


@pytest.mark.slow
def test_the_noise_only_control_passes_with_evidence_and_shows_what_gating_prevents(halves, tmp_path):
    result = noise_only(halves, tmp_path)
    assert result["verdict"] == "passed"
    assert result["score"] <= result["threshold"] == 0.005
    assert result["details"]["kept"] >= 0.95
    # ungated, the restored noise of two independent halves reproduces their maps: invented agreement
    assert np.mean(result["details"]["ungated_fsc"][2:8]) > 0.5
    # what comes out of noise is the half's own map; the noise itself has nothing of it
    assert np.mean(result["details"]["ungated_fsc_to_own_map"][2:8]) > 0.9
    assert abs(np.mean(result["details"]["raw_fsc_to_own_map"][2:8])) < 0.15


@pytest.mark.slow
def test_noise_that_is_let_through_fails_the_noise_only_control(halves, tmp_path):
    result = noise_only(halves, tmp_path, evidence_threshold=0.0)
    assert (result["verdict"], result["score"]) == ("failed", 1.0)


def test_a_method_without_evidence_fails_the_noise_only_control(halves, tmp_path):
    result = noise_only(halves, tmp_path, condition=["projection"])
    assert (result["verdict"], result["score"]) == ("failed", 1.0)
    assert "no evidence" in result["text"]


def fsc_json(folder, crossing):
    write_json(folder / "fsc.json", {"pixel_size": PIXEL, "resolutions": {"0.143": crossing}})
    return folder / "fsc.json"


@pytest.mark.slow
@pytest.mark.parametrize(("claim", "verdict"), [(None, "failed"), (60.0, "passed")])
def test_fine_detail_of_a_restorer_that_knows_the_map_is_prior_only(halves, tmp_path, claim, verdict):
    half = halves[0]
    options = {"star": half["star"], "restored_star": half["restored_star"], "restored_fsc": fsc_json(tmp_path, claim), **half["reference"]}
    control_phase_randomised(**options, **outputs(tmp_path), **METHOD, images=40, shares=[0.8, 0.5], **SPHERE, **POSES)
    result = read(tmp_path)
    assert result["verdict"] == verdict
    assert 2 * PIXEL < result["score"] < 60
    assert result["details"]["restored"][0] > 0.8
    # the map of raw particles, treated alike, follows the data
    assert abs(result["null"]["value"]) < 0.3


def test_phases_are_random_beyond_the_shell_and_nowhere_else():
    images = torch.randn(3, BOX, BOX, generator=torch.Generator().manual_seed(1))
    changed = randomised_beyond(lambda rows, seeds: images, 5)(np.arange(3), [1, 2, 3])
    before, after, beyond = to_fourier(images), to_fourier(changed), radial_shells_2d(BOX) > 5
    assert torch.allclose(before[:, ~beyond], after[:, ~beyond], atol=1e-5)
    assert torch.allclose(before.abs(), after.abs(), atol=1e-5)
    agreement = (before[:, beyond] * after[:, beyond].conj()).real.sum() / before[:, beyond].abs().square().sum()
    assert abs(float(agreement)) < 0.1


def test_shares_that_do_not_fall_are_refused(tmp_path):
    files = dict.fromkeys(("star", "restored_star", "restored_fsc", "reference_map", "noise_json", "control", "picture"), tmp_path / "none")
    with pytest.raises(CryorestoreError, match=r"phase_randomised\.shares"):
        control_phase_randomised(**files, **METHOD, shares=[0.2, 0.5], **SPHERE, **POSES)


@pytest.mark.slow
def test_a_shared_network_would_claim_more_than_independent_halves_do(halves, tmp_path):
    write_map(tmp_path / "truth.mrc", blob_map().numpy(), pixel_size=PIXEL)
    stars = {
        f"{kind}{number}_star": half[f"{key}star"] for number, half in enumerate(halves, 1) for kind, key in (("half", ""), ("restored", "restored_"))
    }
    reference = {f"{name}_1": path for name, path in halves[0]["reference"].items()}
    control_shared_network(**stars, **reference, truth_map=tmp_path / "truth.mrc", **outputs(tmp_path), **METHOD, images=60, **SPHERE, **POSES)
    result = read(tmp_path)
    assert result["verdict"] == "passed"
    means = result["details"]["mean_fsc"]
    assert result["score"] == pytest.approx(means["shared"] - means["independent"])
    assert result["score"] > 0.01
    assert means["shared"] > means["shared, to the truth"] + 0.05


@pytest.mark.parametrize(("restored", "verdict"), [(9.0, "failed"), (10.0, "passed"), (12.0, "passed"), (None, "failed")])
def test_restored_half_maps_may_not_claim_more_than_raw_ones(tmp_path, restored, verdict):
    curve = FscCurve(torch.arange(BOX // 2 + 1) / (BOX * PIXEL), torch.linspace(1, 0, BOX // 2 + 1))
    for name, crossing in (("raw", 10.0), ("restored", restored)):
        (tmp_path / name).mkdir()
        fsc_json(tmp_path / name, crossing)
        write_curves_csv(tmp_path / name / "fsc.csv", MaskedCurves(curve))
    files = {f"{name}_{kind}": tmp_path / name / f"fsc.{end}" for name in ("raw", "restored") for kind, end in (("fsc", "json"), ("curve", "csv"))}
    control_raw(**files, **outputs(tmp_path), method="ours")
    result = read(tmp_path)
    assert (result["verdict"], result["threshold"]) == (verdict, 10.0)


@pytest.mark.parametrize(("signal_to_noise", "particles"), [(0.001, 1000), (0.05, 200)])
def test_the_shared_prior_gives_the_half_map_fsc_of_the_formula_and_not_that_of_the_truth(signal_to_noise, particles):
    """Maps made as the formula's model says: the mean of restored images, each the posterior mean about one wrong map."""
    generator = torch.Generator().manual_seed(3)
    signal, wrong, *noise = (torch.randn(48, 48, 48, generator=generator, dtype=torch.float64) for _ in range(4))
    weight = signal_to_noise / (1 + signal_to_noise)
    mean_noise = (1 / (particles * signal_to_noise)) ** 0.5
    halves = [(1 - weight) * wrong + weight * (signal + mean_noise * one) for one in noise]
    half_map, truth = shared_prior_fsc(signal_to_noise, particles)
    shells = slice(8, 24)
    assert float(fourier_shell_correlation(*halves, pixel_size=1.0).correlation[shells].mean()) == pytest.approx(half_map, abs=1e-3)
    assert float(fourier_shell_correlation(halves[0], signal, pixel_size=1.0).correlation[shells].mean()) == pytest.approx(truth, abs=0.01)


def test_at_hardly_any_signal_the_shared_prior_agrees_with_itself_and_not_with_the_truth():
    half_map, truth = shared_prior_fsc(0.001, 1000)
    assert half_map == pytest.approx(0.999999, abs=1e-8)
    assert truth == pytest.approx(0.001, abs=1e-5)
    # raw particles would say so: n s / (1 + n s)
    assert 1000 * 0.001 / (1 + 1000 * 0.001) == 0.5
