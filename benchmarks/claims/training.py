"""Trainings of given lengths."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halves import SETTINGS, Half
from keys import lock
from networks import BATCH, _take

from cryorestore.files import read_json, write_json
from cryorestore.training import train_diffusion, train_postprocess

LIGHT_STEP, RESTORED_PAIR, CRITIC_STEP = 0.7, 0.092, 1.15
"""In steps of the diffusion network: a step of the post-processing network, a pair restored in ten evaluations, a step with a critic."""
RESTORING_SHARE = 0.25
"""At most this part of the whole time goes into restoring pairs for the second network, and at most half of what is left."""
LEAST_PAIRS = 64
AVERAGED = 20
"""The running mean of the weights spans one in so many steps."""


@dataclass(frozen=True)
class Length:
    """Steps of the first network; steps of the second one and pairs that are restored for it, 0 without one."""

    first: int
    second: int = 0
    pairs: int = 0

    @classmethod
    def within(cls, first: int, total: int) -> "Length":
        """What is left after `first` of `total` diffusion steps, shared between restoring pairs and the second network."""
        left = total - first
        pairs = max(LEAST_PAIRS, round(min(RESTORING_SHARE * total, left / 2) / RESTORED_PAIR))
        return cls(first, max(2, round((left - RESTORED_PAIR * pairs) / LIGHT_STEP)), pairs)


def trained(lane: str, length: Length, seed: int, half: Half) -> tuple[dict[str, Path], dict[str, Any]]:
    """Weights, and processor seconds of both trainings; a first network serves all second ones."""
    method = SETTINGS["methods"][lane]
    pairs = half.pairs("own", with_posterior=False)
    folder = half.work / "networks" / f"{pairs.stem[-16:]}_{method['network']}_{method['prediction']}_{length.first}_seed{seed}"
    weights = {"diffusion_weights": folder / "diffusion.safetensors"}
    common = {"batch_size": BATCH, "patience": 10**6, "checkpoint_minutes": 1.0, "device": "cpu", "precision": "auto", "threads": 1, "seed": seed}

    def first() -> None:
        names = {name: method[name] for name in ("condition", "network", "prediction")}
        train_diffusion(pairs=pairs, **names, **_options("diffusion", weights["diffusion_weights"], length.first), **common)

    spent = {"first": _once(folder / "first.json", first)}
    if not length.second:
        return weights, spent
    place = folder / f"second_{length.second}_{length.pairs}"
    weights["postprocess_weights"] = place / "postprocess.safetensors"

    def second() -> None:
        few = place / "pairs.safetensors"
        _take(pairs, few, length.pairs)
        names = {name: method[name] for name in ("sampler", "sampler_steps")} | {"diffusion_weights": weights["diffusion_weights"]}
        train_postprocess(pairs=few, **names, **_options("postprocess", weights["postprocess_weights"], length.second), **common)
        few.unlink()

    return weights, spent | {"second": _once(place / "second.json", second)}


def _options(section: str, weights: Path, steps: int) -> dict[str, Any]:
    names = ("size", "learning_rate", *(("loss", "beta_start", "beta_end", "timesteps") if section == "diffusion" else ()))
    files = {"weights": weights, "history": weights.with_suffix(".csv"), "work_dir": weights.with_suffix(".work")}
    length = {"steps": steps, "warmup_steps": min(50, steps // 4), "validation_every": max(1, steps // 12)}
    return {name: SETTINGS[section][name] for name in names} | files | length | {"ema_decay": 1 - AVERAGED / max(steps, 2 * AVERAGED)}


def _once(done: Path, train: Callable[[], None]) -> float | None:
    """Train unless it is done; processor seconds, None where it was interrupted."""
    with lock(done.with_suffix(".lock")):
        if not done.exists():
            begun, interrupted = time.process_time(), any(done.parent.glob("*.work"))
            train()
            write_json(done, {"seconds": None if interrupted else round(time.process_time() - begun, 1)})
    return read_json(done)["seconds"]
