"""The general weights as a method of half-sets: evidence and deviation with every particle, and controls that know that the halves share them."""

import json

import numpy as np
import pytest

from cryorestore.controls.noise_only import control_noise_only
from cryorestore.controls.shared_network import control_shared_network
from cryorestore.particles import ParticleTable
from cryorestore.restore import restore_particles
from cryorestore.summary import SELF_CONSISTENCY, _self_consistency
from helpers import POSES, prepare_half, write_narrow_weights

METHOD = {"method": "general", "condition": ["general"], "sampler": "none", "sampler_steps": 0, "samples": 1, "mask_radius": 50.0, "mask_edge": 8.0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(write_narrow_weights(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="module")
def halves(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("halves")
    made = [prepare_half(folder / f"half{number}", number) for number in (1, 2)]
    for half in made:
        names = {
            "restored_stack": "restored.mrcs",
            "restored_star": "restored.star",
            "evidence_csv": "evidence.csv",
            "deviation_stack": "deviation.mrcs",
        }
        half["outputs"] = {name: half["folder"] / file for name, file in names.items()}
        options = {name: value for name, value in METHOD.items() if name != "method"}
        restore_particles(star=half["star"], **half["reference"], **half["outputs"], **options, general_weights=weights, **POSES)
    return made


def test_each_particle_has_its_evidence_and_deviation(halves):
    for half in halves:
        before, after = ParticleTable.read(half["star"]), ParticleTable.read(half["outputs"]["restored_star"])
        assert after.particles.column("rlnAngleRot") == before.particles.column("rlnAngleRot")
        assert np.isfinite(after.particles.floats("rlnCryorestoreLogEvidence")).all()
        assert after.load_images().shape == before.load_images().shape
        assert half["outputs"]["deviation_stack"].stat().st_size == half["outputs"]["restored_stack"].stat().st_size


def shared_network(halves, folder, weights):
    files = {}
    for number, half in enumerate(halves, start=1):
        files |= {f"half{number}_star": half["star"], f"restored{number}_star": half["outputs"]["restored_star"]}
    reference = {f"{name}_1": path for name, path in halves[0]["reference"].items()}
    outputs = {"control": folder / "control.json", "picture": folder / "control.svg"}
    control_shared_network(**files, **reference, **outputs, **METHOD, general_weights=weights, images=40, **POSES, evidence_threshold=0.0)
    return json.loads((folder / "control.json").read_text())


def test_the_restored_halves_resolution_is_withheld_for_they_share_the_weights(halves, tmp_path, weights):
    result = shared_network(halves, tmp_path, weights)
    assert result["verdict"] == "failed"
    assert "both halves are restored by one network" in result["text"]
    found = _self_consistency({"resolutions": {"0.143": 9.0}}, {"shared_network": result, "raw": {**result, "verdict": "passed"}})
    assert found[SELF_CONSISTENCY] is None
    assert "the half-map FSC of what it restores is void" in found["self_consistency_reason"]


def test_the_noise_only_control_asks_for_the_networks_own_evidence(halves, tmp_path, weights):
    files = {}
    for number, half in enumerate(halves, start=1):
        files |= {f"half{number}_star": half["star"]} | {f"{name}_{number}": path for name, path in half["reference"].items()}
    outputs = {"control": tmp_path / "control.json", "picture": tmp_path / "control.svg"}
    control_noise_only(**files, **outputs, **METHOD, general_weights=weights, images=20, **POSES)
    details = json.loads((tmp_path / "control.json").read_text())["details"]
    assert details["simulated_particles"] == 40
    assert details["noise_log_evidence_median"] == pytest.approx(details["particle_log_evidence_median"], abs=5)
