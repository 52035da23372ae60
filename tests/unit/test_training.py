import csv
import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

from cryorestore import training_tasks
from cryorestore.checkpoint import load_checkpoint
from cryorestore.devices import select_device
from cryorestore.diffusion.denoiser import load_denoiser
from cryorestore.errors import CryorestoreError
from cryorestore.postprocess import load_postprocess
from cryorestore.training import train_diffusion, train_postprocess
from cryorestore.training_data import TrainingPairs
from cryorestore.training_loop import Plan, StopRequest
from cryorestore.training_tasks import normalized_error

pytestmark = pytest.mark.slow

BOX, COUNT = 16, 40


def make_images(seed=1):
    """The clean image is what is left when the mean's error, which the Wiener image shows, is taken away."""
    generator = torch.Generator().manual_seed(seed)
    clean, error, noise = (torch.randn(COUNT, BOX, BOX, generator=generator) for _ in range(3))
    return {"clean": 0.2 * clean, "mean": 0.2 * clean + 0.1 * error, "wiener": error, "noisy": 0.2 * clean + noise}


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.safetensors"
    images = {name: image.half() for name, image in make_images().items()}
    save_file(images, path, {"config": json.dumps({"half": 1, "validation_from": 32})})
    return path


@pytest.fixture
def diffusion(tmp_path, pairs):
    def run(name="a", **changed):
        folder = tmp_path / name
        arguments = {
            "condition": ["noisy", "wiener", "mean"],
            "prediction": "v",
            "size": "tiny",
            "steps": 20,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "warmup_steps": 5,
            "ema_decay": 0.9,
            "patience": 100,
            "validation_every": 5,
            "history_every": 1,
            "seed": 3,
            "device": "cpu",
            "precision": "float32",
            **changed,
        }
        train_diffusion(
            pairs=pairs,
            weights=folder / "diffusion.safetensors",
            history=folder / "history.csv",
            work_dir=folder / "work",
            **arguments,
        )
        return folder

    return run


@pytest.fixture
def postprocess(tmp_path, pairs):
    def run(diffusion_folder, name="post", **changed):
        folder = tmp_path / name
        arguments = {"sampler": "mean", "sampler_steps": 1, "size": "tiny", "steps": 20, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 5}
        arguments |= {"ema_decay": 0.9, "patience": 100, "validation_every": 5, "seed": 3, "device": "cpu", "precision": "float32", **changed}
        train_postprocess(
            pairs=pairs,
            diffusion_weights=diffusion_folder / "diffusion.safetensors",
            weights=folder / "postprocess.safetensors",
            history=folder / "history.csv",
            work_dir=folder / "work",
            **arguments,
        )
        return folder

    return run


def read_history(folder):
    with (folder / "history.csv").open() as stream:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(stream)]


def stop_after(monkeypatch, calls):
    """Let the training believe, after so many steps of this start, that it was asked to stop."""
    left = iter(range(calls - 1))
    monkeypatch.setattr(StopRequest, "reason", lambda self: None if next(left, None) is not None else "the test says so")


def restore(folder, rows=slice(0, 8), **changed):
    images = {name: image[rows] for name, image in make_images().items()}
    arguments = {"sampler": "mean", "steps": 1, "seeds": list(range(len(images["clean"]))), **changed}
    return images, *load_denoiser(folder / "diffusion.safetensors", device="cpu", precision="float32").restore(images, **arguments)


def test_stopped_twice_and_resumed_equals_unbroken_bit_for_bit(diffusion, monkeypatch):
    whole = diffusion("whole")
    for steps in (7, 6):
        with monkeypatch.context() as patched:
            stop_after(patched, steps)
            with pytest.raises(SystemExit) as stopped:
                diffusion("broken")
        assert stopped.value.code == 75
    broken = diffusion("broken")
    for name in ("diffusion.safetensors", "diffusion.json"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    assert read_history(whole) == read_history(broken)
    assert [row["step"] for row in read_history(broken)] == [str(step) for step in range(21)]
    assert not list((broken / "work").iterdir())


def test_the_learning_rate_warms_up_and_falls():
    limits = {
        "ema_decay": 0.9,
        "patience": 1,
        "validation_every": 1,
        "seed": 1,
        "history_every": 1,
        "checkpoint_minutes": 5.0,
        "runtime_minutes": None,
    }
    plan = Plan(steps=20, batch_size=4, learning_rate=1e-3, warmup_steps=5, **limits)
    rates = [plan.rate(step) for step in range(1, 21)]
    assert rates[:5] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3])
    assert rates[5] == pytest.approx(1e-3)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(1e-3 * 0.5 * (1 - 0.97815), rel=1e-3)  # cos(pi 14/15) = -0.97815


