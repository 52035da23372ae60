"""Train the diffusion network and the post-processing network of one half-set from that half's pairs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from cryorestore import __version__
from cryorestore.baselines.adversarial import AdversarialPair, restorer_weights
from cryorestore.checkpoint import fingerprint, load_weights, save_weights
from cryorestore.devices import Device, Precision, select_device
from cryorestore.diffusion.denoiser import Denoiser, load_denoiser
from cryorestore.diffusion.network import ConditionalUnet, NetworkConfig
from cryorestore.diffusion.process import CONDITIONS, Frame, Loss, Prediction
from cryorestore.diffusion.sampler import Sampler
from cryorestore.diffusion.schedule import NoiseSchedule
from cryorestore.errors import CryorestoreError
from cryorestore.launch import on_ranks
from cryorestore.logs import get_logger
from cryorestore.postprocess import PostprocessConfig, PostProcessor, PostprocessUnet
from cryorestore.ranks import current_ranks
from cryorestore.training_data import STATISTICS_PAIRS, TrainingPairs, root_mean_square
from cryorestore.training_loop import Plan, Progress, StopRequest, Task, checkpoint_path, losses_path, train, write_history
from cryorestore.training_tasks import TASKS, PostprocessTask, restore_pairs

Network = TypeVar("Network", bound=nn.Module)


@on_ranks
def train_diffusion(
    *,
    pairs: str | Path,
    weights: str | Path,
    history: str | Path,
    work_dir: str | Path,
    condition: Sequence[str],
    prediction: Prediction,
    size: str,
    steps: int,
    batch_size: int,
    learning_rate: float,
    warmup_steps: int,
    ema_decay: float,
    patience: int,
    validation_every: int,
    seed: int,
    network: str = "diffusion",
    loss: Loss = "l2",
    beta_start: float = 1e-6,
    beta_end: float = 1e-2,
    timesteps: int = 2000,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: int = 1,
    processes: int = 1,
    nodes: int = 1,
    history_every: int = 10,
    checkpoint_minutes: float = 5.0,
    runtime_minutes: float | None = None,
) -> None:
    """Train SR3's conditional diffusion (Saharia et al. 2021) on pairs of condition images and clean image.

    Prediction "epsilon" is SR3's and is validated by its loss. Prediction "v" trains half of the images as a regression at gamma = 0 and is validated
    by the NMSE of sampler "mean". Prediction "clean" is a plain regression, for the networks that are no diffusion. Order of the pairs, noise levels
    and noise follow from `seed` and step, so on a CPU a training that was interrupted ends with the same bytes as one that was not.

    Parameters
    ----------
    pairs
        Safetensors of make_training_pairs.
    weights, history
        Outputs: safetensors with a JSON of the same name beside it, and a CSV of the course. The weights are the best running mean, step 0 included.
    work_dir
        Folder of the training state.
    condition
        Names among "noisy", "phase_flipped", "wiener", "mean", "deviation"; with "mean" the difference to it is diffused.
    network
        What the U-Net is trained as: "diffusion"; or, with prediction "clean", "unet" (squared error), "noise2noise" (the target is the clean image
        with the noise of another pair), "gan" (absolute error and a critic).
    loss
        Of "diffusion" and "unet".
    steps, warmup_steps, validation_every, history_every
        Training steps.
    patience
        Validations without gain before it stops.
    beta_start, beta_end, timesteps
        Noise schedule, linear.
    threads
        Threads of the arithmetic on a CPU, of each process.
    processes, nodes
        Processes that share each batch, one a GPU, and machines that they are spread over (by srun, within a SLURM job). The result is that of one
        process but for rounding; a training may go on with another number of them.
    checkpoint_minutes, runtime_minutes
        How often the state is saved; how long the job may run: three minutes before, the state is saved and the process exits with code 75.

    Raises
    ------
    CryorestoreError
        For pairs or weights that cannot be used, a device that is missing, processes that were not asked for, or a loss that is not finite.
    SystemExit
        With code 75 if it was stopped and has to be started again.
    """
    plan = _plan(locals())
    _check_network(network, prediction)
    stop, where = StopRequest(runtime_minutes), select_device(device)
    torch.set_num_threads(threads)
    data = TrainingPairs(pairs, [*_known(condition), "clean", *(["noisy"] if network == "noise2noise" else [])])
    config = NetworkConfig(size=size, condition_channels=len(condition), box_size=data.box_size)
    denoiser = Denoiser(
        network=_seeded(lambda: _built(config, network), seed).to(where),
        config=config,
        prediction=prediction,
        schedule=NoiseSchedule(timesteps, beta_start, beta_end),
        frame=_measured_frame(data, tuple(condition)),
        device=where,
        precision=precision,
    )
    task = TASKS[network](data, denoiser, loss, batch_size, seed)
    description = {"kind": "diffusion", "criterion": "loss" if prediction == "epsilon" else "nmse", **denoiser.describe()}
    shaping = {
        "network": network,
        "condition": list(condition),
        "prediction": prediction,
        "size": size,
        "loss": loss,
        "precision": precision,
        "schedule": [timesteps, beta_start, beta_end],
    }
    _run(task, denoiser.network, plan, data, description, shaping, _Places(weights, history, Path(work_dir)), stop)


@on_ranks
def train_postprocess(
    *,
    pairs: str | Path,
    diffusion_weights: str | Path,
    weights: str | Path,
    history: str | Path,
    work_dir: str | Path,
    sampler: Sampler,
    sampler_steps: int,
    size: str,
    steps: int,
    batch_size: int,
    learning_rate: float,
    warmup_steps: int,
    ema_decay: float,
    patience: int,
    validation_every: int,
    seed: int,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: int = 1,
    processes: int = 1,
    nodes: int = 1,
    history_every: int = 10,
    checkpoint_minutes: float = 5.0,
    runtime_minutes: float | None = None,
) -> None:
    """Train the light network that corrects the diffusion's output (squared error), validated by the NMSE of what it returns.

    The pairs are first restored by the diffusion network, into `work_dir`, in pieces that survive an interruption. The condition is the diffusion
    network's. Parameters, results and errors otherwise as in `train_diffusion`.

    Parameters
    ----------
    diffusion_weights
        What `train_diffusion` wrote for the same half.
    sampler, sampler_steps
        How the diffusion network restores; the same must be used with these weights later.
    """
    plan = _plan(locals())
    stop = StopRequest(runtime_minutes)
    torch.set_num_threads(threads)
    denoiser = load_denoiser(diffusion_weights, device=device, precision=precision)
    data = TrainingPairs(pairs, [*denoiser.frame.condition, "clean"])
    diffusion = load_weights(diffusion_weights, kind="diffusion")[1]["fingerprint"]
    restoring = {"diffusion": diffusion, "sampler": sampler, "sampler_steps": sampler_steps, "precision": precision}
    key = fingerprint({**restoring, "seed": seed, "batch_size": batch_size, "pairs": data.sha256()})
    folder = Path(work_dir) / "diffusion_output"
    with stop.listening():
        outputs = restore_pairs(
            data, denoiser, sampler=sampler, steps=sampler_steps, batch_size=batch_size, seed=seed, folder=folder, key=key, stop=stop
        )
    rows = data.spread_rows(STATISTICS_PAIRS)
    restored, clean = outputs.read(rows), data.read(["clean"], rows)["clean"]
    config = PostprocessConfig(size=size, condition_channels=len(denoiser.frame.condition))
    postprocessor = PostProcessor(
        network=_seeded(lambda: PostprocessUnet(config), seed).to(denoiser.device),
        config=config,
        frame=replace(denoiser.frame, scale=root_mean_square(clean - restored, what="the error of the diffusion's output")),
        restored_scale=root_mean_square(restored, what="the diffusion's output"),
        box_size=data.box_size,
        device=denoiser.device,
        precision=precision,
    )
    task = PostprocessTask(data, outputs, postprocessor, batch_size, seed)
    description = {"kind": "postprocess", "criterion": "nmse", **postprocessor.describe()}
    _run(task, postprocessor.network, plan, data, description, {**restoring, "size": size}, _Places(weights, history, Path(work_dir)), stop)
    if current_ranks().is_first:
        outputs.remove()


def _plan(arguments: Mapping[str, Any]) -> Plan:
    return Plan(**{part.name: arguments[part.name] for part in fields(Plan)})


@dataclass(frozen=True)
class _Places:
    weights: str | Path
    history: str | Path
    work_dir: Path


def _run(
    task: Task,
    network: nn.Module,
    plan: Plan,
    data: TrainingPairs,
    description: dict[str, Any],
    shaping: dict[str, Any],
    places: _Places,
    stop: StopRequest,
) -> None:
    """Train and, on the first rank, write the outputs; the state in the work folder goes last."""
    made_of = {"parameters": {**plan.shaping(), **shaping}, "pairs_sha256": data.sha256(), "code_version": __version__}
    key = fingerprint(made_of)
    with stop.listening():
        best, at = train(task, network, plan, work_dir=places.work_dir, key=key, stop=stop)
    if not current_ranks().is_first:
        return
    write_history(places.history, at.history)
    save_weights(
        places.weights,
        restorer_weights(best),
        {**description, **made_of, "fingerprint": key, "pairs_config": data.config, "validation": _validation(at)},
    )
    for state in (checkpoint_path(places.work_dir), losses_path(places.work_dir)):
        state.unlink(missing_ok=True)
    get_logger().info("best step %d of %d: validation %.5g, at the start %.5g", at.best_step, at.step, at.best_loss, at.first_loss)


def _validation(at: Progress) -> dict[str, Any]:
    return {"best_step": at.best_step, "best": at.best_loss, "first": at.first_loss, "steps": at.step}


def _check_network(network: str, prediction: str) -> None:
    if network not in TASKS:
        raise CryorestoreError(f"network is {network!r}; expected one of {', '.join(TASKS)}")
    if (network != "diffusion") != (prediction == "clean"):
        raise CryorestoreError(
            f"prediction is {prediction!r} for network {network!r}; expected clean for unet, noise2noise and gan, and for these only"
        )


def _built(config: NetworkConfig, network: str) -> nn.Module:
    unet = ConditionalUnet(config)
    return AdversarialPair(unet, config.condition_channels) if network == "gan" else unet


def _known(condition: Sequence[str]) -> Sequence[str]:
    unknown = [name for name in condition if name not in CONDITIONS]
    if unknown or not condition or len(set(condition)) != len(condition):
        raise CryorestoreError(f"condition is {list(condition)}; expected at least one of {', '.join(CONDITIONS)}, each once")
    return condition


def _measured_frame(data: TrainingPairs, condition: tuple[str, ...]) -> Frame:
    images = data.read([*condition, "clean"], data.spread_rows(STATISTICS_PAIRS))
    scales = tuple(root_mean_square(images[name], what=f"condition '{name}'") for name in condition)
    unscaled = Frame(condition, scales, scale=1.0)
    return replace(unscaled, scale=root_mean_square(unscaled.to_variable(images["clean"], images), what="what is diffused"))


def _seeded(build: Callable[[], Network], seed: int) -> Network:
    """Build a network with seeded first weights; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
