"""Junk that is not noise: how much of it the evidence accepts, and what that does to the map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.controls.pictures import draw_points
from cryorestore.controls.regions import find_domain, other_structure, with_turned_domain
from cryorestore.controls.restoring import (
    FIRST_SHELL,
    Comparison,
    RestoredRows,
    Rows,
    Source,
    chosen_rows,
    map_of,
    mean_over_shells,
    prepared,
    restore_rows,
)
from cryorestore.controls.result import ControlResult, Null
from cryorestore.ctf import ctf_2d
from cryorestore.files import files_together
from cryorestore.general.method import SHIPPED
from cryorestore.geometry import perturb_rotations
from cryorestore.particles import ParticleTable
from cryorestore.pose_tensors import shift_tensor
from cryorestore.project import FourierVolume
from cryorestore.reconstruct.step import MINIMUM_PARTICLES, used_rows
from cryorestore.reference import Reference, seeded_noise
from cryorestore.restore import judge_evidence, load_restorer
from cryorestore.seeds import derived_seeds

PARTICLE = "particle"
_NEIGHBOUR_SHIFT = 1.2
"""How far off the centre a neighbour stands, as a share of the particle's radius."""
_ICE_POWER, _ICE_SHELLS = 30.0, 3.0
"""Power of thick ice over that of the noise at shell 0, and the shell where the excess has fallen to 1/e."""


@dataclass(frozen=True)
class _Kind:
    """One kind of picture: what is projected, how far off the centre (px), and the spectrum of the noise over it."""

    volume: Tensor | None
    shift_px: float
    noise_power: Tensor


@dataclass(frozen=True)
class _Made:
    """Images of one kind: poses that they are near, as they are, and restored."""

    rows: Rows
    raw: Tensor
    restored: RestoredRows


