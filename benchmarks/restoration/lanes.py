"""The lanes: the methods of the configuration by their names, run by the pipeline's own functions, and two lines to hold them to."""

import hashlib
import time
from pathlib import Path
from typing import Any

import torch
from halves import BATCH, MASK, POSES, SETTINGS, Half
from limit import FILES as LIMIT_FILES
from limit import MODULES as LIMIT_MODULES
from limit import exact_limit
from networks import NETWORK_FILES, NETWORK_MODULES, network_settings, networks
from scoring import calibration, shell_means, shell_power, without_mean
from simulation import Particles
from torch import Tensor

from cryorestore.config import needs_poses
from cryorestore.general.method import GENERAL
from cryorestore.general.weights import shipped_weights
from cryorestore.metrics import score_images
from cryorestore.particles import ParticleTable
from cryorestore.restore import Restorer, load_restorer

METHODS = SETTINGS["methods"]
MODULES = {
    "raw": (),
    "low-pass": ("baselines.low_pass", "baselines.wiener"),
    "wiener": ("baselines.wiener",),
    "wiener-masked": ("baselines.wiener", "masks"),
    "cwf": ("baselines.covariance",),
    "topaz": ("baselines.peer_worker",),
    "bm3d": ("baselines.peer_worker",),
    "projection": ("reference",),
    "true-pose": ("reference",),
    "map-bayes": ("posterior.local", "reference", "map_error"),
    GENERAL: ("general.method",),
    "limit": LIMIT_MODULES,
}
"""Modules of the library that lanes without a network run."""
LINES = ("limit", "true-pose")
"""Not methods: the posterior of the true map, and what the map's own error costs (its projection at the true pose)."""
EXTERNAL = ("topaz", "bm3d")
"""Lanes that run another program."""
ABSENT = (*EXTERNAL, GENERAL)
"""Lanes whose program or weights may be missing."""
SLOW_IMAGES = 32
"""Images that a lane with 2,000 evaluations restores."""
DRAWS, DRAW_STEPS, DRAWN_IMAGES = 16, 20, 64
"""Samples of each image, evaluations of each sample, and images that they are drawn for, where samples tell the uncertainty."""


def is_trained(lane: str) -> bool:
    """Whether a lane has a network."""
    return lane not in LINES and METHODS[lane]["network"] != "none"


def is_slow(lane: str) -> bool:
    """Whether a lane takes minutes for a few images."""
    return lane not in LINES and METHODS[lane]["sampler"] == "ancestral"


def looks_at_map(lane: str) -> bool:
    """Whether a lane stands in a column for each map."""
    return lane in LINES or needs_poses(METHODS[lane])


def depends_on(lane: str, half: Half, kind: str) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """Settings, modules and files beside those of the half itself."""
    if lane in LINES:
        return {}, MODULES[lane], (*LIMIT_FILES, "lanes.py")
    settings = {"method": METHODS[lane]} | ({"posterior": SETTINGS["posterior"]} if "mean" in METHODS[lane]["condition"] else {})
    if lane == GENERAL and shipped_weights().exists():
        settings |= {"weights": hashlib.sha256(shipped_weights().read_bytes()).hexdigest()}
    if not is_trained(lane):
        return settings, MODULES[lane], ("lanes.py",)
    return settings | {"training": network_settings(lane, half, _source(kind))}, NETWORK_MODULES, ("lanes.py", *NETWORK_FILES)


