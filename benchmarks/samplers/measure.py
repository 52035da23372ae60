"""Quality against network evaluations: every sampler on the demo's trained networks, held-out true particles, and the posterior mean beside them.

usage (after `make demo`): python benchmarks/samplers/measure.py [results/demo] > benchmarks/samplers/results.json
The diffusion network alone is measured, without post-processing; one training, one seed: the spread is over particles.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from cryorestore.config import load_configuration, step_parameters
from cryorestore.ctf import ctf_2d
from cryorestore.metrics import mean_interval, score_images
from cryorestore.particles import ParticleTable
from cryorestore.pose_tensors import pose_tensors
from cryorestore.provenance import code_commit
from cryorestore.restore import Restorer, load_restorer
from cryorestore.truth import Truth

SAMPLERS = [("mean", 1, 1), ("ddim", 5, 1), ("ddim", 10, 1), ("ddim", 10, 4), ("dpm", 10, 1), ("ancestral", 50, 1)]
BATCH = 16


def main() -> None:
    """Print one JSON object: a row for every sampler, steps and number of averaged samples."""
    results = Path(sys.argv[1] if len(sys.argv) > 1 else "results/demo")
    torch.set_num_threads(1)
    settings = load_configuration({"datasets": ["demo"]}).settings["demo"]
    rows = {"posterior mean, no network": score(results, settings, None)}
    for sampler, steps, samples in SAMPLERS:
        rows[f"{sampler}, {steps} steps, {samples} averaged"] = score(results, settings, (sampler, steps, samples))
        print(list(rows)[-1], rows[list(rows)[-1]], file=sys.stderr)
    print(json.dumps({"command": "python benchmarks/samplers/measure.py", "commit": code_commit(), "rows": rows}, indent=1))


def score(results: Path, settings: dict, sampling: tuple[str, int, int] | None) -> dict:
    """PSNR and NMSE with intervals, and seconds a particle, over the held-out true particles of both halves."""
    whole = ParticleTable.read(results / "normalized/particles.star")
    truth = Truth.read(
        whole,
        truth_star=results / "truth/truth.star",
        truth_stack=results / "truth/truth.mrcs",
        statistics_csv=results / "normalized/statistics.csv",
        bg_radius=settings["normalize"]["bg_radius"],
    )
    psnr, nmse, seconds = [], [], 0.0
    for half in (1, 2):
        table = ParticleTable.read(results / f"raw/half{half}/particles.star")
        rows = table.particles.ints("rlnCryorestoreRow")
        scored = np.flatnonzero((table.particles.ints("rlnCryorestoreHoldout") == 1) & truth.is_particle[rows])
        restorer = restorer_of(results, settings, half, sampling)
        started = time.monotonic()
        restored = restore(table.take(scored), restorer)
        seconds += time.monotonic() - started
        scores = score_images(restored, truth.images(rows[scored]))
        psnr.append(scores.psnr.numpy())
        nmse.append(scores.nmse.numpy())
    particles = sum(map(len, psnr))
    evaluations = 0 if sampling is None else sampling[2] * (1 if sampling[0] == "mean" else sampling[1])
    figures = {"psnr": mean_interval(np.concatenate(psnr), seed=0), "nmse": mean_interval(np.concatenate(nmse), seed=0)}
    return {"evaluations": evaluations, "particles": particles, "seconds_a_particle": round(seconds / particles, 4), **figures}


def restorer_of(results: Path, settings: dict, half: int, sampling: tuple[str, int, int] | None) -> Restorer:
    """The demo's method `ours` without post-processing, with another sampler; without one, the posterior mean."""
    options = step_parameters("restore_particles", settings, method="ours", half=half)
    options |= {"condition": ["mean"]} if sampling is None else {}
    names = ("condition", "rotation_sigma", "shift_sigma", "posterior_rotations", "device", "precision")
    sampler, steps, samples = sampling or ("mean", 1, 1)
    return load_restorer(
        reference_map=results / f"pairs/half{half}/reference_map.mrc",
        noise_json=results / f"pairs/half{half}/noise.json",
        diffusion_weights=None if sampling is None else results / f"models/ours/half{half}/diffusion.safetensors",
        postprocess_weights=None,
        sampler=sampler,
        sampler_steps=steps,
        samples=samples,
        **{name: options[name] for name in names},
    )


def restore(table: ParticleTable, restorer: Restorer) -> torch.Tensor:
    """Restored images of the whole table."""
    parameters, (rotations, shifts) = table.ctf_parameters(), pose_tensors(table)
    restored = []
    with torch.no_grad():
        for start in range(0, len(table), BATCH):
            rows = np.arange(start, min(start + BATCH, len(table)))
            ctf = ctf_2d(parameters.take(rows), box_size=table.box_size, pixel_size=table.pixel_size)
            images = torch.from_numpy(table.load_images(rows))
            restored.append(restorer(images, ctf, rotations[rows], shifts[rows], rows.tolist()).images)
    return torch.cat(restored)


if __name__ == "__main__":
    main()
