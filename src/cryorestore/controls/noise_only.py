"""Noise only: what a method makes of images that hold no particle."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from cryorestore.controls.junk import simulated, true_particles
from cryorestore.controls.pictures import draw_shells
from cryorestore.controls.restoring import FIRST_SHELL, Comparison, RestoredRows, Rows, map_of, noise_alone, restore_rows
from cryorestore.controls.result import ControlResult, Null
from cryorestore.files import files_together, read_json
from cryorestore.general.method import SHIPPED
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct.step import used_rows
from cryorestore.restore import Restorer, judge_evidence, load_restorer
from cryorestore.seeds import derived_seeds

_DRAWS = 200
_FROM_NULL = 0.02
"""Most that the mean FSC of what was accepted may differ from the mean of the null."""
_CHANCE = 0.001
"""Chance that any shell of the null lies above the limit."""
_NULL_TEXT = "no image of noise is a particle"
_SHOWN = {
    "noise restored, half-maps": "ungated_fsc",
    "noise restored, to the map": "ungated_fsc_to_own_map",
    "raw noise, to the map": "raw_fsc_to_own_map",
    "accepted, half-maps": "accepted_fsc",
}


@dataclass(frozen=True)
class _NoiseRun:
    """The noise of one half: poses it was put at, the seed of each image, and what became of it."""

    table: ParticleTable
    rows: Rows
    seeds: list[int]
    restorer: Restorer
    restored: RestoredRows

    def maps(self) -> tuple[Tensor, Tensor]:
        """Map of the restored noise, and of the noise itself."""
        raw = noise_alone(self.restorer, box_size=self.table.box_size)(self.rows, self.seeds)
        return map_of(self.table, self.rows, self.restored.images), map_of(self.table, self.rows, raw)


@files_together()
def control_noise_only(
    *,
    half1_star: str | Path,
    half2_star: str | Path,
    reference_map_1: str | Path,
    reference_map_2: str | Path,
    noise_json_1: str | Path,
    noise_json_2: str | Path,
    control: str | Path,
    picture: str | Path,
    diffusion_weights_1: str | Path | None = None,
    diffusion_weights_2: str | Path | None = None,
    postprocess_weights_1: str | Path | None = None,
    postprocess_weights_2: str | Path | None = None,
    method: str,
    condition: Sequence[str],
    sampler: str,
    sampler_steps: int,
    samples: int = 1,
    rotation_sigma: float,
    shift_sigma: float,
    posterior_rotations: Sequence[int] = (96, 64, 64),
    evidence_threshold: float = 0.5,
    images: int = 200,
    threshold: float = 0.005,
    kept_threshold: float = 0.95,
    mask_radius: float,
    mask_edge: float,
    batch_size: int = 16,
    device: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    peer_python: str | None = None,
    general_weights: str = SHIPPED,
    general_diameter: float | None = None,
    general_whiten: str = "none",
    seed: int = 1,
) -> None:
    """Restore pure noise with a method's own weights, at poses and CTFs of real particles, and write the verdict.

    Passed: at most `threshold` of the noise images are accepted by the evidence, and at least `kept_threshold` of the simulated
    particles of training are; and if some are accepted in both halves, their maps agree no better than 200 pairs of maps of raw noise
    at the same poses. A method without evidence accepts everything and fails. Beside the verdict stands the contrast, what there is when nothing
    gates it: the half-map FSC of the restored noise, and its FSC to the map that restored it, beside that of the noise itself.

    Parameters
    ----------
    half1_star, half2_star, reference_map_1, reference_map_2, noise_json_1, noise_json_2
        Of the two halves.
    control, picture
        Outputs (JSON, SVG).
    diffusion_weights_1, diffusion_weights_2, postprocess_weights_1, postprocess_weights_2
        The halves' networks, as far as the method has them.
    method
        Its name.
    images
        Noise images a half.
    mask_radius, mask_edge
        Soft sphere for the FSC, and disc of the methods that have one, angstrom.
    condition, sampler, sampler_steps, samples, rotation_sigma, shift_sigma, posterior_rotations, evidence_threshold
        As in `restore_particles`.
    batch_size, device, precision, threads, peer_python, general_weights, general_diameter, general_whiten, seed
        As in `restore_particles`.
    """
    torch.set_num_threads(threads)
    runs, kept = [], []
    parts = [
        (half1_star, reference_map_1, noise_json_1, diffusion_weights_1, postprocess_weights_1),
        (half2_star, reference_map_2, noise_json_2, diffusion_weights_2, postprocess_weights_2),
    ]
    for number, (star, reference_map, noise_json, diffusion_weights, postprocess_weights) in enumerate(parts, start=1):
        table = ParticleTable.read(star)
        restorer = load_restorer(
            reference_map=reference_map,
            noise_json=noise_json,
            diffusion_weights=diffusion_weights,
            postprocess_weights=postprocess_weights,
            condition=condition,
            sampler=sampler,
            sampler_steps=sampler_steps,
            samples=samples,
            rotation_sigma=rotation_sigma,
            shift_sigma=shift_sigma,
            posterior_rotations=posterior_rotations,
            device=device,
            precision=precision,
            mask_radius=mask_radius,
            mask_edge=mask_edge,
            particles=table,
            peer_python=peer_python,
            general_weights=general_weights,
            general_diameter=general_diameter,
            general_whiten=general_whiten,
        )
        runs.append(_restore_noise(table, restorer, count=images, batch_size=batch_size, seed=seed + number))
        kept += _evidence_of_particles(table, restorer, noise_json, count=images, batch_size=batch_size, rotation_sigma=rotation_sigma, seed=seed)
    limits = {"evidence_threshold": evidence_threshold, "threshold": threshold, "kept_threshold": kept_threshold}
    compared = Comparison(runs[0].table.pixel_size, mask_radius, mask_edge)
    result = _judge(method, runs, np.array(kept), compared, **limits, seed=seed)
    result.write(control, picture=picture)
    shown = {label: result.details[key] for label, key in _SHOWN.items() if result.details[key]}
    draw_shells(shown, picture, pixel_size=runs[0].table.pixel_size, ylabel="FSC of pure noise, nothing gated")


def _restore_noise(table: ParticleTable, restorer: Restorer, *, count: int, batch_size: int, seed: int) -> _NoiseRun:
    rows = np.random.default_rng(seed).choice(used_rows(table), size=count)
    seeds = derived_seeds(seed, [str(number) for number in range(count)], purpose="noise-only control")
    source = noise_alone(restorer, box_size=table.box_size)
    restored = restore_rows(table, rows, restorer, source, seeds=seeds, batch_size=batch_size, description="noise-only control")
    return _NoiseRun(table, rows, seeds, restorer, restored)


def _evidence_of_particles(
    table: ParticleTable, restorer: Restorer, noise_json: str | Path, *, count: int, batch_size: int, rotation_sigma: float, seed: int
) -> list[float]:
    """Log evidence of simulated particles: of the pairs, where the pose posterior gives it; else of as many as there are noise images."""
    if restorer.conditions.has_posterior or not restorer.has_evidence:
        return list(read_json(noise_json).get("simulated_log_evidence", {}).get("particles", []))
    rows = np.random.default_rng(seed).choice(used_rows(table), size=count)
    seeds = derived_seeds(seed, [str(number) for number in range(count)], purpose="particles of the noise-only control")
    source = simulated(table, restorer.conditions.reference, true_particles(restorer.conditions.reference), rotation_sigma=rotation_sigma, seed=seed)
    found = restore_rows(table, rows, restorer, source, seeds=seeds, batch_size=batch_size, description="noise-only control, particles")
    return [float(value) for value in found.log_evidence]


def _judge(
    method: str,
    runs: Sequence[_NoiseRun],
    particle_evidence: NDArray[np.float64],
    compared: Comparison,
    *,
    evidence_threshold: float,
    threshold: float,
    kept_threshold: float,
    seed: int,
) -> ControlResult:
    ungated, to_own_map, raw_to_own_map = _ungated(runs, compared)
    details: dict[str, Any] = {
        "images": sum(len(run.rows) for run in runs),
        "ungated_fsc_mean": float(ungated[FIRST_SHELL:].mean()),
        "ungated_fsc": ungated.tolist(),
        "ungated_fsc_to_own_map": to_own_map.tolist(),
        "raw_fsc_to_own_map": raw_to_own_map.tolist(),
        "accepted_fsc": None,
        "kept": None,
        "kept_threshold": kept_threshold,
    }
    what, null = "share of pure-noise images accepted by the evidence", Null(_NULL_TEXT, 0.0)
    if not runs[0].restorer.has_evidence:
        text = "the method has no evidence and passes every image on, noise too: its half-map FSC says nothing about the data"
        return ControlResult("noise_only", method, 1.0, what, threshold, null, "failed", text, details=details)
    evidence = np.concatenate([run.restored.log_evidence for run in runs])
    accepted = [judge_evidence(run.restored.log_evidence, threshold=evidence_threshold)[1] for run in runs]
    score, kept = float(np.concatenate(accepted).mean()), float(judge_evidence(particle_evidence, threshold=evidence_threshold)[1].mean())
    details |= {
        "kept": kept,
        "noise_log_evidence_median": float(np.median(evidence)),
        "particle_log_evidence_median": float(np.median(particle_evidence)),
        "simulated_particles": len(particle_evidence),
    }
    text = (
        f"{100 * score:.2f} % of the noise images accepted (at most {100 * threshold:g} % allowed), "
        f"{100 * kept:.1f} % of simulated particles kept (at least {100 * kept_threshold:g} % asked)"
    )
    passed = score <= threshold and kept >= kept_threshold
    if passed and all(chosen.any() for chosen in accepted):
        like_noise, found = _compare_with_noise(runs, accepted, compared, seed=seed)
        details |= found
        text += f"; the maps of what was accepted agree {'no better' if like_noise else 'better'} than maps of raw noise"
        passed = like_noise
    return ControlResult("noise_only", method, score, what, threshold, null, "passed" if passed else "failed", text, details=details)


def _ungated(runs: Sequence[_NoiseRun], compared: Comparison) -> tuple[Tensor, Tensor, Tensor]:
    """Nothing gated: FSC of the two maps of restored noise, and the halves' mean FSC of restored and of raw noise to the half's own map."""
    maps = [run.maps() for run in runs]
    between = compared.fsc(maps[0][0], maps[1][0]).correlation
    own = [run.restorer.conditions.reference.volume for run in runs]
    restored, raw = (
        torch.stack([compared.fsc(pair[kind], volume).correlation for pair, volume in zip(maps, own, strict=True)]).mean(0) for kind in (0, 1)
    )
    return between, restored, raw


def _compare_with_noise(
    runs: Sequence[_NoiseRun], accepted: Sequence[NDArray[np.bool_]], compared: Comparison, *, seed: int
) -> tuple[bool, dict[str, Any]]:
    """Whether the maps of the accepted images agree as maps of raw noise at the same poses do, and the figures.

    The limit of a shell is the quantile of a normal distribution of the null's inverse hyperbolic tangents, all shells together at `_CHANCE`.
    """
    poses = [run.rows[chosen] for run, chosen in zip(runs, accepted, strict=True)]
    maps = [map_of(run.table, rows, run.restored.images[torch.from_numpy(chosen)]) for run, rows, chosen in zip(runs, poses, accepted, strict=True)]
    observed = compared.fsc(*maps).correlation.numpy()[FIRST_SHELL:]
    null = []
    for draw in range(_DRAWS):
        pair = []
        for half, (run, rows) in enumerate(zip(runs, poses, strict=True), start=1):
            seeds = derived_seeds(seed, [f"{draw} {half} {number}" for number in range(len(rows))], purpose="noise-only null")
            pair.append(map_of(run.table, rows, noise_alone(run.restorer, box_size=run.table.box_size)(rows, seeds)))
        null.append(compared.fsc(*pair).correlation.numpy()[FIRST_SHELL:])
    heights = np.arctanh(np.clip(null, -0.999999, 0.999999))
    limit = np.tanh(heights.mean(0) + norm.isf(_CHANCE / heights.shape[1]) * heights.std(0, ddof=1))
    difference = float(observed.mean() - np.mean(null))
    found = {
        "accepted_fsc": [1.0] * FIRST_SHELL + observed.tolist(),
        "accepted_fsc_mean": float(observed.mean()),
        "null_fsc_mean": float(np.mean(null)),
    }
    return abs(difference) <= _FROM_NULL and bool((observed <= limit).all()), found