def restore_with(half: Half, lane: str, kind: str, *, peer_python: str) -> tuple[Tensor, dict[str, Any]]:
    """Restored images of the scored particles (of a slow lane: of the first ones), and network evaluations, particles a second, training."""
    if lane == "limit":
        return exact_limit(half)
    method = METHODS["projection" if lane == "true-pose" else lane]
    weights, training = networks(lane, half, _source(kind)) if is_trained(lane) else ({}, {})
    scored = half.scored.take(slice(0, SLOW_IMAGES)) if is_slow(lane) else half.scored
    restorer = load_restorer(
        **half.reference(_source(kind)),
        diffusion_weights=weights.get("diffusion_weights"),
        postprocess_weights=weights.get("postprocess_weights"),
        **{name: method[name] for name in ("condition", "sampler", "sampler_steps", "samples")},
        **POSES,
        **MASK,
        posterior_rotations=SETTINGS["posterior"]["rotations"],
        device="cpu",
        precision="auto",
        particles=ParticleTable.read(half.star),
        peer_python=str(Path(peer_python).absolute()),
    )
    rotations, shifts = (scored.rotations, scored.shifts_px) if lane == "true-pose" else (scored.given_rotations, scored.given_shifts_px)
    if not is_slow(lane):
        run(restorer, scored.take(slice(0, BATCH)), rotations, shifts)  # what is measured or compiled at the first image is no cost of a particle
    clock = time.monotonic if lane in EXTERNAL else time.process_time
    started = clock()
    restored, deviation, evaluations = run(restorer, scored, rotations, shifts)
    facts = {"evaluations": evaluations, "particles_a_second": round(len(restored) / max(clock() - started, 1e-6), 2), "training": training}
    facts |= {} if deviation is None else {"calibration": calibration(restored, deviation, scored.clean)}
    if lane == "ours" and (half.structure, half.seed) == ("none", 1):
        facts["samples"] = drawn_samples(restorer, scored.take(slice(0, DRAWN_IMAGES)), rotations[:DRAWN_IMAGES], shifts[:DRAWN_IMAGES])
    return restored, facts


def run(restorer: Restorer, particles: Particles, rotations: Any, shifts_px: Any) -> tuple[Tensor, Tensor | None, int]:
    """Restore a set in batches: images, the posterior's deviation where the lane has it, network evaluations."""
    matrices, moved = torch.from_numpy(rotations).float(), torch.from_numpy(shifts_px).float()
    images, deviations, evaluations = [], [], 0
    with torch.no_grad():
        for start in range(0, len(particles.images), BATCH):
            rows = slice(start, min(start + BATCH, len(particles.images)))
            seeds = list(range(rows.start, rows.stop))
            restored = restorer(particles.images[rows], particles.ctf[rows], matrices[rows], moved[rows], seeds)
            images.append(restored.images)
            deviations += [] if restored.deviation is None else [restored.deviation]
            evaluations = restored.network_evaluations
    return torch.cat(images), torch.cat(deviations) if deviations else None, evaluations


def drawn_samples(restorer: Restorer, particles: Particles, rotations: Any, shifts_px: Any) -> dict[str, Any]:
    """What samples of the diffusion (SR3's sampler) tell of the error of their mean: by themselves, and with the map's error, of which they
    know nothing; per shell, power of the error and of what is predicted of it.
    """
    if restorer.denoiser is None or restorer.conditions.map_error is None:
        raise TypeError("samples need a diffusion network that sees the pose posterior")
    matrices, moved, parts, seeds = torch.from_numpy(rotations).float(), torch.from_numpy(shifts_px).float(), [], range(len(particles.images))
    for start in range(0, len(particles.images), BATCH):
        rows = slice(start, start + BATCH)
        channels = restorer.conditions(particles.images[rows], particles.ctf[rows], matrices[rows], moved[rows], seeds[rows]).channels
        options = {"sampler": "ancestral", "steps": DRAW_STEPS}
        draws = [restorer.denoiser.restore(channels, seeds=[1000 * number + seed for seed in seeds[rows]], **options)[0] for number in range(DRAWS)]
        parts.append(torch.stack(draws, 1))
    samples = torch.cat(parts)
    mean, larger, map_error = samples.mean(1), 1 + 1 / DRAWS, restorer.conditions.map_error  # the mean of few samples errs itself
    variance, added = larger * samples.var(1), map_error.variance(particles.ctf)
    own = larger * DRAWS / (DRAWS - 1) * shell_power(samples - mean[:, None])
    of_map = shell_means(particles.ctf.square()) * map_error.power[1 : len(own) + 1]
    return {
        "draws": DRAWS,
        "steps": DRAW_STEPS,
        "images": len(samples),
        "nmse": float(score_images(mean, particles.clean).nmse.mean()),
        "nmse_of_one": float(score_images(samples[:, 0], particles.clean).nmse.mean()),
        "alone": calibration(mean, variance.sqrt(), particles.clean),
        "with_map": calibration(mean, (variance + added).sqrt(), particles.clean),
        "shells": {"actual": shell_power(without_mean(particles.clean - mean)).tolist(), "alone": own.tolist(), "with_map": (own + of_map).tolist()},
    }


def _source(kind: str) -> str:
    """The map that lanes without one take the half's spectra, and their pairs, from."""
    return "own" if kind == "none" else kind
