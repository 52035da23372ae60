"""Full passes over a half: every particle against a map at growing band limit, until held-out particles gain no more evidence.

Up to a band limit all poses of a grid count with their weight. From there on, where no grid would be fine enough, poses are drawn from the posterior
near each particle's own pose (`near.py`), and the map is followed as far as the box goes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.ab_initio.annealing import Region, batch_size, in_box_for, make_bank
from cryorestore.ab_initio.half import HalfParticles
from cryorestore.ab_initio.near import FoundPoses, near_pass
from cryorestore.ab_initio.solving import ClassSums, FittedMap, solve_map
from cryorestore.ab_initio.spreading import spread_over_equals
from cryorestore.ab_initio.volumes import resized_map
from cryorestore.logs import get_logger, progress
from cryorestore.posterior.grid import make_pose_grid
from cryorestore.posterior.search import likeliest_poses, pose_weights

HELD_OUT_EVERY = 10
"""One particle of so many stays out of the maps of all passes but the very last"""


@dataclass(frozen=True)
class Level:
    """Passes at one band limit."""

    max_shell: int
    most_passes: int
    step: float = 0.0
    """degrees between directions; 0 where poses are sought near each particle's own"""
    relaxation: float = 0.0
    """Part of each pass's change of the map that is added once more"""
    everything: bool = False
    """Whether held-out particles go into the map"""

    @property
    def near(self) -> bool:
        """Whether poses are sought near each particle's own instead of everywhere."""
        return self.step == 0


GRIDS = (
    Level(max_shell=8, most_passes=12, step=12.0, relaxation=0.7),
    Level(max_shell=10, most_passes=5, step=10.0, relaxation=0.5),
    Level(max_shell=14, most_passes=3, step=7.0),
    Level(max_shell=20, most_passes=1, step=5.5),
)
_NEAR_PASSES = 3
_REACH = 1.65
"""Radians of the highest shell's phase that a search for the shift reaches at least, to each side of a particle's own centre"""
_REACH_SIGMAS = 2.1
"""The same in standard errors of the shift, both axes together: three of one axis"""
_REACHED = 0.9
"""Share of the particles whose errors that is"""
_PLATEAU = 0.05
"""Gain in mean held-out log evidence a particle below which a level is at its end, if two passes in a row do not reach it"""
_SMALL_GAIN = 0.01
"""The same as a share of the evidence, where that is more: one pass that gains less ends a level, for the next one will gain far more"""


@dataclass(frozen=True)
class PassState:
    """What a pass leaves: enough to go on from."""

    volume: Float[Tensor, "box box box"]
    """in the box of the level that made it"""
    centres_px: Float[Tensor, "n 2"]
    """of the particles, in px of the full working box"""
    known: Float[Tensor, "shells"]
    """share of the map's power that is signal (`FittedMap.known`)"""
    level: int = 0
    passes: int = 0
    """done at this level"""
    evidence: tuple[float, ...] = ()
    """mean held-out log evidence of every pass at this level"""
    finished: bool = False
    found: FoundPoses | None = None


