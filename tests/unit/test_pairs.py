import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from cryorestore.errors import CryorestoreError
from cryorestore.pairs import make_training_pairs
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct import reconstruct_map
from cryorestore.reference import Reference, fsc_wiener_weights
from helpers import BOX, PIXEL, simulate_particles, write_particles

OPTIONS = {"mask_radius": 50.0, "mask_edge": 8.0, "bg_radius": 12.0, "rotation_sigma": 3.0, "shift_sigma": 2.0, "posterior_rotations": (48, 32, 32)}


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    data = simulate_particles(300, sigma=2.0)
    star = write_particles(folder, data, extra={"rlnCryorestoreHoldout": (np.arange(300) % 10 == 0).astype(int)})
    maps = {name: folder / f"{name}.mrc" for name in ("map", "map_odd", "map_even")}
    reconstruct_map(star=star, **maps, backend="native")
    return folder, data, {"star": star, **maps}


def make(half, folder, **options):
    outputs = {"pairs": folder / "pairs.safetensors", "reference_map": folder / "reference.mrc", "noise_json": folder / "noise.json"}
    make_training_pairs(**half[2], **outputs, **OPTIONS, **options)
    with safe_open(outputs["pairs"], "pt") as file:
        return {name: file.get_tensor(name).float() for name in file.keys()}, file.metadata(), outputs  # noqa: SIM118 (no mapping)


def test_wiener_weights_follow_the_fsc_and_end_where_it_does():
    weights = fsc_wiener_weights(torch.tensor([1.0, 0.9, 0.5, 0.01, 0.6]))
    assert torch.allclose(weights, torch.tensor([1.0, 1.8 / 1.9, 1.0 / 1.5, 0.0, 0.0]))


def test_the_reference_has_the_grey_scale_of_the_particles_and_their_noise(half, tmp_path):
    _, _, outputs = make(half, tmp_path, count=8)
    reference = Reference.read(outputs["reference_map"], outputs["noise_json"])
    assert reference.amplitude == pytest.approx(1.0, abs=0.1)
    assert torch.allclose(reference.noise_power[2:14], torch.full((12,), 4.0), rtol=0.15)
    volume = half[1]["volume"]
    assert float((reference.volume * volume).sum() / (reference.volume.norm() * volume.norm())) > 0.9


def test_noise_and_target_add_up_to_what_the_network_is_shown(half, tmp_path):
    tensors, metadata, outputs = make(half, tmp_path, count=60, empty_fraction=0.2)
    assert json.loads(metadata["config"])["validation_from"] == 54
    empty = tensors["clean"].square().sum((1, 2)) == 0
    assert int(empty.sum()) == 12
    noise = tensors["noisy"] - tensors["clean"]
    assert float(noise.var()) == pytest.approx(4.0, rel=0.1)
    error = (tensors["mean"] - tensors["clean"])[~empty].square().mean()
    assert float(error) < 0.3 * float(tensors["clean"][~empty].square().mean())
    evidence = json.loads(outputs["noise_json"].read_text())["simulated_log_evidence"]
    assert (len(evidence["particles"]), len(evidence["empty"])) == (48, 12)
    assert np.median(evidence["particles"]) > 0 > np.median(evidence["empty"])


def test_the_pairs_know_their_half(half, tmp_path):
    table = ParticleTable.read(half[2]["star"])
    star = tmp_path / "one.star"
    table.with_columns({"rlnRandomSubset": np.full(len(table), 2)}).write(star)
    _, metadata, _ = make((half[0], half[1], half[2] | {"star": star}), tmp_path, count=8, with_posterior=False)
    assert json.loads(metadata["config"])["half"] == 2


def test_without_a_posterior_there_are_no_pose_channels(half, tmp_path):
    tensors, _, _ = make(half, tmp_path, count=8, with_posterior=False)
    assert set(tensors) == {"clean", "noisy", "phase_flipped", "wiener"}


def test_projected_pairs_show_the_real_particles_but_never_held_out_ones(half, tmp_path):
    tensors, _, _ = make(half, tmp_path, count=1000, kind="projected", with_posterior=False)
    kept = torch.arange(300) % 10 != 0
    assert len(tensors["noisy"]) == 270
    shown = {tuple(image[0, :4].half().tolist()) for image in tensors["noisy"]}
    assert shown == {tuple(image[0, :4].half().tolist()) for image in half[1]["images"][kept]}


def test_the_same_seed_gives_the_same_bytes(half, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        make(half, tmp_path / name, count=20)
    for file in ("pairs.safetensors", "reference.mrc", "noise.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_premultiplied_particles_are_refused(half, tmp_path):
    text = half[2]["star"].read_text()
    marked = text.replace("_rlnAmplitudeContrast #8", "_rlnAmplitudeContrast #8\n_rlnCtfDataAreCtfPremultiplied #9")
    lines = [line + "\t1" if line.startswith("1") and "one" in line else line for line in marked.splitlines()]
    star = tmp_path / "premultiplied.star"
    star.write_text("\n".join(lines) + "\n")
    with pytest.raises(CryorestoreError, match="rlnCtfDataAreCtfPremultiplied"):
        make((half[0], half[1], half[2] | {"star": star}), tmp_path, count=8)


def test_the_box_and_pixel_size_are_the_helpers(half, tmp_path):
    tensors, metadata, _ = make(half, tmp_path, count=8)
    assert tensors["noisy"].shape == (8, BOX, BOX)
    assert json.loads(metadata["config"])["pixel_size"] == PIXEL
