"""Controls: what a method makes of images that hold no particle, and what that gates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryorestore.batches import fixed_batches
from cryorestore.ctf import ctf_2d
from cryorestore.files import read_json, write_json
from cryorestore.fsc import fourier_shell_correlation
from cryorestore.masks import soft_sphere
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct.native import BackProjector, backproject
from cryorestore.reconstruct.step import used_rows
from cryorestore.reference import seeded_noise
from cryorestore.restore import Restorer, judge_evidence, load_restorer
from cryorestore.seeds import derived_seeds

_GATES = "self_consistency_restored_0143"


def control_noise_only(
    *,
    half1_star: str | Path,
    half2_star: str | Path,
    reference_map_1: str | Path,
    reference_map_2: str | Path,
    noise_json_1: str | Path,
    noise_json_2: str | Path,
    control: str | Path,
    diffusion_weights_1: str | Path | None = None,
    diffusion_weights_2: str | Path | None = None,
    postprocess_weights_1: str | Path | None = None,
    postprocess_weights_2: str | Path | None = None,
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
    seed: int = 1,
) -> None:
    """Restore pure noise with a method's own weights, at poses and CTFs of real particles, and write the verdict.

    Passed: at most `threshold` of the noise images are accepted by the evidence, and at least `kept_threshold` of the simulated
    particles of training are. A method without evidence accepts everything and fails. Beside the verdict stands the contrast: the
    half-map FSC that the restored noise has when nothing gates it.

    Parameters
    ----------
    half1_star, half2_star, reference_map_1, reference_map_2, noise_json_1, noise_json_2
        Of the two halves.
    control
        Output (JSON).
    diffusion_weights_1, diffusion_weights_2, postprocess_weights_1, postprocess_weights_2
        The halves' networks, as far as the method has them.
    images
        Noise images a half.
    mask_radius, mask_edge
        Soft sphere for the FSC, and disc of the methods that have one, angstrom.
    condition, sampler, sampler_steps, samples, rotation_sigma, shift_sigma, posterior_rotations, evidence_threshold
        As in `restore_particles`.
    batch_size, device, precision, threads, peer_python, seed
        As in `restore_particles`.
    """
    torch.set_num_threads(threads)
    volumes, evidence, kept = [], [], []
    parts = [
        (half1_star, reference_map_1, noise_json_1, diffusion_weights_1, postprocess_weights_1),
        (half2_star, reference_map_2, noise_json_2, diffusion_weights_2, postprocess_weights_2),
    ]
    pixel_size = 1.0
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
        )
        pixel_size = table.pixel_size
        volume, found = _restore_noise(table, restorer, count=images, batch_size=batch_size, seed=seed + number)
        volumes.append(volume)
        evidence.append(found)
        kept += read_json(noise_json).get("simulated_log_evidence", {}).get("particles", [])
    sphere = soft_sphere(volumes[0].shape[-1], mask_radius / pixel_size, mask_edge / pixel_size)
    curve = fourier_shell_correlation(volumes[0] * sphere, volumes[1] * sphere, pixel_size=pixel_size).correlation
    has_evidence = restorer.conditions.has_posterior
    verdict = _verdict(np.concatenate(evidence), np.array(kept), has_evidence, evidence_threshold, threshold, kept_threshold)
    shells = curve[3 : len(curve)]
    details = {"images": 2 * images, "ungated_fsc_mean": float(shells.mean()), "ungated_fsc": curve.tolist(), **verdict.pop("details")}
    write_json(control, {"noise_only": {**verdict, "details": details}})


def _restore_noise(table: ParticleTable, restorer: Restorer, *, count: int, batch_size: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """Restore `count` noise images, and reconstruct from the restored ones as if they were particles."""
    generator = np.random.default_rng(seed)
    rows = generator.choice(used_rows(table), size=count)
    box_size, pixel_size, reference = table.box_size, table.pixel_size, restorer.conditions.reference
    parameters = table.ctf_parameters()
    rotations = torch.from_numpy(table.rotation_matrices()).float()
    shifts = torch.from_numpy(-table.origins() / pixel_size).float()
    seeds = derived_seeds(seed, [str(number) for number in range(count)], purpose="noise-only control")
    projector, log_evidence = BackProjector(box_size), np.full(count, np.nan)
    with torch.no_grad():
        for places, real in fixed_batches(count, batch_size, description="noise-only control"):
            chosen, drawn = rows[places], [seeds[place] for place in places]
            ctf = ctf_2d(parameters.take(chosen), box_size=box_size, pixel_size=pixel_size)
            noise = seeded_noise(drawn, reference.noise_power, box_size=box_size)
            restored = restorer(noise, ctf, rotations[chosen], shifts[chosen], drawn)
            backproject(restored.images[:real], ctf[:real], rotations[chosen[:real]], shifts[chosen[:real]], projector)
            if restored.log_evidence is not None:
                log_evidence[places[:real]] = restored.log_evidence[:real].numpy()
    return projector.volume(), log_evidence


def _verdict(
    noise_evidence: np.ndarray, particle_evidence: np.ndarray, has_evidence: bool, evidence_threshold: float, threshold: float, kept_threshold: float
) -> dict[str, Any]:
    common = {
        "score": "fraction of pure-noise images accepted by the evidence",
        "threshold": threshold,
        "kept_threshold": kept_threshold,
        "gates": _GATES,
    }
    if not has_evidence:
        reason = "the method has no evidence and passes every image on, noise too: its half-map FSC says nothing about the data"
        return {**common, "value": 1.0, "kept": None, "passed": False, "reason": reason, "details": {}}
    _, noise_accepted = judge_evidence(noise_evidence, threshold=evidence_threshold)
    _, particles_accepted = judge_evidence(particle_evidence, threshold=evidence_threshold)
    value, kept = float(noise_accepted.mean()), float(particles_accepted.mean())
    passed = value <= threshold and kept >= kept_threshold
    reason = (
        f"{100 * value:.2f} % of the noise images accepted (at most {100 * threshold:g} % allowed), "
        f"{100 * kept:.1f} % of simulated particles kept (at least {100 * kept_threshold:g} % asked)"
    )
    details = {
        "noise_log_evidence_median": float(np.median(noise_evidence)),
        "particle_log_evidence_median": float(np.median(particle_evidence)),
        "simulated_particles": len(particle_evidence),
    }
    return {**common, "value": value, "kept": kept, "passed": passed, "reason": reason, "details": details}
