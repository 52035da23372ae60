"""Train the general network on simulated particles of many structures, and follow it on structures that it never sees."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from cryorestore import __version__
from cryorestore.baselines.wiener import wiener_filter
from cryorestore.checkpoint import fingerprint
from cryorestore.devices import Device, Precision, autocast, select_device
from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path
from cryorestore.fourier import radial_average, to_fourier
from cryorestore.general.inputs import network_inputs
from cryorestore.general.network import WIDTHS, GeneralNetwork
from cryorestore.general.simulation import PLAIN, SIDE, Ranges, Simulator
from cryorestore.general.structures import TRAIN, VALIDATION, Model, Structure, load_structures, read_models, shipped_models
from cryorestore.general.weights import load_general, save_general
from cryorestore.logs import get_logger
from cryorestore.masks import soft_disc
from cryorestore.metrics import score_images
from cryorestore.training_loop import Plan, StopRequest, checkpoint_path, losses_path, pieces, train, write_history

WEIGHT_OFFSET = 0.03
"""Squared errors count with 1 / (SNR + this): bright particles do not drown faint ones, and noise alone does not drown all."""
CORRECTED_WEIGHT = 0.3
EVIDENCE_WEIGHT = 0.05
HELD_OUT_IMAGES = 512
WATCHED_SNRS = (0.1, 0.05, 0.02)
WATCHED_VIEWS = 16
"""Views of each validation structure at each SNR."""
_VALIDATION_STREAM, _WATCH_STREAM = 1, 2


def train_general(
    *,
    data_root: Path,
    weights: Path,
    history: Path,
    curve: Path,
    work_dir: Path,
    models: Path | None = None,
    steps: int = 2500,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    warmup_steps: int = 200,
    ema_decay: float = 0.999,
    validation_every: int = 250,
    seed: int = 1,
    structures: int | None = None,
    start_from: Path | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: int = 1,
    history_every: int = 50,
    checkpoint_minutes: float = 3.0,
    runtime_minutes: float | None = None,
) -> None:
    """Train the general restorer on simulated particles of the structures of a list, made while it trains.

    Every draw follows from `seed` and step, so on a CPU a training that was interrupted ends with the same bytes as one that was not. Which running
    mean is kept is decided by held-out draws of the training structures; the validation structures are only watched.

    Parameters
    ----------
    data_root
        Folder of the files ID.cif, ID.cif.gz, ID.pdb or ID.pdb.gz.
    weights
        Written: safetensors (float16), and the model card as JSON of the same name beside it.
    history
        Written: CSV of the losses.
    curve
        Written: CSV of the PSNR on the validation structures.
    work_dir
        Folder of the training state and of the structures' volumes.
    models
        Tab-separated list: id, split (train or validation), assembly, heavy_atoms; the list of the package by default.
    steps
        Training steps; the learning rate falls as half a cosine to zero at the last.
    batch_size
        Images a step, an even number.
    learning_rate
        The greatest.
    warmup_steps
        Steps in which it is reached.
    ema_decay
        Of the running mean of the weights, which is what is kept.
    validation_every
        Steps between validations.
    seed
        Of the first weights and of all draws.
    structures
        How many of the training structures, in an order that `seed` draws; all by default.
    start_from
        Weights to begin with instead of random ones.
    device
        auto, cpu or cuda.
    precision
        auto, float32 or bfloat16.
    threads
        Threads of the arithmetic on a CPU.
    history_every
        Steps between rows of the history.
    checkpoint_minutes
        How often the state is saved.
    runtime_minutes
        How long the job may run: three minutes before, the state is saved and the process exits with code 75.

    Raises
    ------
    CryorestoreError
        For a list, structures or weights that cannot be used, or a loss that is not finite.
    SystemExit
        With code 75 if it was stopped and has to be started again.
    """
    stop, where = StopRequest(runtime_minutes), select_device(device)
    torch.set_num_threads(threads)
    plan = Plan(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        ema_decay=ema_decay,
        patience=steps,
        validation_every=validation_every,
        seed=seed,
        history_every=history_every,
        checkpoint_minutes=checkpoint_minutes,
        runtime_minutes=runtime_minutes,
    )
    models = models or shipped_models()
    listed = read_models(models)
    learned = _chosen([model for model in listed if model.split == TRAIN], structures, seed)
    unseen = [model for model in listed if model.split == VALIDATION]
    if not learned:
        raise CryorestoreError(f"{models}: found no structure to train on, expected rows of split '{TRAIN}'; add some")
    cache_dir = Path(work_dir) / "volumes"
    network = _first_network(seed, start_from, where)
    shaping = {"widths": list(WIDTHS), "ranges": asdict(Ranges()), "structures": [model.id for model in learned], "precision": precision}
    made_of: dict[str, Any] = {"parameters": {**plan.shaping(), **shaping}, "start_from": _start(start_from), "code_version": __version__}
    key = fingerprint(made_of)
    watched = Watched(load_structures(unseen, data_root=data_root, cache_dir=cache_dir), seed) if unseen else None
    simulator = Simulator(load_structures(learned, data_root=data_root, cache_dir=cache_dir), Ranges())
    task = GeneralTask(simulator, batch_size, seed, precision=precision, watched=watched, curve=Path(curve))
    with stop.listening():
        best, at = train(task, network, plan, work_dir=work_dir, key=key, stop=stop)
    write_history(history, at.history)
    card: dict[str, Any] = {"fingerprint": key, **made_of, "widths": list(WIDTHS), "validation_structures": [model.id for model in unseen]}
    card |= {"images": at.step * batch_size, "seconds": round(at.seconds), "best_step": at.best_step, "held_out_loss": at.best_loss}
    seconds = {row[0]: row[2] for row in at.history}
    card |= {"curve": [{**row, "seconds": seconds[row["step"]]} for row in task.rows], "baseline": watched.baseline() if watched else {}}
    save_general(weights, best, card)
    for state in (checkpoint_path(work_dir), losses_path(work_dir)):
        state.unlink(missing_ok=True)


class GeneralTask:
    """Mean, variance and evidence of simulated particles.

    Parameters
    ----------
    curve
        CSV that the quality on the validation structures is written to at each validation.
    """

    def __init__(
        self, simulator: Simulator, batch_size: int, seed: int, *, precision: Precision = "auto", watched: "Watched | None" = None, curve: Path
    ) -> None:
        self._simulator, self._batch_size, self._seed, self._precision = simulator, batch_size, seed, precision
        self._watched, self._curve, self._step = watched, curve, 0
        self._held_out: dict[str, Tensor] | None = None
        self.rows: list[dict[str, float]] = []

    def batch(self, step: int, places: slice) -> dict[str, Tensor]:
        """Some places of the batch of one step; all of it is drawn, so that a place has its own draw."""
        self._step = step
        drawn = self._simulator.batch(self._batch_size, np.random.default_rng([self._seed, 0, step]))
        return {name: rows[places] for name, rows in drawn.items()}

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Weighted squared errors of both means, Gaussian log-likelihood of the variances about these means as they are, and cross entropy."""
        inputs = network_inputs(batch["images"], batch["ctf"], batch["known"])
        with autocast(inputs.device, self._precision):
            mean, log_variance, evidence = network(inputs)
        weight = 1 / (batch["snr"] + WEIGHT_OFFSET)
        squared = (torch.stack([batch["clean"], batch["corrected"]], 1) - mean).square()
        errors = squared.mean((2, 3)) * torch.stack([weight, CORRECTED_WEIGHT * batch["ratio"] * weight], 1)
        likelihood = 0.5 * (log_variance + squared.detach() * torch.exp(-log_variance))
        entropy = functional.binary_cross_entropy_with_logits(evidence, batch["particle"])
        total: Tensor = errors.sum(1).mean() + likelihood.mean() + EVIDENCE_WEIGHT * entropy
        return total

    def validate(self, network: nn.Module, batch_size: int) -> float:
        """Weighted squared error of held-out draws of the training structures; the validation structures are scored beside it."""
        if self._held_out is None:
            self._held_out = self._simulator.batch(HELD_OUT_IMAGES, np.random.default_rng([self._seed, _VALIDATION_STREAM]))
        total = 0.0
        for part in pieces(self._held_out, min(batch_size, 64)):
            mean = _evaluated(network, part, self._precision)[0][:, 0]
            total += float(((part["clean"] - mean).square().mean((1, 2)) / (part["snr"] + WEIGHT_OFFSET)).sum())
        if self._watched is not None:
            self._write({"step": self._step, "images": self._step * self._batch_size, **self._watched.score(network, self._precision)})
        return total / HELD_OUT_IMAGES

    def _write(self, row: dict[str, float]) -> None:
        """Add a row to the curve; after a resumption, rows of steps that are done again give way."""
        if not self.rows and self._curve.exists():
            with self._curve.open(encoding="utf-8", newline="") as file:
                self.rows = [{name: float(value) for name, value in kept.items()} for kept in csv.DictReader(file)]
        self.rows = [*(kept for kept in self.rows if kept["step"] < row["step"]), row]
        get_logger().info("%s", ", ".join(f"{name} {value:.5g}" for name, value in row.items()))
        with atomic_path(self._curve) as temporary:
            lines = [",".join(row), *(",".join(f"{kept[name]:.6g}" for name in row) for kept in self.rows)]
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


