"""The learned lanes: every network gets the same pairs and the same processor time, however that is shared between diffusion and post-processing."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from halves import FILES, MODULES, SETTINGS, Half, Scale
from keys import key_of, lock
from safetensors import safe_open
from safetensors.torch import save_file

from cryorestore.config import has_posterior
from cryorestore.diffusion.denoiser import load_denoiser
from cryorestore.files import atomic_path, read_json, write_json
from cryorestore.training import train_diffusion, train_postprocess
from cryorestore.training_data import TrainingPairs

FIRST_SHARE, RESTORING_SHARE = 0.5, 0.25
"""Parts of the time: of the diffusion network where a post-processing network follows, and at most of restoring pairs for that one."""
PROBE_STEPS, PROBE_REPEATS, PROBE_PAIRS = (2, 14), 3, 64
"""Lengths of the short trainings that tell what a step costs; of the repeats the fastest counts, for other programs slow them down."""
BATCH, AVERAGED = 32, 20
"""Images of a step, and the part of the steps (one in so many) that the running mean of the weights spans."""
VALIDATIONS, LEAST_STEPS = 12, 20
NETWORK_MODULES = ("training", "pairs", "diffusion.sampler")
NETWORK_FILES = (*FILES, "networks.py")


def network_settings(lane: str, half: Half, kind: str) -> dict[str, Any]:
    """All that a lane's networks follow from."""
    method = SETTINGS["methods"][lane]
    settings = {"method": method, "diffusion": SETTINGS["diffusion"], "posterior": SETTINGS["posterior"], "kind": kind, "seed": half.seed}
    settings |= {"postprocess": SETTINGS["postprocess"]} if method["postprocess"] else {}
    return settings | {name: getattr(half.scale, name) for name in ("half", "pairs", "seconds", "tiers", "steps")}


def networks(lane: str, half: Half, kind: str) -> tuple[dict[str, Path], dict[str, Any]]:
    """Weights of a lane, trained once for all tiers, and what the training took."""
    key = key_of(network_settings(lane, half, kind), (*NETWORK_MODULES, *MODULES), NETWORK_FILES)
    folder = half.work / "networks" / f"{lane}_{kind}_seed{half.seed}_{key}"
    weights = {"diffusion_weights": folder / "diffusion.safetensors"}
    if SETTINGS["methods"][lane]["postprocess"]:
        weights["postprocess_weights"] = folder / "postprocess.safetensors"
    with lock(folder / "training.lock"):
        if not (folder / "training.json").exists():
            pairs = half.pairs(kind, with_posterior=has_posterior(SETTINGS["methods"][lane]))
            write_json(folder / "training.json", train(lane, pairs, folder, weights, half.scale, seed=half.seed))
    return weights, read_json(folder / "training.json")


def train(lane: str, pairs: Path, folder: Path, weights: Mapping[str, Path], scale: Scale, *, seed: int) -> dict[str, Any]:
    """Train within the time, or so many steps; what was interrupted goes on, with the numbers of steps that its start settled on."""
    method, seconds, fixed = SETTINGS["methods"][lane], scale.seconds, scale.steps
    first, common = {name: method[name] for name in ("condition", "network", "prediction")}, _common("diffusion", seed)

    def diffusion(data: Path, where: Path, steps: int) -> None:
        train_diffusion(pairs=data, **first, **_files(weights["diffusion_weights"], where), **_length(steps), **common)

    if not method["postprocess"]:
        return {"diffusion": _stage(folder / "diffusion", pairs, diffusion, seconds=seconds, fixed=fixed)}
    facts = {"diffusion": _stage(folder / "diffusion", pairs, diffusion, seconds=FIRST_SHARE * seconds, fixed=fixed)}
    then, light = {name: method[name] for name in ("sampler", "sampler_steps")}, _common("postprocess", seed)

    def postprocess(data: Path, where: Path, steps: int) -> None:
        files = _files(weights["postprocess_weights"], where) | {"diffusion_weights": weights["diffusion_weights"]}
        train_postprocess(pairs=data, **then, **files, **_length(steps), **light)

    if fixed is not None:
        return facts | {"postprocess": _stage(folder / "postprocess", pairs, postprocess, seconds=seconds, fixed=fixed)}
    few, each = folder / "pairs.safetensors", seconds_to_restore(pairs, weights["diffusion_weights"], **then)
    if not few.exists():
        _take(pairs, few, round(RESTORING_SHARE * seconds / each))
    restoring = each * TrainingPairs(few, ["clean"]).count
    facts["postprocess"] = _stage(folder / "postprocess", few, postprocess, seconds=(1 - FIRST_SHARE) * seconds - restoring)
    few.unlink()
    return facts


