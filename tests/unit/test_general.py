"""The general restorer: its network, what it learns from, and how it is trained and used."""

import csv
import json
from importlib import resources
from itertools import pairwise

import numpy as np
import pytest
import torch

from cryorestore.errors import CryorestoreError
from cryorestore.files import read_json
from cryorestore.general import training
from cryorestore.general.inputs import network_inputs
from cryorestore.general.network import INPUT_CHANNELS, GeneralNetwork
from cryorestore.general.restorer import DIAMETER_SHARE, WORKING_SIDE, GeneralRestorer, for_other_prior
from cryorestore.general.simulation import PLAIN, SIDE, Ranges, Simulator
from cryorestore.general.structures import Model, Structure, find_model, load_structures, read_models, shipped_models
from cryorestore.general.training import GeneralTask, Watched, train_general
from cryorestore.general.weights import load_general, save_general
from cryorestore.molecule import load_molecule, molecule_volume

NEVER_TRAINED = {"5A1A", "1AON", "1IGT", "1KX5", "3J9I", "5FN5", "6FSZ", "6O1P", "6RKU", "6VYB"}
SIBLINGS_AND_DEMO = {"1IGY", "1MNF", "6XLU", "7T9K", "7PBL"}


@pytest.fixture(scope="module")
def structure():
    molecule = load_molecule("demo")
    diameter = 120.0
    return Structure("demo", diameter, molecule_volume(molecule, box_size=SIDE, pixel_size=diameter / (DIAMETER_SHARE[1] * SIDE)))


def write_pdb(path, shift=0.0):
    """Some carbon atoms of no particular protein."""
    places = np.random.default_rng(3).normal(0, 12, (300, 3)) * [1, 0.6, 0.4] + shift
    lines = [
        f"ATOM  {i % 99999 + 1:5d}  CA  ALA A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C" for i, (x, y, z) in enumerate(places)
    ]
    path.write_text("\n".join([*lines, "END"]) + "\n")


@pytest.fixture(autouse=True)
def _few_images(monkeypatch):
    monkeypatch.setattr(training, "HELD_OUT_IMAGES", 8)
    monkeypatch.setattr(training, "WATCHED_VIEWS", 2)


@pytest.fixture
def small_training(tmp_path):
    write_pdb(tmp_path / "1aaa.pdb")
    write_pdb(tmp_path / "2bbb.pdb", shift=3.0)
    rows = ["id\tsplit\tassembly\theavy_atoms", "1AAA\ttrain\tmonomer\t300", "2BBB\tvalidation\tmonomer\t300"]
    (tmp_path / "models.tsv").write_text("\n".join(rows) + "\n")

    def run(name, **options):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        fixed = {"steps": 4, "batch_size": 4, "warmup_steps": 1, "validation_every": 2, "history_every": 1, "checkpoint_minutes": 0.0}
        train_general(
            data_root=tmp_path,
            models=tmp_path / "models.tsv",
            weights=folder / "general.safetensors",
            history=folder / "history.csv",
            curve=folder / "curve.csv",
            work_dir=folder / "work",
            precision="float32",
            **(fixed | options),
        )
        return folder

    return run


def test_the_network_is_small_enough():
    assert sum(parameter.numel() for parameter in GeneralNetwork().parameters()) <= 3_000_000