@files_together()
def control_junk(
    *,
    star: str | Path,
    reference_map: str | Path,
    noise_json: str | Path,
    control: str | Path,
    picture: str | Path,
    diffusion_weights: str | Path | None = None,
    postprocess_weights: str | Path | None = None,
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
    shares: Sequence[float] = (0.1, 0.3, 0.5),
    threshold: float = 0.1,
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
    """Mix particles simulated from a half's own map with junk of four kinds, restore them, and see what passes.

    Kinds: thick ice (steep noise), a neighbour off the centre, another structure of the same size and spectrum, and a conformer that the map does
    not have. Passed: of all four kinds together at most `threshold` is accepted. The maps of what is accepted are held against
    the map that the particles were simulated from, with the raw images of all beside them.

    Parameters
    ----------
    star
        Raw particles of one half, which lend poses and CTFs.
    reference_map, noise_json, diffusion_weights, postprocess_weights
        What that half is restored with; the map is the truth here.
    control, picture
        Outputs (JSON, SVG).
    method
        Its name.
    images
        Images in a mixture.
    shares
        Shares of junk.
    threshold
        Most of the junk that may be accepted.
    mask_radius, mask_edge
        Soft sphere round the particle, and disc of the methods that have one, angstrom.
    condition, sampler, sampler_steps, samples, rotation_sigma, shift_sigma, posterior_rotations, evidence_threshold
        As in `restore_particles`.
    batch_size, device, precision, threads, peer_python, general_weights, general_diameter, general_whiten, seed
        As in `restore_particles`.
    """
    torch.set_num_threads(threads)
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
    reference = restorer.conditions.reference
    kinds = make_kinds(reference, mask_radius=mask_radius, seed=seed)
    most = -(-round(max(shares) * images) // (len(kinds) - 1))
    candidates, made = used_rows(table), dict[str, _Made]()
    for kind, content in kinds.items():
        count = images if kind == PARTICLE else most
        rows = chosen_rows(candidates, count, seed=seed + len(made))
        source = simulated(table, reference, content, rotation_sigma=rotation_sigma, seed=seed)
        seeds = derived_seeds(seed, [f"{kind} {number}" for number in range(len(rows))], purpose="junk control")
        raw = torch.cat([source(rows[start : start + batch_size], seeds[start : start + batch_size]) for start in range(0, len(rows), batch_size)])
        found = restore_rows(table, rows, restorer, prepared(raw, seeds), seeds=seeds, batch_size=batch_size, description=f"junk: {kind}")
        made[kind] = _Made(rows, raw, found)
    passing = {kind: float(judge_evidence(one.restored.log_evidence, threshold=evidence_threshold)[1].mean()) for kind, one in made.items()}
    compared = Comparison(table.pixel_size, mask_radius, mask_edge)
    mixtures = [_mixture(table, made, share, images, reference, evidence_threshold=evidence_threshold, compared=compared) for share in (0.0, *shares)]
    _judge(method, passing, (0.0, *shares), mixtures, threshold).write(control, picture=picture)
    curves = {name: ((0.0, *shares), [mixture[name] for mixture in mixtures]) for name in ("raw", "restored")}
    draw_points(curves, picture, xlabel="share of junk", ylabel="mean FSC to the map that particles were made from")


def true_particles(reference: Reference) -> _Kind:
    """The particles of a half's own map."""
    return _Kind(reference.volume, 0.0, reference.noise_power)


def make_kinds(reference: Reference, *, mask_radius: float, seed: int) -> dict[str, _Kind]:
    """The particle and the four kinds of junk, from what one half knows."""
    volume, noise, pixel_size = reference.volume, reference.noise_power, reference.pixel_size
    radius = mask_radius / pixel_size
    excess = _ICE_POWER * torch.exp(-torch.arange(len(noise)) / _ICE_SHELLS)
    turned = with_turned_domain(volume, find_domain(volume, pixel_size=pixel_size, mask_radius=mask_radius))
    return {
        PARTICLE: true_particles(reference),
        "ice": _Kind(None, 0.0, noise * (1 + excess)),
        "neighbour": _Kind(volume, _NEIGHBOUR_SHIFT * radius, noise),
        "another structure": _Kind(other_structure(volume, radius_px=radius, seed=seed), 0.0, noise),
        "another conformer": _Kind(turned, 0.0, noise),
    }


def simulated(table: ParticleTable, reference: Reference, kind: _Kind, *, rotation_sigma: float, seed: int) -> Source:
    """Images of one kind near the poses of a table, as far off them as poses are said to err."""
    slicer = None if kind.volume is None else FourierVolume(kind.volume, max_shell=reference.max_shell)
    given, parameters = table.rotation_matrices(), table.ctf_parameters()
    shifts = shift_tensor(table)

    def images(rows: Rows, seeds: Sequence[int]) -> Tensor:
        noise = seeded_noise(seeds, kind.noise_power, box_size=table.box_size)
        if slicer is None:
            return noise
        drawn = [np.random.default_rng([seed, one]) for one in seeds]
        rotations = np.concatenate(
            [perturb_rotations(given[row : row + 1], rotation_error=rotation_sigma, generator=one) for row, one in zip(rows, drawn, strict=True)]
        )
        angles = torch.tensor([one.uniform(0, 2 * np.pi) for one in drawn])
        away = kind.shift_px * torch.stack([angles.cos(), angles.sin()], 1).float()
        coefficients = slicer.coefficients
        ctf = ctf_2d(parameters.take(rows), box_size=table.box_size, pixel_size=table.pixel_size)
        slices = slicer.slices(torch.from_numpy(rotations).float()) * coefficients.select(ctf) * coefficients.shift_phases(shifts[rows] + away)
        return coefficients.to_images(slices) + noise

    return images


def _mixture(
    table: ParticleTable,
    made: Mapping[str, _Made],
    share: float,
    images: int,
    reference: Reference,
    *,
    evidence_threshold: float,
    compared: Comparison,
) -> dict[str, float]:
    """Mean FSC to the reference of the raw map of a mixture, and of the map of what is accepted and restored; the accepted share of its junk."""
    junk = round(share * images)
    counts = {kind: images - junk if kind == PARTICLE else junk // (len(made) - 1) for kind in made}
    rows, raw, restored, kept, is_junk = list[Rows](), list[Tensor](), list[Tensor](), list[NDArray[np.bool_]](), list[NDArray[np.bool_]]()
    for kind, one in made.items():
        count = counts[kind]
        rows.append(one.rows[:count])
        raw.append(one.raw[:count])
        restored.append(one.restored.images[:count])
        kept.append(judge_evidence(one.restored.log_evidence[:count], threshold=evidence_threshold)[1])
        is_junk.append(np.full(len(rows[-1]), kind != PARTICLE))
    everything, accepted, strange = np.concatenate(rows), np.concatenate(kept), np.concatenate(is_junk)

    def score(chosen: NDArray[np.bool_], stack: Sequence[Tensor]) -> float:
        if chosen.sum() < MINIMUM_PARTICLES:
            return 0.0
        volume = map_of(table, everything[chosen], torch.cat(list(stack))[torch.from_numpy(chosen)])
        return mean_over_shells(compared.fsc(volume, reference.volume), FIRST_SHELL, reference.max_shell)

    return {
        "raw": score(np.ones(len(everything), bool), raw),
        "restored": score(accepted, restored),
        "accepted_junk": float(accepted[strange].mean()) if strange.any() else 0.0,
    }


def _judge(
    method: str, passing: Mapping[str, float], shares: Sequence[float], mixtures: Sequence[Mapping[str, float]], threshold: float
) -> ControlResult:
    junk = {kind: share for kind, share in passing.items() if kind != PARTICLE}
    score = float(np.mean(list(junk.values())))
    told = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in junk.items())
    text = (
        f"accepted: {told}; particles {100 * passing[PARTICLE]:.0f} %. Mean FSC to the map that particles were made from, without junk and with "
        f"{100 * shares[-1]:.0f} %: raw {mixtures[0]['raw']:.3f} and {mixtures[-1]['raw']:.3f}, restored {mixtures[0]['restored']:.3f} and "
        f"{mixtures[-1]['restored']:.3f}"
    )
    names = ("raw", "restored", "accepted_junk")
    return ControlResult(
        name="junk",
        method=method,
        score=score,
        score_text="share of structured junk accepted by the evidence, mean over the kinds",
        threshold=threshold,
        null=Null("junk is refused", 0.0),
        verdict="passed" if score <= threshold else "failed",
        text=text,
        details={"accepted": dict(passing), "shares": list(shares), **{name: [mixture[name] for mixture in mixtures] for name in names}},
    )