def _stage(state: Path, pairs: Path, training: Callable[[Path, Path, int], None], *, seconds: float, fixed: int | None = None) -> dict[str, Any]:
    """One training, at most once: its pairs and steps, and the processor seconds that it took (None where it was interrupted)."""
    done, interrupted = state.with_suffix(".done.json"), state.exists()
    if not done.exists():
        steps, begun = fixed or _settled(state, pairs, training, seconds=seconds), time.process_time()
        training(pairs, state, steps)
        took = None if interrupted else round(time.process_time() - begun, 1)
        write_json(done, {"pairs": TrainingPairs(pairs, ["clean"]).count, "steps": steps, "seconds": took})
        shutil.rmtree(state, ignore_errors=True)
    return dict(read_json(done))


def _common(section: str, seed: int) -> dict[str, Any]:
    names = ("size", "learning_rate", *(("loss", "beta_start", "beta_end", "timesteps") if section == "diffusion" else ()))
    return {name: SETTINGS[section][name] for name in names} | {
        "batch_size": BATCH,
        "patience": 10**6,
        "checkpoint_minutes": 1.0,
        "device": "cpu",
        "precision": "auto",
        "threads": 1,
        "seed": seed,
    }


def _files(weights: Path, where: Path) -> dict[str, Path]:
    return {"weights": weights, "history": weights.with_name(f"{weights.stem}_history.csv"), "work_dir": where}


def _length(steps: int) -> dict[str, Any]:
    ema_decay = 1 - AVERAGED / max(steps, 2 * AVERAGED)
    return {"steps": steps, "warmup_steps": min(50, steps // 4), "validation_every": max(1, steps // VALIDATIONS), "ema_decay": ema_decay}


def _settled(state: Path, pairs: Path, training: Callable[[Path, Path, int], None], *, seconds: float) -> int:
    """How many steps fit into the time, by short trainings on a few pairs, whose weights are written over later; kept, for the learning rate
    follows from it.
    """
    plan, few, probe = state / "plan.json", state / "probe.safetensors", state / "probe"
    if not plan.exists():
        _take(pairs, few, PROBE_PAIRS)
        took: dict[int, list[float]] = {steps: [] for steps in PROBE_STEPS}
        for steps in PROBE_STEPS * PROBE_REPEATS:
            begun = time.process_time()
            training(few, probe, steps)
            took[steps].append(time.process_time() - begun)
        short, long = (min(took[steps]) for steps in PROBE_STEPS)
        step = max((long - short) / (PROBE_STEPS[1] - PROBE_STEPS[0]), 1e-3)
        few.unlink()
        shutil.rmtree(probe, ignore_errors=True)
        write_json(plan, {"steps": max(LEAST_STEPS, round(seconds / step)), "seconds_a_step": round(step, 5)})
    return int(read_json(plan)["steps"])


def seconds_to_restore(pairs: Path, weights: Path, *, sampler: str, sampler_steps: int) -> float:
    """Processor seconds that restoring one pair takes."""
    denoiser = load_denoiser(weights, device="cpu", precision="auto")
    data = TrainingPairs(pairs, denoiser.frame.condition)
    rows, took = data.spread_rows(32), []
    images = data.read(denoiser.frame.condition, rows)
    for _ in range(PROBE_REPEATS):
        begun = time.process_time()
        with torch.no_grad():
            denoiser.restore(images, sampler=sampler, steps=sampler_steps, seeds=list(range(len(rows))))
        took.append((time.process_time() - begun) / len(rows))
    return min(took)


def _take(pairs: Path, few: Path, count: int) -> None:
    """Write at most so many pairs of a file, evenly spread, a tenth of them from those held out."""
    with safe_open(pairs, framework="pt") as file:
        names, config = list(file.keys()), json.loads(file.metadata()["config"])
        data = TrainingPairs(pairs, names)
        learned, held_out = data.spread_rows(count - count // 10), data.spread_rows(count // 10, held_out=True)
        tensors = {name: torch.cat([file.get_slice(name)[row : row + 1] for row in (*learned, *held_out)]) for name in names}
    with atomic_path(few) as temporary:
        save_file(tensors, temporary, metadata={"config": json.dumps(config | {"validation_from": len(learned)})})