def test_sigterm_saves_and_ends_with_code_75(diffusion, monkeypatch, tmp_path):
    real, calls = Plan.rate, []

    def rate(self, step):
        calls.append(step)
        if step == 3 and len(calls) < 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, step)

    monkeypatch.setattr(Plan, "rate", rate)
    with pytest.raises(SystemExit) as stopped:
        diffusion()
    assert stopped.value.code == 75
    assert (tmp_path / "a/work/checkpoint.safetensors").exists()
    assert not (tmp_path / "a/diffusion.safetensors").exists()


def test_losses_can_be_followed_while_a_training_runs_and_become_its_history(diffusion, monkeypatch, tmp_path):
    losses, seen = tmp_path / "a/work/losses.csv", []
    real = Plan.rate

    def rate(self, step):
        if losses.exists():
            seen.append(losses.read_text())
        return real(self, step)

    monkeypatch.setattr(Plan, "rate", rate)
    diffusion()
    assert not losses.exists()
    assert seen
    history = (tmp_path / "a/history.csv").read_text()
    assert all(history.startswith(text) for text in seen)
    assert seen[-1].count("\n") > 2


def test_the_end_of_the_jobs_time_stops_it(diffusion):
    with pytest.raises(SystemExit) as stopped:
        diffusion(runtime_minutes=0.0)
    assert stopped.value.code == 75


@pytest.mark.parametrize(("state", "facts"), [('{"key": ', "its state cannot be read as JSON"), ("7", "found a state of int, expected keys")])
def test_a_checkpoint_with_a_damaged_state_is_refused(tmp_path, state, facts):
    save_file({"a": torch.zeros(2)}, tmp_path / "checkpoint.safetensors", {"state": state})
    with pytest.raises(CryorestoreError, match=rf"checkpoint\.safetensors: {facts}.*remove it, and the training starts anew"):
        load_checkpoint(tmp_path / "checkpoint.safetensors", key="one")


def test_a_checkpoint_of_other_parameters_is_discarded_with_a_message(diffusion, monkeypatch, caplog):
    with monkeypatch.context() as patched:
        stop_after(patched, 2)
        with pytest.raises(SystemExit):
            diffusion()
    diffusion(seed=4, steps=1)
    assert "it is discarded" in caplog.text


def test_it_learns_what_the_mean_lacks(diffusion):
    folder = diffusion(steps=60, batch_size=8, learning_rate=1e-2, validation_every=20)
    images, restored, evaluations = restore(folder, slice(32, 40))
    assert evaluations == 1
    assert normalized_error(restored, images["clean"]) < 0.5 * normalized_error(images["mean"], images["clean"])
    described = json.loads((folder / "diffusion.json").read_text())
    assert described["validation"]["best"] < 0.5 * described["validation"]["first"]
    assert described["frame"]["scale"] == pytest.approx(0.1, rel=0.02)
    assert described["pairs_config"]["half"] == 1


def test_without_a_gain_step_zero_is_kept_and_returns_the_mean_itself(diffusion):
    folder = diffusion(steps=0)
    images, restored, _ = restore(folder)
    assert torch.equal(restored, images["mean"])
    assert json.loads((folder / "diffusion.json").read_text())["validation"]["best_step"] == 0


def test_patience_ends_it(diffusion, monkeypatch):
    monkeypatch.setattr(training_tasks.DiffusionTask, "validate", lambda self, network, batch_size: 1.0)
    assert read_history(diffusion(patience=2, validation_every=2))[-1]["step"] == "4"


def test_epsilon_is_trained_sampled_and_has_no_mean(diffusion):
    folder = diffusion(prediction="epsilon", condition=["noisy"], loss="l1", timesteps=8, beta_start=0.1, beta_end=0.9, steps=20, learning_rate=5e-3)
    losses = [float(row["validation_loss"]) for row in read_history(folder) if row["validation_loss"]]
    assert losses[-1] < losses[0]
    _, restored, evaluations = restore(folder, sampler="ancestral", steps=8, samples=2)
    assert evaluations == 16
    assert restored.isfinite().all()
    with pytest.raises(CryorestoreError, match="epsilon"):
        restore(folder)


