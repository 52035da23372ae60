"""The line that no method can pass: the posterior mean of the true map and the true noise, under the lanes' pose prior."""

from typing import Any

import torch
from halves import Half
from scoring import without_mean
from simulation import ROTATION_ERROR, SHIFT_ERROR, structural_power
from torch import Tensor

from cryorestore.metrics import score_images
from cryorestore.posterior import LocalPosterior
from cryorestore.project import FourierVolume

MODULES = ("posterior.local",)
FILES = ("limit.py",)
STRUCTURES = ("none", "white")
"""Structural noise for which it is exact: Gaussian, of a known spectrum."""
BATCH = 2
DRAWS = ((96, 64, 64), (384, 256, 256), (1536, 1024, 1024))
CONVERGED = 0.15
"""Predicted over actual error must be this near to one."""


def exact_limit(half: Half) -> tuple[Tensor, dict[str, Any]]:
    """Restored images with ever more draws until the error that the posterior predicts is the actual one; each stage tells both."""
    scored, shells = half.scored, half.volume.shape[-1] // 2 + 1
    volume = FourierVolume(half.volume, max_shell=shells - 2)
    options = {"rotation_sigma": ROTATION_ERROR, "shift_sigma": SHIFT_ERROR, "noise_power": torch.ones(shells)}
    options["map_error_power"] = torch.full((shells,), structural_power(half.structure, half.atoms, snr=half.snr))  # both stand under the CTF
    rotations, shifts = torch.from_numpy(scored.given_rotations).float(), torch.from_numpy(scored.given_shifts_px).float()
    variance, stages = without_mean(scored.clean).square().mean((1, 2)), []
    for draws in DRAWS:
        posterior, parts = LocalPosterior(volume, rotations=draws, **options), []
        for start in range(0, len(scored.images), BATCH):
            rows = slice(start, start + BATCH)
            seeds = list(range(start, start + len(scored.images[rows])))
            parts.append(posterior(scored.images[rows], scored.ctf[rows], rotations[rows], shifts[rows], seeds))
        restored = torch.cat([part.mean for part in parts])
        predicted = torch.cat([part.deviation for part in parts]).square().mean((1, 2)) / variance
        stage = {"draws": list(draws), "actual": float(score_images(restored, scored.clean).nmse.mean()), "predicted": float(predicted.mean())}
        stages.append(stage | {"effective_rotations": float(torch.cat([part.effective_samples for part in parts]).median())})
        if len(stages) > 1 and _converged(stages[-1]):
            break
    return restored, {"evaluations": 0, "stages": stages, "converged": _converged(stages[-1])}


def _converged(stage: dict[str, Any]) -> bool:
    return bool(abs(stage["predicted"] / stage["actual"] - 1) < CONVERGED)