def first_state(volume: Float[Tensor, "box box box"], centres_px: Float[Tensor, "n 2"]) -> PassState:
    """Before all passes."""
    return PassState(volume, centres_px, torch.ones(volume.shape[-1] // 2 + 1))


def usable_levels(box_size: int, *, max_shell: int | None = None) -> tuple[Level, ...]:
    """The levels up to a band limit (None: as far as the box goes): grids to shell 20 at most, then poses near those, at last with all particles."""
    end = box_size // 2 - 2 if max_shell is None else min(max_shell, box_size // 2 - 2)
    top = min(end, GRIDS[-1].max_shell)
    kept = [level for level in GRIDS if level.max_shell < top]
    after = GRIDS[len(kept)]
    near = Level(max_shell=end, most_passes=_NEAR_PASSES)
    return (*kept, replace(after, max_shell=top, step=after.step * after.max_shell / top), near, replace(near, most_passes=1, everything=True))


def run_passes(
    state: PassState,
    particles: HalfParticles,
    region: Region,
    levels: tuple[Level, ...],
    *,
    symmetry: str,
    seed: int,
    device: torch.device,
) -> Iterator[tuple[PassState, dict[str, float | int | str]]]:
    """Yield the state and what is told of it after every pass; taken up again from any state, the rest is the same."""
    while not state.finished:
        level = levels[state.level]
        held_out = np.arange(len(particles)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        alike = 1
        if level.near and not levels[state.level - 1].near and state.passes == 0 and symmetry.upper() == "C1":
            state, alike = _spread(state, particles, region, levels[state.level - 1].max_shell, ~held_out, seed=seed, device=device)
        if level.near:
            found, explained, fitted = _near_pass(state, particles, region, level, held_out, symmetry=symmetry, seed=seed)
        else:
            found, fitted = _grid_pass(state, particles, region, level, held_out, symmetry=symmetry, seed=seed, device=device)
            explained = found.log_evidence
        evidence = (*state.evidence, float(explained[torch.from_numpy(held_out)].double().mean()))
        get_logger().info("shell %d, pass %d: held-out log evidence %.2f a particle", level.max_shell, len(evidence), evidence[-1])
        state = replace(state, volume=fitted.volume, known=fitted.known, centres_px=found.shifts_px, found=found, evidence=evidence)
        told = _figures(level, state, found, held_out) | {"alike": alike}
        state = moved_on(state, levels)
        yield state, told


def moved_on(state: PassState, levels: tuple[Level, ...]) -> PassState:
    """The state with its counters moved on: to the next pass, the next level or the end."""
    passes = state.passes + 1
    if passes < levels[state.level].most_passes and not _at_end(state.evidence):
        return replace(state, passes=passes)
    if state.level == len(levels) - 1:
        return replace(state, passes=passes, finished=True)
    return replace(state, level=state.level + 1, passes=0, evidence=())


def _at_end(evidence: Sequence[float]) -> bool:
    """Whether more passes at a level gain little."""
    if len(evidence) < 2:
        return False
    small = _SMALL_GAIN * evidence[-1]
    if small > _PLATEAU:
        return evidence[-1] - max(evidence[:-1]) < small
    return len(evidence) > 2 and max(evidence[-2:]) - max(evidence[:-2]) < _PLATEAU


def _grid_pass(
    state: PassState,
    particles: HalfParticles,
    region: Region,
    level: Level,
    held_out: NDArray[np.bool_],
    *,
    symmetry: str,
    seed: int,
    device: torch.device,
) -> tuple[FoundPoses, FittedMap]:
    """All poses of a grid for every particle, and the map of their class averages."""
    small, place = in_box_for(particles, replace(region, shift_px=_reach(state, region, level, particles.box_size)), level.max_shell)
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
    centres = state.centres_px * scale
    for rows, mapped in progress(list(_batches(held_out, batch_size(grid), everything=level.everything)), description=f"shell {level.max_shell}"):
        matched = bank.match(small.images[rows], small.ctf(rows), centres[rows])
        weights = pose_weights(bank, matched)
        if mapped:
            sums.add(matched, weights)
        poses = likeliest_poses(bank, weights, centres[rows])
        parts.append((rows, poses, weights.log_evidence))
    sums.scaled(len(small) / (len(small) if level.everything else int((~held_out).sum())))
    fitted = solve_map(sums, bank, signal_power=small.signal_power, radius_px=place.radius_px, max_shell=level.max_shell)
    fitted = replace(fitted, volume=fitted.volume + level.relaxation * (fitted.volume - before))
    order = np.argsort(np.concatenate([rows for rows, _, _ in parts]), kind="stable")

    def gathered(values: list[Tensor]) -> Tensor:
        return torch.cat(values)[order].cpu()

    found = FoundPoses(
        rotations=gathered([poses.rotations for _, poses, _ in parts]),
        shifts_px=gathered([poses.shifts_px for _, poses, _ in parts]) / scale,
        rotation_sigma=gathered([poses.rotation_sigma for _, poses, _ in parts]),
        far_sigma=gathered([poses.far_sigma for _, poses, _ in parts]),
        shift_sigma=gathered([poses.shift_sigma for _, poses, _ in parts]) / scale,
        log_evidence=gathered([evidence for _, _, evidence in parts]),
    )
    return found, fitted


def _reach(state: PassState, region: Region, level: Level, box_size: int) -> float:
    """How far (px) from each particle's centre its shift is searched: all of the region at first, later as far as the shifts are unknown."""
    if state.found is None:
        return region.shift_px
    unknown = _REACH_SIGMAS * float(state.found.shift_sigma.quantile(_REACHED))
    return min(region.shift_px, max(unknown, _REACH * box_size / (2 * math.pi * level.max_shell)))


def _spread(
    state: PassState, particles: HalfParticles, region: Region, max_shell: int, mapped: NDArray[np.bool_], *, seed: int, device: torch.device
) -> tuple[PassState, int]:
    """The state with each particle at one of the poses at which the map looks alike, where that is more evident; in how many ways it does."""
    assert state.found is not None
    spread = spread_over_equals(state.volume, state.found, particles, mapped, region, max_shell=max_shell, seed=seed, device=device)
    if spread is None:
        return state, 1
    found, fitted, alike = spread
    return replace(state, volume=fitted.volume, known=fitted.known, found=found, centres_px=found.shifts_px), alike


def _near_pass(
    state: PassState, particles: HalfParticles, region: Region, level: Level, held_out: NDArray[np.bool_], *, symmetry: str, seed: int
) -> tuple[FoundPoses, Tensor, FittedMap]:
    """Poses near each particle's own at the full band limit, and the map of all draws."""
    assert state.found is not None
    map_before = FittedMap(resized_map(state.volume, particles.box_size), state.known)
    mapped = np.ones(len(particles), bool) if level.everything else ~held_out
    return near_pass(
        map_before,
        particles,
        state.found,
        mapped,
        radius_px=region.radius_px,
        max_shell=level.max_shell,
        symmetry=symmetry,
        seed=seed + 100 * state.level + state.passes,
    )


def _batches(held_out: NDArray[np.bool_], size: int, *, everything: bool) -> Iterator[tuple[NDArray[np.int64], bool]]:
    """Rows of particles that go into the map, then of those that do not."""
    for chosen, mapped in ((~held_out, True), (held_out, everything)):
        rows = np.flatnonzero(chosen)
        for start in range(0, len(rows), size):
            yield rows[start : start + size], mapped


def _figures(level: Level, state: PassState, found: FoundPoses, held_out: NDArray[np.bool_]) -> dict[str, float | int | str]:
    """What is told of a pass: how well held-out particles are explained, and how well poses are known."""
    return {
        "max_shell": level.max_shell,
        "poses": "near" if level.near else "all",
        "evidence": state.evidence[-1],
        "with_evidence": float((found.log_evidence[torch.from_numpy(held_out)] > 0).double().mean()),
        "rotation_sigma": float(found.rotation_sigma.median()),
        "shift_sigma_px": float(found.shift_sigma.median()),
    }