class Watched:
    """Fixed particles of the validation structures, in white noise, for the course of a training: nothing is chosen by them."""

    def __init__(self, structures: Sequence[Structure], seed: int) -> None:
        simulator = Simulator(structures, PLAIN)
        self._sets = {
            (number, snr): simulator.batch(WATCHED_VIEWS, np.random.default_rng([seed, _WATCH_STREAM, number]), snr=snr, structure=number)
            for number in range(len(structures))
            for snr in WATCHED_SNRS
        }

    def score(self, network: nn.Module, precision: Precision) -> dict[str, float]:
        """Mean PSNR (dB) over the structures at each SNR."""
        scores: dict[str, list[float]] = {f"psnr_{snr}": [] for snr in WATCHED_SNRS}
        for (_, snr), batch in self._sets.items():
            restored = _evaluated(network, batch, precision)[0][:, 0].cpu()
            scores[f"psnr_{snr}"].append(float(score_images(restored, batch["clean"]).psnr.mean()))
        return {name: float(np.mean(values)) for name, values in scores.items()}

    def baseline(self) -> dict[str, float]:
        """Mean PSNR of the Wiener filter that knows the spectra of each structure, masked with the disc that suits it best."""
        scores: dict[str, list[float]] = {f"psnr_{snr}": [] for snr in WATCHED_SNRS}
        for (_, snr), batch in self._sets.items():
            power = radial_average(to_fourier(batch["corrected"]).abs().square()).mean(0)
            filtered = wiener_filter(batch["images"], batch["ctf"], signal_power=power, noise_power=torch.ones_like(power))
            masked = (filtered * soft_disc(SIDE, radius, 3.0) for radius in range(8, SIDE // 2))
            scores[f"psnr_{snr}"].append(max(float(score_images(images, batch["clean"]).psnr.mean()) for images in masked))
        return {name: float(np.mean(values)) for name, values in scores.items()}


def _evaluated(network: nn.Module, batch: Mapping[str, Tensor], precision: Precision) -> tuple[Tensor, Tensor, Tensor]:
    device = next(network.parameters()).device
    inputs = network_inputs(batch["images"].to(device), batch["ctf"].to(device), batch["known"].to(device))
    with autocast(device, precision):
        mean, log_variance, evidence = network(inputs)
    return mean.cpu(), log_variance.cpu(), evidence.cpu()


def _chosen(models: list[Model], count: int | None, seed: int) -> list[Model]:
    if count is None:
        return models
    order = np.random.default_rng([seed, 3]).permutation(len(models))
    return [models[place] for place in sorted(order[:count])]


def _first_network(seed: int, start_from: Path | None, device: torch.device) -> nn.Module:
    if start_from is not None:
        return load_general(start_from, device)[0].train().requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GeneralNetwork().to(device)


def _start(start_from: Path | None) -> str | None:
    if start_from is None:
        return None
    return str(load_general(start_from, torch.device("cpu"))[1]["fingerprint"])
