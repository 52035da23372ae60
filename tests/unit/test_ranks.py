"""Training by two ranks (gloo, on the CPU), started as the rule and the command line start them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cryorestore.errors import CryorestoreError
from cryorestore.logs import logged_step
from cryorestore.ranks import Ranks
from cryorestore.training import train_diffusion

ROOT = Path(__file__).parents[2]
BOX, COUNT = 16, 40
OPTIONS = {
    "condition": ["noisy", "mean"],
    "prediction": "v",
    "size": "tiny",
    "steps": 12,
    "batch_size": 5,
    "learning_rate": 1e-3,
    "warmup_steps": 5,
    "ema_decay": 0.9,
    "patience": 100,
    "validation_every": 6,
    "history_every": 1,
    "seed": 3,
    "device": "cpu",
    "precision": "float32",
}


@pytest.fixture
def pairs(tmp_path):
    generator = torch.Generator().manual_seed(1)
    clean, error, noise = (torch.randn(COUNT, BOX, BOX, generator=generator) for _ in range(3))
    images = {"clean": 0.2 * clean, "mean": 0.2 * clean + 0.1 * error, "noisy": 0.2 * clean + noise}
    path = tmp_path / "pairs.safetensors"
    save_file({name: image.half() for name, image in images.items()}, path, {"config": json.dumps({"half": 1, "validation_from": 32})})
    return path


def files(folder):
    return {"weights": folder / "diffusion.safetensors", "history": folder / "history.csv", "work_dir": folder / "work"}


def losses(folder):
    rows = [line.split(",") for line in (folder / "history.csv").read_text().splitlines()[1:]]
    return [float(cell) for row in rows for cell in row[3:5] if cell]


def test_the_shares_of_a_batch_follow_each_other_and_leave_nothing_out():
    for ranks in (1, 2, 3, 5):
        places = [place for rank in range(ranks) for place in range(5)[Ranks(rank, ranks).share(5)]]
        assert places == list(range(5))


def test_one_rank_is_no_rank():
    alone = Ranks(0, 1)
    assert (alone.any(True), alone.any(False), alone.total(2.5), alone.from_first(lambda: "made")) == (True, False, 2.5, "made")


def test_fewer_gpus_than_processes_are_an_error(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(CryorestoreError, match="processes is 2, and 1 GPU is visible"):
        train_diffusion(pairs=pairs, **files(tmp_path / "out"), **{**OPTIONS, "device": "auto"}, processes=2)
    assert not (tmp_path / "out").exists()


def test_several_nodes_need_srun(pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CryorestoreError, match="srun was not found"):
        train_diffusion(pairs=pairs, **files(tmp_path / "out"), **OPTIONS, processes=2, nodes=2)


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_step_with_its_message_in_the_log(pairs, tmp_path):
    log = tmp_path / "step.log"
    with pytest.raises(SystemExit) as stopped, logged_step(log):
        train_diffusion(pairs=pairs, **files(tmp_path / "out"), **{**OPTIONS, "condition": ["noisy", "wiener"]}, processes=2)
    assert stopped.value.code == 1
    assert "holds the images clean, mean, noisy, not wiener" in log.read_text()
    assert "one of 2 processes ended with code 1" in log.read_text()


@pytest.mark.slow
def test_two_ranks_learn_what_one_does_and_go_on_exactly_after_sigterm(pairs, tmp_path):
    one, two, broken = tmp_path / "one", tmp_path / "two", tmp_path / "broken"
    train_diffusion(pairs=pairs, **files(one), **OPTIONS)
    train_diffusion(pairs=pairs, **files(two), **OPTIONS, processes=2)
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    weights, others = (load_file(folder / "diffusion.safetensors") for folder in (one, two))
    # Adam's steps are of the learning rate whatever the gradient's size: where it is small against its own rounding, the sum's order shows
    assert max(float((weights[name] - others[name]).abs().max()) for name in weights) < OPTIONS["learning_rate"] / 20

    command = [sys.executable, "-c", "from cryorestore.cli import main; main()", "train-diffusion", "--pairs", str(pairs), "--processes", "2"]
    command += [text for name, path in files(broken).items() for text in (f"--{name.replace('_', '-')}", str(path))]
    for name, value in OPTIONS.items():
        command += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        for line in running.stderr:
            if "step 0" in line:
                running.send_signal(signal.SIGTERM)
                break
        told = running.stderr.read()
    assert running.returncode == 75
    assert "stopped because" in told
    assert (broken / "work/checkpoint.safetensors").exists()
    assert not (broken / "diffusion.safetensors").exists()
    train_diffusion(pairs=pairs, **files(broken), **OPTIONS, processes=2)
    assert (broken / "diffusion.safetensors").read_bytes() == (two / "diffusion.safetensors").read_bytes()
    assert losses(broken) == losses(two)
