"""The training loop of every network here: running mean of the weights, early stop, checkpoints, exact resumption."""

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn

from cryorestore.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path
from cryorestore.logs import get_logger, progress
from cryorestore.ranks import Ranks, current_ranks

EXIT_UNFINISHED = 75
"""Exit code of a training that saved its state and wants to be started again (sysexits' EX_TEMPFAIL)."""
MINUTES_BEFORE_END = 3.0
HISTORY_COLUMNS = ("step", "images", "seconds", "training_loss", "validation_loss", "learning_rate")


class Task(Protocol):
    """What is trained: every draw of a batch is made in `batch`, as a function of seed and step alone."""

    def batch(self, step: int, places: slice) -> dict[str, Tensor]:
        """Everything that the loss of `step` needs of these places of its batch, on the CPU, one row an image."""

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean loss over a (part of a) batch on the network's device."""

    def validate(self, network: nn.Module, batch_size: int) -> float:
        """The number that is to become small, on held-out pairs, the same draws every time."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train, and how often to validate, write a row of the history, and save."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    ema_decay: float
    patience: int
    validation_every: int
    seed: int
    history_every: int
    checkpoint_minutes: float
    runtime_minutes: float | None

    def shaping(self) -> dict[str, Any]:
        """What shapes the result, for the fingerprint."""
        return {name: value for name, value in asdict(self).items() if name not in ("checkpoint_minutes", "runtime_minutes")}

    def rate(self, step: int) -> float:
        """Learning rate of `step` (from 1): linear warm-up, then half a cosine down to zero after the last step."""
        if step <= self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - 1 - self.warmup_steps) / max(1, self.steps - self.warmup_steps)))


@dataclass
class Progress:
    """Where a training stands: all that a checkpoint keeps beside tensors."""

    micro_batch: int
    step: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_loss: float = math.inf
    first_loss: float = math.inf
    without_gain: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    history: list[list[float | None]] = field(default_factory=list)


@dataclass
class Networks:
    """The network in training, its running mean, and the best running mean so far."""

    current: nn.Module
    average: nn.Module
    best: dict[str, Tensor]
    optimizer: torch.optim.Optimizer


class StopRequest:
    """Whether to stop and be started again: at SIGTERM, or three minutes before the job's time is over."""

    def __init__(self, runtime_minutes: float | None) -> None:
        self._terminated = False
        minutes = math.inf if runtime_minutes is None else max(runtime_minutes - MINUTES_BEFORE_END, runtime_minutes / 2)
        self._deadline = time.monotonic() + 60 * minutes

    def reason(self) -> str | None:
        """Why to stop now, or None."""
        if self._terminated:
            return "it was asked to end (SIGTERM)"
        return "its time is nearly over" if time.monotonic() >= self._deadline else None

    def exit(self, saved: str) -> NoReturn:
        """Raise SystemExit(75), on this process's account or another rank's; the first rank says so."""
        if current_ranks().is_first:
            reason = self.reason() or "another of its processes has to end"
            get_logger().warning("stopped because %s; %s: start it again to go on (exit code %d)", reason, saved, EXIT_UNFINISHED)
        raise SystemExit(EXIT_UNFINISHED)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM as a request; only the main thread may."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGTERM, self._terminate)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True


def train(task: Task, network: nn.Module, plan: Plan, *, work_dir: str | Path, key: str, stop: StopRequest) -> tuple[dict[str, Tensor], Progress]:
    """Train until the steps are done or `patience` validations in a row brought no gain; return the best running mean, step 0 included.

    State is kept in `work_dir`/checkpoint.safetensors and taken up from there if its `key` is the same; it is removed at the end by the caller, after
    the weights are written, and so is losses.csv beside it, which has the course so far. Several ranks share each batch and have the same weights;
    the first validates and saves, and all stop at the same step.

    Raises
    ------
    SystemExit
        Code 75, after a checkpoint, if a stop is wanted.
    CryorestoreError
        If a loss is not finite, one image does not fit into memory, or there are more ranks than images in a batch.
    """
    path, ranks = checkpoint_path(work_dir), current_ranks()
    if ranks.count > plan.batch_size:
        raise CryorestoreError(f"{ranks.count} processes share batches of {plan.batch_size} images; expected an image for each: start fewer of them")
    networks, at = _begin(task, network, plan, path, key, ranks)
    saved_at, earlier, begun = time.monotonic(), at.seconds, time.monotonic()
    steps = range(at.step + 1, plan.steps + 1)
    for step in progress(steps, description="training") if ranks.is_first else steps:
        if at.without_gain >= plan.patience:
            get_logger().info("stopped early: no gain in %d validations; best step %d", plan.patience, at.best_step)
            break
        _train_step(task, networks, plan, at, step, ranks)
        at.seconds = earlier + time.monotonic() - begun
        if _record(task, networks, plan, at, ranks) and ranks.is_first:
            write_history(losses_path(work_dir), at.history)
        wanted = ranks.any(stop.reason() is not None)
        if ranks.is_first and (wanted or time.monotonic() - saved_at >= 60 * plan.checkpoint_minutes):
            _save(path, networks, at, key)
            saved_at = time.monotonic()
        if wanted:
            ranks.wait()
            stop.exit(f"{path} holds step {step}")
    return networks.best, at


def checkpoint_path(work_dir: str | Path) -> Path:
    """Where the state of a training lies."""
    return Path(work_dir) / "checkpoint.safetensors"


def losses_path(work_dir: str | Path) -> Path:
    """Where the course of a training can be followed while it runs: the rows that will be its history."""
    return Path(work_dir) / "losses.csv"