@pytest.mark.parametrize(("network", "most"), [("unet", 0.5), ("gan", 0.7)])
def test_networks_that_are_no_diffusion_learn_what_the_mean_lacks(diffusion, network, most):
    folder = diffusion(network=network, prediction="clean", steps=60, batch_size=8, learning_rate=1e-2, validation_every=20)
    images, restored, evaluations = restore(folder, slice(32, 40))
    assert evaluations == 1
    assert normalized_error(restored, images["clean"]) < most * normalized_error(images["mean"], images["clean"])
    assert not any("critic" in name for name in load_file(folder / "diffusion.safetensors"))


def test_an_adversarial_training_stopped_and_resumed_equals_unbroken(diffusion, monkeypatch):
    options = {"network": "gan", "prediction": "clean", "condition": ["noisy"], "steps": 8}
    whole = load_file(diffusion("whole", **options) / "diffusion.safetensors")
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(SystemExit):
            diffusion("broken", **options)
    resumed = load_file(diffusion("broken", **options) / "diffusion.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_noisy_target_has_the_noise_of_another_pair(pairs, diffusion):
    data, images = TrainingPairs(pairs, ["noisy", "clean"]), make_images()
    denoiser = load_denoiser(diffusion(network="unet", prediction="clean", condition=["noisy"], steps=0) / "diffusion.safetensors")
    task = training_tasks.NoisyTargetTask(data, denoiser, "l2", 4, 3)
    rows = data.training_rows(1, 4, 3)
    noise = (images["noisy"] - images["clean"])[rows[1:] + rows[:1]]
    target = task.batch(1, slice(0, 4))["y0"] * denoiser.frame.scale
    assert torch.allclose(target, images["clean"][rows] + noise, atol=1e-2)


def test_a_prediction_that_the_network_does_not_make_is_refused(diffusion):
    with pytest.raises(CryorestoreError, match="prediction is 'v' for network 'unet'"):
        diffusion(network="unet")
    with pytest.raises(CryorestoreError, match="network is 'vae'"):
        diffusion(network="vae")


def test_samples_depend_on_the_particles_seed_not_on_its_batch(diffusion):
    folder = diffusion(steps=3)
    _, together, _ = restore(folder, slice(0, 3), sampler="ddim", steps=4, seeds=[5, 6, 7])
    _, alone, _ = restore(folder, slice(1, 2), sampler="ddim", steps=4, seeds=[6])
    _, other, _ = restore(folder, slice(1, 2), sampler="ddim", steps=4, seeds=[8])
    assert torch.allclose(together[1:2], alone, atol=1e-5)
    assert not torch.allclose(other, alone, atol=1e-2)


@pytest.mark.parametrize("fitting", [2, 1])
def test_out_of_memory_halves_the_micro_batch_and_learns_the_same(diffusion, monkeypatch, caplog, fitting):
    """An injected torch.OutOfMemoryError, with a batch that the halves do not divide evenly."""
    whole = diffusion("whole", steps=3, batch_size=5)
    real = training_tasks.DiffusionTask.loss

    def limited(self, network, batch):
        if len(batch["y0"]) > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, network, batch)

    monkeypatch.setattr(training_tasks.DiffusionTask, "loss", limited)
    small = diffusion("small", steps=3, batch_size=5)
    told = [record.getMessage() for record in caplog.records if "out of GPU memory" in record.getMessage()]
    ends = {2: "halved to 2 images, 3 of them accumulated in their place", 1: "halved to 1 images, 5 of them accumulated in their place"}
    assert "halved to 3 images, 2 of them" in told[0]
    assert told[-1].endswith(ends[fitting])
    assert len(told) == 4 - fitting
    same_but_for_rounding(whole, small)


def same_but_for_rounding(one, other):
    for ours, theirs in zip(read_history(one), read_history(other), strict=True):
        assert {name: float(value or 0) for name, value in ours.items()} == pytest.approx(
            {name: float(value or 0) for name, value in theirs.items()}, rel=1e-4
        )
    weights, others = (load_file(folder / "diffusion.safetensors") for folder in (one, other))
    moved = max(float((weights[name] - others[name]).abs().max()) for name in weights)
    assert moved < 1e-5


def test_one_image_that_does_not_fit_is_an_error(diffusion, monkeypatch):
    def never(self, network, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training_tasks.DiffusionTask, "loss", never)
    with pytest.raises(CryorestoreError, match="one image alone"):
        diffusion()


