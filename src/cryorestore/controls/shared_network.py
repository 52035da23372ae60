"""The shared-network contrast: what the half-map FSC would have claimed, had both halves been restored with what one half learned."""

from collections.abc import Sequence
from pathlib import Path

import torch

from cryorestore.controls.pictures import draw_shells
from cryorestore.controls.restoring import (
    FIRST_SHELL,
    Comparison,
    chosen_rows,
    map_of,
    mean_over_shells,
    particle_seeds,
    particles_themselves,
    restore_rows,
)
from cryorestore.controls.result import ControlResult, Null, Verdict
from cryorestore.files import files_together
from cryorestore.fsc import FscCurve
from cryorestore.general.method import SHIPPED
from cryorestore.io.mrc import read_map
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct.step import used_rows
from cryorestore.restore import load_restorer

_NOTHING_SHARED = 0.02
"""Below this mean difference between the shared and the raw curve there is nothing that sharing could bring."""


def shared_prior_fsc(signal_to_noise: float, particles: int) -> tuple[float, float]:
    """Half-map FSC and FSC to the truth, in one shell, where both halves are restored with one wrong prior map.

    Each image is the signal and noise of its own; the restorer returns the posterior mean about its map, of the signal's power and unlike the
    signal: map + w (image - map) with w = s / (1 + s). The mean of n such images is (1 - w) map + w signal + w noise / sqrt(n), so
    the halves agree by [(1 - w)^2 + w^2] / [(1 - w)^2 + w^2 + w^2 / (n s)], and with the truth by w over the root of the same denominator.

    Parameters
    ----------
    signal_to_noise
        Spectral signal-to-noise ratio s of one image.
    particles
        Number n of images a half.
    """
    weight = signal_to_noise / (1 + signal_to_noise)
    shared = (1 - weight) ** 2 + weight**2
    total = shared + weight**2 / (particles * signal_to_noise)
    return shared / total, weight / total**0.5


@files_together()
def control_shared_network(
    *,
    half1_star: str | Path,
    half2_star: str | Path,
    restored1_star: str | Path,
    restored2_star: str | Path,
    reference_map_1: str | Path,
    noise_json_1: str | Path,
    control: str | Path,
    picture: str | Path,
    diffusion_weights_1: str | Path | None = None,
    postprocess_weights_1: str | Path | None = None,
    truth_map: str | Path | None = None,
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
    threshold: float = 0.01,
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
    """Restore particles of half 2 with half 1's map and networks, and compare the half-map FSC with that of the independent halves.

    If the halves shared what they learned, both curves would be the same; passed: the shared curve lies above the independent one by at
    least `threshold` on average, so independence takes away what sharing would have claimed. Where sharing brings nothing over raw particles,
    nothing is judged. A method with one network for both halves, the general weights, fails by design.

    Parameters
    ----------
    half1_star, half2_star, restored1_star, restored2_star
        Raw and restored particles of both halves, row by row.
    reference_map_1, noise_json_1, diffusion_weights_1, postprocess_weights_1
        What half 1 was restored with.
    control, picture
        Outputs (JSON, SVG).
    truth_map
        True map of a simulation: how much of the shared claim is right.
    method
        Its name.
    images
        Accepted particles a half that are looked at.
    threshold
        Least mean difference of the FSC from shell 3 to the last of half 1's map.
    mask_radius, mask_edge
        Soft sphere for the FSC, and disc of the methods that have one, angstrom.
    condition, sampler, sampler_steps, samples, rotation_sigma, shift_sigma, posterior_rotations, evidence_threshold
        As in `restore_particles`; the evidence of the independent restoration says which particles are looked at.
    batch_size, device, precision, threads, peer_python, general_weights, general_diameter, general_whiten, seed
        As in `restore_particles`; `seed` is that of half 1.
    """
    torch.set_num_threads(threads)
    raw = [ParticleTable.read(star) for star in (half1_star, half2_star)]
    restorer = load_restorer(
        reference_map=reference_map_1,
        noise_json=noise_json_1,
        diffusion_weights=diffusion_weights_1,
        postprocess_weights=postprocess_weights_1,
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
        particles=raw[0],
        peer_python=peer_python,
        general_weights=general_weights,
        general_diameter=general_diameter,
        general_whiten=general_whiten,
    )
    restored = [ParticleTable.read(star) for star in (restored1_star, restored2_star)]
    rows = [chosen_rows(used_rows(table), images, seed=seed) for table in restored]
    maps = {
        name: [map_of(table, own, torch.from_numpy(table.load_images(own))) for table, own in zip(tables, rows, strict=True)]
        for name, tables in (("raw", raw), ("independent", restored))
    }
    seeds = particle_seeds(raw[1], rows[1], seed=seed)
    source = particles_themselves(raw[1])
    crossed = restore_rows(raw[1], rows[1], restorer, source, seeds=seeds, batch_size=batch_size, description="half 2 with half 1's network")
    maps["shared"] = [maps["independent"][0], map_of(raw[1], rows[1], crossed.images)]
    compared = Comparison(raw[0].pixel_size, mask_radius, mask_edge)
    curves = {name: compared.fsc(*pair) for name, pair in maps.items()}
    if truth_map is not None:
        truth, (first, second) = torch.from_numpy(read_map(truth_map)[0]), maps["shared"]
        curves["shared, to the truth"] = compared.fsc(0.5 * (first + second), truth)
    counts = [len(own) for own in rows]
    result = _judge(
        method, curves, counts, last=restorer.conditions.reference.max_shell, threshold=threshold, shared_by_design=restorer.general is not None
    )
    result.write(control, picture=picture)
    shown = {name: curve.correlation.tolist() for name, curve in curves.items()}
    draw_shells(shown, picture, pixel_size=raw[0].pixel_size, ylabel="FSC")


def _judge(method: str, curves: dict[str, FscCurve], counts: Sequence[int], *, last: int, threshold: float, shared_by_design: bool) -> ControlResult:
    means = {name: mean_over_shells(curve, FIRST_SHELL, last) for name, curve in curves.items()}
    score, over_raw = means["shared"] - means["independent"], means["shared"] - means["raw"]
    crossings = {name: curve.resolution(0.143 if name in ("raw", "independent", "shared") else 0.5) for name, curve in curves.items()}
    text = (
        f"with half 1's network for both halves the FSC of {counts[0]} and {counts[1]} particles would be {means['shared']:.3f} on average, "
        f"with networks of their own it is {means['independent']:.3f}, raw {means['raw']:.3f}"
    )
    if "shared, to the truth" in means:
        text += f"; to the truth the shared map has {means['shared, to the truth']:.3f}"
    if over_raw < _NOTHING_SHARED:
        text += "; there is nothing in it that halves could share"
    verdict: Verdict = "not judged" if over_raw < _NOTHING_SHARED else "passed" if score >= threshold else "failed"
    if shared_by_design:
        verdict = "failed"
        text = (
            f"both halves are restored by one network, that of the general weights: the half-map FSC of what it restores is void, by design; {text}"
        )
    return ControlResult(
        name="shared_network",
        method=method,
        score=score,
        score_text="mean FSC that a shared network would add to that of independent halves",
        threshold=threshold,
        null=Null("halves that share what they learned: both curves are the same", 0.0),
        verdict=verdict,
        text=text,
        details={
            "particles": list(counts),
            "mean_fsc": means,
            "crossings": crossings,
            "fsc": {name: curve.correlation.tolist() for name, curve in curves.items()},
        },
    )