def write_history(path: str | Path, rows: list[list[float | None]]) -> None:
    """Write the course of a training as CSV; `validation_loss` is empty where nothing was validated."""
    lines = [",".join(HISTORY_COLUMNS)] + [",".join("" if value is None else f"{value:.9g}" for value in row) for row in rows]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _begin(task: Task, network: nn.Module, plan: Plan, path: Path, key: str, ranks: Ranks) -> tuple[Networks, Progress]:
    ranks.share_weights(network)
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, fused=True)
    networks = Networks(network, average, {name: tensor.clone() for name, tensor in average.state_dict().items()}, optimizer)
    found = ranks.from_first(lambda: load_checkpoint(path, key=key))
    if found is not None:
        tensors, state = found
        network.load_state_dict(_part(tensors, "current/"))
        average.load_state_dict(_part(tensors, "average/"))
        networks.best = {name: tensor.to(average.state_dict()[name].device) for name, tensor in _part(tensors, "best/").items()}
        restore_optimizer(optimizer, _part(tensors, "optimizer/"))
        get_logger().info("%s: goes on after step %d", path, state["progress"]["step"])
        return networks, Progress(**state["progress"])
    at = Progress(micro_batch=plan.batch_size)
    at.first_loss = at.best_loss = _checked(ranks.from_first(lambda: _validate(task, average, at)), "validation loss", 0)
    at.history.append([0, 0, 0.0, None, at.best_loss, plan.rate(1)])
    get_logger().info("step 0: validation loss %.5g", at.best_loss)
    return networks, at


def _train_step(task: Task, networks: Networks, plan: Plan, at: Progress, step: int, ranks: Ranks) -> None:
    for group in networks.optimizer.param_groups:
        group["lr"] = plan.rate(step)
    batch = task.batch(step, ranks.share(plan.batch_size))
    at.loss_sum += _checked(ranks.total(_gradients(task, networks, batch, at, plan.batch_size)), "training loss", step)
    at.loss_count += 1
    ranks.sum_gradients(networks.current)
    networks.optimizer.step()
    decay = min(plan.ema_decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, parameter in zip(networks.average.parameters(), networks.current.parameters(), strict=True):
            mean.lerp_(parameter, 1 - decay)
    at.step = step


def _gradients(task: Task, networks: Networks, batch: dict[str, Tensor], at: Progress, batch_size: int) -> float:
    """Gradients and loss of a share of a batch of `batch_size`, in micro-batches as large as memory allows; the shares' sum is the batch's."""

    def accumulate() -> float:
        networks.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for piece in pieces(batch, at.micro_batch):
            part = {name: rows.to(device) for name, rows in piece.items()}
            loss = task.loss(networks.current, part) * (len(next(iter(part.values()))) / batch_size)
            loss.backward()
            total += float(loss.detach())
        return total

    device = next(networks.current.parameters()).device
    return _within_memory(accumulate, at, images=len(next(iter(batch.values()))))


def pieces(images: Mapping[str, Tensor], count: int) -> Iterator[dict[str, Tensor]]:
    """At most `count` images at a time."""
    for first in range(0, len(next(iter(images.values()))), count):
        yield {name: image[first : first + count] for name, image in images.items()}


def _validate(task: Task, network: nn.Module, at: Progress) -> float:
    def validate() -> float:
        with torch.inference_mode():
            return task.validate(network, at.micro_batch)

    return _within_memory(validate, at, images=at.micro_batch)


def _within_memory(compute: Callable[[], float], at: Progress, *, images: int) -> float:
    """Compute with `at.micro_batch` images of `images` at a time, and where the GPU's memory does not hold them, with half as many, again and again.

    What the failed attempt held is let go before the next one: its frames die with the exception.
    """
    while True:
        try:
            return compute()
        except torch.OutOfMemoryError as error:
            held = min(at.micro_batch, images)
            if held == 1:
                raise CryorestoreError(
                    "one image alone does not fit into the GPU's memory; choose a smaller size of network or a smaller box"
                ) from error
        at.micro_batch = (held + 1) // 2
        parts = -(-images // at.micro_batch)
        get_logger().warning("out of GPU memory: micro-batch halved to %d images, %d of them accumulated in their place", at.micro_batch, parts)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _record(task: Task, networks: Networks, plan: Plan, at: Progress, ranks: Ranks) -> bool:
    """Validate where it is time to, and add a row to the history; whether one was added."""
    validation: float | None = None
    if at.step % plan.validation_every == 0 or at.step == plan.steps:
        validation = _checked(ranks.from_first(lambda: _validate(task, networks.average, at)), "validation loss", at.step)
        at.without_gain += 1
        if validation < at.best_loss:
            at.best_loss, at.best_step, at.without_gain = validation, at.step, 0
            networks.best = {name: tensor.clone() for name, tensor in networks.average.state_dict().items()}
        get_logger().info("step %d: validation loss %.5g (best %.5g at step %d)", at.step, validation, at.best_loss, at.best_step)
    if validation is None and at.step % plan.history_every:
        return False
    at.history.append([at.step, at.step * plan.batch_size, at.seconds, at.loss_sum / at.loss_count, validation, plan.rate(at.step)])
    at.loss_sum, at.loss_count = 0.0, 0
    return True


def _checked(loss: float, what: str, step: int) -> float:
    if not math.isfinite(loss):
        raise CryorestoreError(f"{what} is {loss} at step {step}; lower learning_rate, or look for values that are not finite in the training pairs")
    return loss


def _save(path: Path, networks: Networks, at: Progress, key: str) -> None:
    tensors = {
        **_prefixed("current/", networks.current.state_dict()),
        **_prefixed("average/", networks.average.state_dict()),
        **_prefixed("best/", networks.best),
        **_prefixed("optimizer/", optimizer_tensors(networks.optimizer)),
    }
    save_checkpoint(path, tensors, {"key": key, "progress": asdict(at)})


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
