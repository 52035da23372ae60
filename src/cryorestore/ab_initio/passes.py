"""Full passes over a half: every particle against a map at growing band limit, until held-out particles gain no more evidence."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.ab_initio.annealing import Region, batch_size, in_box_for, make_bank
from cryorestore.ab_initio.half import HalfParticles
from cryorestore.ab_initio.solving import ClassSums, solve_map
from cryorestore.ab_initio.volumes import resized_map
from cryorestore.logs import get_logger, progress
from cryorestore.posterior.grid import make_pose_grid
from cryorestore.posterior.search import likeliest_poses, pose_weights

HELD_OUT_EVERY = 10
"""One particle of so many stays out of the maps of all but the last pass"""


@dataclass(frozen=True)
class Level:
    """Passes at one band limit."""

    max_shell: int
    step: float
    """degrees between directions"""
    shift_share: float
    """of the region's shift that is searched, round each particle's own centre"""
    most_passes: int
    relaxation: float = 0.0
    """Part of each pass's change of the map that is added once more"""


LEVELS = (
    Level(max_shell=8, step=12.0, shift_share=1.0, most_passes=12, relaxation=0.7),
    Level(max_shell=10, step=10.0, shift_share=1.0, most_passes=5, relaxation=0.5),
    Level(max_shell=14, step=7.0, shift_share=0.5, most_passes=3),
    Level(max_shell=20, step=5.5, shift_share=0.35, most_passes=2),
)
"""As METHOD's trials took them; those beyond the particles' Nyquist shell or the wanted resolution are left out"""
_PLATEAU = 0.05
"""Gain in mean held-out log evidence a particle below which a level is at its end"""


@dataclass(frozen=True)
class PassState:
    """What a pass leaves: enough to go on from."""

    volume: Float[Tensor, "box box box"]
    """in the box of the level that made it"""
    made_at: int
    """that level's shell; 0 for a start"""
    centres_px: Float[Tensor, "n 2"]
    """of the particles, in px of the full working box"""
    level: int
    passes: int
    """done at this level"""
    evidence: tuple[float, ...]
    """mean held-out log evidence of every pass at this level"""
    finished: bool = False


@dataclass(frozen=True)
class FoundPoses:
    """Of the n particles of a half, from the last pass."""

    rotations: Float[Tensor, "n 3 3"]
    shifts_px: Float[Tensor, "n 2"]
    """in px of the full working box"""
    rotation_sigma: Float[Tensor, "n"]
    """degrees"""
    shift_sigma: Float[Tensor, "n"]
    """px of the full working box"""
    log_evidence: Float[Tensor, "n"]


def usable_levels(box_size: int, *, max_shell: int) -> tuple[Level, ...]:
    """The levels up to a band limit, the last of which is made to end there."""
    top = min(max_shell, box_size // 2 - 2)
    kept = [level for level in LEVELS if level.max_shell < top]
    after = LEVELS[min(len(kept), len(LEVELS) - 1)]
    return (*kept, replace(after, max_shell=top, step=after.step * after.max_shell / top))


def run_passes(
    state: PassState,
    particles: HalfParticles,
    region: Region,
    levels: tuple[Level, ...],
    *,
    symmetry: str,
    seed: int,
    device: torch.device,
) -> Iterator[tuple[PassState, FoundPoses]]:
    """Yield the state and the poses after every pass; taken up again from any state, the rest is the same."""
    while not state.finished:
        level = levels[state.level]
        state, poses = _one_pass(state, particles, region, levels, symmetry=symmetry, seed=seed, device=device)
        gained = state.evidence[-1] - state.evidence[-2] if len(state.evidence) > 1 else math.inf
        get_logger().info("shell %d, pass %d: held-out log evidence %.2f a particle", level.max_shell, state.passes, state.evidence[-1])
        if state.passes >= level.most_passes or gained < _PLATEAU:
            last = state.level == len(levels) - 1
            state = replace(state, level=state.level + (not last), passes=0, evidence=() if not last else state.evidence, finished=last)
        yield state, poses


def _one_pass(
    state: PassState,
    particles: HalfParticles,
    region: Region,
    levels: tuple[Level, ...],
    *,
    symmetry: str,
    seed: int,
    device: torch.device,
) -> tuple[PassState, FoundPoses]:
    level = levels[state.level]
    small, place = in_box_for(particles, replace(region, shift_px=region.shift_px * level.shift_share), level.max_shell)
    scale = small.box_size / particles.box_size
    before = resized_map(state.volume, small.box_size)
    grid = make_pose_grid(
        step=level.step,
        max_shell=level.max_shell,
        box_size=small.box_size,
        shift_range_px=place.shift_px,
        symmetry=symmetry,
        seed=seed + 100 * state.level + state.passes,
    )
    bank = make_bank(before, small, grid, place, max_shell=level.max_shell, rings=level.max_shell, device=device)
    sums, parts = ClassSums(bank), []
    held_out = np.arange(len(small)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    last = state.level == len(levels) - 1 and state.passes + 1 >= level.most_passes
    centres = state.centres_px * scale
    for rows, mapped in progress(list(_batches(held_out, batch_size(grid), everything=last)), description=f"shell {level.max_shell}"):
        matched = bank.match(small.images[rows], small.ctf(rows), centres[rows])
        weights = pose_weights(bank, matched)
        if mapped:
            sums.add(matched, weights)
        poses = likeliest_poses(bank, weights, centres[rows])
        parts.append((rows, poses, weights.log_evidence))
    sums.scaled(len(small) / (len(small) if last else int((~held_out).sum())))
    solved = solve_map(sums, bank, signal_power=small.signal_power, radius_px=place.radius_px, max_shell=level.max_shell)
    volume = solved + level.relaxation * (solved - before)
    order = np.argsort(np.concatenate([rows for rows, _, _ in parts]), kind="stable")

    def gathered(values: list[Tensor]) -> Tensor:
        return torch.cat(values)[order].cpu()

    found = FoundPoses(
        rotations=gathered([poses.rotations for _, poses, _ in parts]),
        shifts_px=gathered([poses.shifts_px for _, poses, _ in parts]) / scale,
        rotation_sigma=gathered([poses.rotation_sigma for _, poses, _ in parts]),
        shift_sigma=gathered([poses.shift_sigma for _, poses, _ in parts]) / scale,
        log_evidence=gathered([evidence for _, _, evidence in parts]),
    )
    mean_evidence = float(found.log_evidence[torch.from_numpy(held_out)].double().mean())
    next_state = PassState(volume, level.max_shell, found.shifts_px, state.level, state.passes + 1, (*state.evidence, mean_evidence))
    return next_state, found


def _batches(held_out: NDArray[np.bool_], size: int, *, everything: bool) -> Iterator[tuple[NDArray[np.int64], bool]]:
    """Rows of particles that go into the map, then of those that do not."""
    for chosen, mapped in ((~held_out, True), (held_out, everything)):
        rows = np.flatnonzero(chosen)
        for start in range(0, len(rows), size):
            yield rows[start : start + size], mapped


def pass_figures(state: PassState, found: FoundPoses) -> dict[str, float | int]:
    """What is told of a pass: how well held-out particles are explained, and how well poses are known."""
    held_out = torch.arange(len(found.log_evidence)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    evidence = found.log_evidence[held_out].double()
    return {
        "max_shell": state.made_at,
        "evidence": float(evidence.mean()),
        "with_evidence": float((evidence > 0).double().mean()),
        "rotation_sigma": float(found.rotation_sigma.median()),
        "shift_sigma_px": float(found.shift_sigma.median()),
    }