@pytest.mark.parametrize("side", [48, 64, 80])
def test_every_output_has_the_side_of_the_image(side):
    inputs = network_inputs(torch.randn(2, side, side), torch.ones(2, side, side // 2 + 1))
    assert inputs.shape == (2, INPUT_CHANNELS, side, side)
    mean, log_variance, evidence = GeneralNetwork()(inputs)
    assert mean.shape == log_variance.shape == (2, 2, side, side)
    assert evidence.shape == (2,)
    assert not mean.any(), "an untrained network restores nothing"


def test_a_ctf_of_one_leaves_the_phases_and_an_unknown_ctf_says_so():
    images = torch.randn(3, 32, 32)
    known = network_inputs(images, torch.ones(3, 32, 17))
    unknown = network_inputs(images, None)
    assert torch.allclose(known[:, 1], images, atol=1e-5)
    assert torch.equal(known[:, :-1], unknown[:, :-1])
    assert known[:, -1].eq(0).all()
    assert unknown[:, -1].eq(1).all()
    mixed = network_inputs(images, -torch.ones(3, 32, 17), torch.tensor([True, False, True]))
    assert torch.allclose(mixed[0, 1], -images[0], atol=1e-5)
    assert torch.allclose(mixed[1, 1], images[1], atol=1e-5)


def test_no_structure_of_the_benchmark_is_trained_on():
    models = read_models(shipped_models())
    trained = {model.id for model in models if model.split == "train"}
    assert len(trained) == 64
    assert {model.id for model in models if model.split == "validation"} == NEVER_TRAINED
    assert not trained & (NEVER_TRAINED | SIBLINGS_AND_DEMO)


def test_a_list_that_cannot_be_used_is_refused(tmp_path):
    path = tmp_path / "models.tsv"
    path.write_text("id\tsplit\n1AAA\ttrain\n")
    with pytest.raises(CryorestoreError, match="assembly, heavy_atoms"):
        read_models(path)
    path.write_text("id\tsplit\tassembly\theavy_atoms\n1AAA\tsibling\tmonomer\t3\n")
    with pytest.raises(CryorestoreError, match="line 2: split is 'sibling'"):
        read_models(path)
    path.write_text("id\tsplit\tassembly\theavy_atoms\n1AAA\ttrain\tmonomer\t3\n1AAA\tvalidation\tmonomer\t3\n")
    with pytest.raises(CryorestoreError, match="stands twice"):
        read_models(path)


def test_another_assembly_than_the_list_says_is_refused(tmp_path):
    write_pdb(tmp_path / "1aaa.pdb")
    with pytest.raises(CryorestoreError, match="found 300 heavy atoms, expected 301"):
        load_structures([Model("1AAA", "train", "dimer", 301)], data_root=tmp_path, cache_dir=tmp_path)
    with pytest.raises(CryorestoreError, match="found none for 9ZZZ"):
        find_model(Model("9ZZZ", "train", "dimer", 301), tmp_path)


def test_the_same_seed_draws_the_same_particles_whatever_was_drawn_before(structure):
    simulator = Simulator([structure], Ranges())
    first = simulator.batch(8, np.random.default_rng([5, 0]))
    simulator.batch(8, np.random.default_rng([5, 1]))
    again = simulator.batch(8, np.random.default_rng([5, 0]))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_plain_particles_are_projection_and_white_noise_at_the_snr_that_was_asked_for(structure):
    batch = Simulator([structure], PLAIN).batch(64, np.random.default_rng(1), snr=0.2)
    assert torch.allclose(batch["clean"].var((1, 2)), torch.full((64,), 0.2), rtol=1e-3)
    noise = batch["images"] - batch["clean"]
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert batch["particle"].all()
    assert batch["known"].all()


def test_the_ctf_of_the_corrected_target_gives_the_clean_one(structure):
    """On the periodic box, where no ripple leaves."""
    ranges = Ranges(**{**PLAIN.__dict__, "periodic": 1.0})
    batch = Simulator([structure], ranges).batch(16, np.random.default_rng(1))
    applied = torch.fft.irfft2(torch.fft.rfft2(batch["corrected"]) * batch["ctf"], s=(SIDE, SIDE))
    error = (applied - batch["clean"]).square().mean((1, 2)) / batch["clean"].var((1, 2))
    assert error.max() < 0.02


def test_a_larger_share_is_a_larger_particle(structure):
    def spread(share):
        ranges = Ranges(**{**PLAIN.__dict__, "diameter_share": (share, share), "largest_shift": 0.0})
        images = Simulator([structure], ranges).batch(32, np.random.default_rng(2))["corrected"]
        images = images * (images > 0.2 * images.amax((1, 2), keepdim=True))
        axis = torch.arange(SIDE) - SIDE // 2
        radius = (axis[:, None] ** 2 + axis**2).float()
        return float(((images * radius).sum((1, 2)) / images.sum((1, 2))).mean().sqrt())

    assert spread(0.7) / spread(0.4) == pytest.approx(0.7 / 0.4, rel=0.15)


def test_empty_boxes_have_a_zero_target_and_say_so(structure):
    batch = Simulator([structure], Ranges(empty=1.0)).batch(16, np.random.default_rng(1))
    assert not batch["clean"].any()
    assert not batch["corrected"].any()
    assert not batch["particle"].any()
    assert batch["images"].std() > 0.5


def test_all_that_is_drawn_is_finite_and_of_the_grey_scale_of_the_background(structure):
    batch = Simulator([structure], Ranges()).batch(256, np.random.default_rng(9))
    assert all(rows.isfinite().all() for name, rows in batch.items())
    assert 0.5 < float(batch["images"].std((1, 2)).median()) < 1.6
    assert batch["snr"].min() >= 0.002
    assert batch["snr"].max() <= 0.5


def test_the_variance_is_learned_about_the_mean_and_moves_no_weight_of_it(structure, tmp_path):
    task = GeneralTask(Simulator([structure], Ranges()), 4, seed=1, precision="float32", curve=tmp_path / "curve.csv")
    network = GeneralNetwork()
    _, log_variance, _ = network(network_inputs(*(task.batch(1, slice(0, 4))[name] for name in ("images", "ctf"))))
    log_variance.sum().backward()
    touched = {name for name, parameter in network.named_parameters() if parameter.grad is not None and parameter.grad.abs().sum() > 0}
    assert touched
    assert all(name.startswith("log_variance") for name in touched)


def test_a_training_that_was_interrupted_ends_with_the_same_bytes(small_training):
    straight = small_training("straight")
    with pytest.raises(SystemExit) as stopped:
        small_training("interrupted", runtime_minutes=0.0)
    assert stopped.value.code == 75
    resumed = small_training("interrupted")
    for name in ("general.safetensors", "curve.csv"):
        assert (straight / name).read_bytes() == (resumed / name).read_bytes()
    with (straight / "curve.csv").open() as file:
        assert set(next(csv.DictReader(file))) == {"step", "images", "psnr_0.1", "psnr_0.05", "psnr_0.02"}
    card = read_json(straight / "general.json")
    assert card["parameters"]["structures"] == ["1AAA"]
    assert card["validation_structures"] == ["2BBB"]
    assert [row["step"] for row in card["curve"]] == [0, 2, 4]
    assert not (straight / "work/checkpoint.safetensors").exists()


def test_a_training_goes_on_from_finished_weights(small_training):
    first = small_training("first")
    more = small_training("more", start_from=first / "general.safetensors")
    card = read_json(more / "general.json")
    assert card["start_from"] == read_json(first / "general.json")["fingerprint"]
    assert (more / "general.safetensors").read_bytes() != (first / "general.safetensors").read_bytes()


def test_nothing_of_the_watched_structures_reaches_a_batch(structure, tmp_path):
    other = Structure("other", structure.diameter, structure.volume.flip(0))
    simulator = Simulator([structure], Ranges())
    alone = GeneralTask(simulator, 4, seed=1, precision="float32", curve=tmp_path / "a.csv")
    watching = GeneralTask(simulator, 4, seed=1, precision="float32", watched=Watched([other], 1), curve=tmp_path / "b.csv")
    network = GeneralNetwork()
    with torch.no_grad():
        assert alone.validate(network, 64) == watching.validate(network, 64)
    drawn, again = alone.batch(3, slice(0, 4)), watching.batch(3, slice(0, 4))
    assert all(torch.equal(drawn[name], again[name]) for name in drawn)


def test_weights_keep_what_matters_in_half_precision_and_the_same_bytes(tmp_path):
    network = GeneralNetwork()
    card = {"fingerprint": "abc", "widths": [48, 96, 144, 192], "parameters": {"ranges": {"empty": 0.1}}}
    for name in ("a", "b"):
        save_general(tmp_path / f"{name}.safetensors", network.state_dict(), card)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded, _ = load_general(tmp_path / "a.safetensors", torch.device("cpu"))
    for (name, kept), (_, given) in zip(loaded.state_dict().items(), network.state_dict().items(), strict=True):
        assert torch.allclose(kept, given, atol=1e-3), name


@pytest.fixture(scope="module")
def restorer():
    if not resources.files("cryorestore").joinpath("assets/general.safetensors").is_file():
        pytest.skip("the weights of the package are not there yet")
    return GeneralRestorer.load(device="cpu", precision="float32")


def test_a_particle_does_not_depend_on_those_beside_it(restorer):
    images = torch.randn(70, WORKING_SIDE, WORKING_SIDE, generator=torch.Generator().manual_seed(1))
    ctf = torch.ones(70, WORKING_SIDE, WORKING_SIDE // 2 + 1)
    whole, one = restorer.restore(images, ctf), restorer.restore(images[66:67], ctf[66:67])
    assert torch.equal(whole.mean[66:67], one.mean)
    assert torch.equal(whole.evidence[66:67], one.evidence)
    assert restorer.restore(images[:0], ctf[:0]).mean.shape == (0, WORKING_SIDE, WORKING_SIDE)


def test_noise_alone_gives_nearly_nothing_and_particles_give_evidence(restorer, structure):
    empty = restorer.restore(torch.randn(64, SIDE, SIDE, generator=torch.Generator().manual_seed(1)), None)
    batch = Simulator([structure], PLAIN).batch(64, np.random.default_rng(1), snr=0.1)
    particles = restorer.restore(batch["images"], batch["ctf"])
    assert empty.mean.square().mean() <= 0.05 * particles.mean.square().mean()
    assert particles.evidence.median() > 0 > empty.evidence.median()
    error = (particles.mean - batch["clean"]).square().mean() / batch["clean"].square().mean()
    assert error < 0.6


def test_an_expectation_of_more_empty_boxes_is_exact_for_a_mixture_with_zero():
    """A particle of mean 2 and variance 1 with probability 0.9, else zero; then with probability 0.5."""
    moments = {share: (2 * share, share * (1 + 4) - (2 * share) ** 2) for share in (0.9, 0.5)}
    mean, variance = (torch.tensor([value]) for value in moments[0.9])
    changed, deviation = for_other_prior(mean, variance, torch.tensor([0.9]).logit(), torch.tensor([0.5]).logit())
    assert float(changed) == pytest.approx(moments[0.5][0], rel=1e-5)
    assert float(deviation) == pytest.approx(moments[0.5][1] ** 0.5, rel=1e-5)


def test_sides_that_do_not_fit_and_a_ctf_that_is_not_known_are_refused(restorer):
    with pytest.raises(CryorestoreError, match="multiple of 16"):
        restorer.restore(torch.zeros(1, 60, 60), None)
    with pytest.raises(CryorestoreError, match="CTF is not known"):
        restorer.restore(torch.zeros(1, 64, 64), None, corrected=True)


def test_the_shipped_card_is_of_the_shipped_list(restorer):
    trained = [model.id for model in read_models(shipped_models()) if model.split == "train"]
    assert restorer.card["parameters"]["structures"] == trained
    steps = [row["step"] for row in restorer.card["curve"]]
    assert all(left < right for left, right in pairwise(steps))
    path = resources.files("cryorestore").joinpath("assets/general.safetensors")
    assert len(path.read_bytes()) <= 10_000_000
    assert json.dumps(restorer.card)