def test_a_loss_that_is_not_finite_names_its_step(diffusion, monkeypatch):
    real = training_tasks.DiffusionTask.loss
    monkeypatch.setattr(training_tasks.DiffusionTask, "loss", lambda self, network, batch: real(self, network, batch) * float("nan"))
    with pytest.raises(CryorestoreError, match="nan at step 1"):
        diffusion()


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "WORLD_SIZE"])
def test_a_second_task_that_was_not_asked_for_is_refused_and_writes_nothing(diffusion, monkeypatch, tmp_path, name):
    monkeypatch.setenv(name, "2")
    with pytest.raises(CryorestoreError, match=r"2 tasks were started .* expected 1"):
        diffusion()
    with pytest.raises(CryorestoreError, match="choose a multiple of 2"):
        diffusion(processes=3, nodes=2)
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error():
    with pytest.raises(CryorestoreError, match="no GPU is visible"):
        select_device("cuda")


def test_order_and_draws_follow_from_seed_and_step(pairs):
    data = TrainingPairs(pairs, ["clean"])
    batches = [data.training_rows(step, 4, 3) for step in range(1, 17)]
    assert sorted(row for batch in batches[:8] for row in batch) == list(range(32))
    assert sorted(row for batch in batches[8:] for row in batch) == list(range(32))
    assert batches[:8] != batches[8:]
    assert data.training_rows(5, 4, 3) == batches[4]


def test_equal_images_get_different_draws_in_every_step(diffusion, monkeypatch):
    drawn = []
    real = training_tasks.DiffusionTask.batch

    def batch(self, step, places):
        content = real(self, step, places)
        drawn.extend((float(gamma), float(noise[0, 0])) for gamma, noise in zip(content["gamma"], content["noise"], strict=True))
        return content

    monkeypatch.setattr(training_tasks.DiffusionTask, "batch", batch)
    diffusion(prediction="epsilon", batch_size=8, steps=2)
    assert len(drawn) == len(set(drawn)) == 16
    assert len({gamma for gamma, _ in drawn}) == 16


def test_a_missing_condition_names_what_there_is(diffusion):
    with pytest.raises(CryorestoreError, match="holds the images clean, mean, noisy, wiener, not deviation"):
        diffusion(condition=["noisy", "deviation"])


def test_an_unknown_condition_is_refused(diffusion):
    with pytest.raises(CryorestoreError, match="condition is"):
        diffusion(condition=["noisy", "clean"])


def test_weights_and_description_of_two_trainings_are_not_mixed(diffusion):
    one, two = diffusion("one", steps=1), diffusion("two", steps=1, seed=9)
    (one / "diffusion.json").write_bytes((two / "diffusion.json").read_bytes())
    with pytest.raises(CryorestoreError, match="does not belong to"):
        load_denoiser(one / "diffusion.safetensors", device="cpu")


def test_postprocessing_learns_what_the_diffusion_left(diffusion, postprocess):
    first = diffusion(steps=0)
    folder = postprocess(first, steps=60, batch_size=8, learning_rate=1e-2, validation_every=20)
    images, restored, _ = restore(first, slice(32, 40))
    corrected = load_postprocess(folder / "postprocess.safetensors", device="cpu").apply(restored, images)
    assert normalized_error(corrected, images["clean"]) < 0.5 * normalized_error(restored, images["clean"])
    assert not list((folder / "work/diffusion_output").iterdir())


def test_postprocessing_stopped_anywhere_equals_unbroken(diffusion, postprocess, monkeypatch):
    first = diffusion(steps=2)
    monkeypatch.setattr(training_tasks, "CHUNK_PAIRS", 16)
    whole = postprocess(first, "whole")
    for steps in (2, 4, 7):
        with monkeypatch.context() as patched:
            stop_after(patched, steps)
            with pytest.raises(SystemExit):
                postprocess(first, "broken")
    broken = postprocess(first, "broken")
    assert (whole / "postprocess.safetensors").read_bytes() == (broken / "postprocess.safetensors").read_bytes()


def test_normalized_error_by_hand():
    clean = torch.tensor([[[1.0, -1.0], [1.0, -1.0]]])
    assert normalized_error(torch.zeros(1, 2, 2), clean) == 1.0
    assert normalized_error(0.5 * clean, clean) == 0.25
