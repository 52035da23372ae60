"""The poses of one half from its particles alone: several maps from nothing, the best of them by evidence, then full passes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.ab_initio.agreement import agreed_shell
from cryorestore.ab_initio.annealing import MAX_SHELL, Region, anneal, held_out_evidence
from cryorestore.ab_initio.classes import ClassAverages, average_classes
from cryorestore.ab_initio.half import HalfParticles, load_half
from cryorestore.ab_initio.near import FoundPoses
from cryorestore.ab_initio.passes import Level, PassState, first_state, run_passes, usable_levels
from cryorestore.ab_initio.starting import given_start
from cryorestore.ab_initio.volumes import resized_map
from cryorestore.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from cryorestore.devices import select_device
from cryorestore.errors import CryorestoreError
from cryorestore.files import files_together, write_json
from cryorestore.geometry import matrices_to_euler
from cryorestore.io.mrc import MrcStackWriter, write_map
from cryorestore.io.relion import ANGLES
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable
from cryorestore.provenance import file_fingerprint

ROTATION_SIGMA = "rlnCryorestoreRotationSigma"
SHIFT_SIGMA = "rlnCryorestoreShiftSigma"
POSE_EVIDENCE = "rlnCryorestorePoseEvidence"
CLASS = "rlnCryorestoreClass"
CLASS_EVIDENCE = "rlnCryorestoreClassEvidence"
CLASS_ITERATIONS = 25
"""of class averages, before two passes over all particles"""
FEWEST = 50
"""particles of a half"""
_COUNTERS = ("level", "passes", "finished")
_UNDECIDED = 2.0
"""Standard errors of the evidence below which two seeds are equally good"""


@dataclass(frozen=True)
class Seeds:
    """The maps from nothing, and how well each explains the same particles."""

    volumes: Sequence[Float[Tensor, "small small small"]]
    evidence: NDArray[np.float64]
    """(seeds, particles)"""

    @property
    def best(self) -> int:
        """Its number in the list."""
        return int(self.evidence.mean(1).argmax())

    def figures(self, *, symmetry: str) -> list[dict[str, Any]]:
        """Of every seed: mean evidence, what it lacks to the best one and its standard error, and to which shell the two maps agree."""
        best, rows = self.best, []
        for number, volume in enumerate(self.volumes):
            lack = self.evidence[best] - self.evidence[number]
            error = float(lack.std() / np.sqrt(len(lack)))
            agreed = MAX_SHELL if number == best else agreed_shell(self.volumes[best], volume, symmetry=symmetry, max_shell=MAX_SHELL)
            undecided = number != best and float(lack.mean()) < _UNDECIDED * error
            rows.append(
                {
                    "evidence": float(self.evidence[number].mean()),
                    "lack": float(lack.mean()),
                    "lack_error": error,
                    "agreed_shell": agreed,
                    "as_good_as_best": undecided,
                }
            )
        return rows


def find_poses(
    *,
    star: str | Path,
    found_star: str | Path,
    found_map: str | Path,
    class_averages: str | Path,
    figures_json: str | Path,
    work_dir: str | Path,
    source: str = "ab_initio",
    start_map: str | Path | None = None,
    start_resolution: float = 20.0,
    mask_radius: float,
    mask_edge: float,
    bg_radius: float,
    shift_range: float = 15.0,
    max_resolution: float | None = None,
    largest_box: int = 96,
    seeds: int = 2,
    iterations: int = 50,
    images: int = 300,
    classes: int = 10,
    symmetry: str = "C1",
    device: str = "auto",
    threads: int = 1,
    seed: int = 1,
) -> None:
    """Find the poses of one half; nothing of the other half is read.

    Parameters
    ----------
    star
        Normalized particles of one half.
    found_star
        Written: the same rows with the poses found, their standard errors (rlnCryorestoreRotationSigma, degrees; rlnCryorestoreShiftSigma, angstrom)
        and the log evidence of a particle against noise (rlnCryorestorePoseEvidence); the number of its class average (rlnCryorestoreClass, from 1)
        and the log evidence of being in one of the classes (rlnCryorestoreClassEvidence). RELION reads it.
    found_map
        Written: the map of the last pass, in the grey scale of the particles.
    class_averages
        Written: averages of like images (MRC stack), the most populated class first; made before any map, which they do not enter.
    figures_json
        Written: evidence of every seed and pass, how well the poses are known, and particles and evidence of each class.
    work_dir
        State, from which a run that was stopped goes on.
    source
        "ab_initio": from nothing. "refined": from `start_map`, or where that is absent from the table's own poses, low-passed.
    start_map, start_resolution
        Map to start from and the resolution (angstrom) that it or the table's map is low-passed to; for "refined" only.
    mask_radius, mask_edge
        Sphere that holds the particle, angstrom.
    bg_radius
        Background circle of the normalization, px.
    shift_range
        How far a particle may be off its box's centre, along x and y, angstrom.
    max_resolution
        Finest resolution that is compared, angstrom; None = as far as the box goes.
    largest_box
        Particles are compared in a box of at most so many px.
    seeds
        Maps from nothing, of which the best goes on.
    iterations, images
        Of each of them: iterations, and particles drawn for one.
    classes
        Class averages that are made.
    symmetry
        Point group in RELION's setting.
    device, threads
        How it is computed; results depend on the number of threads in the last digits.
    seed
        Of all draws.

    Raises
    ------
    CryorestoreError
        If there are fewer than 50 particles, images that cannot be compared, or nothing to refine from.
    """
    torch.set_num_threads(threads)
    table = ParticleTable.read(star)
    if len(table) < FEWEST:
        raise CryorestoreError(f"{star}: found {len(table)} particles, expected at least {FEWEST} to find poses from; give more, or poses")
    particles = load_half(table, bg_radius=bg_radius, largest_box=largest_box)
    region = region_of(particles, mask_radius=mask_radius, mask_edge=mask_edge, shift_range=shift_range)
    width = particles.box_size * particles.pixel_size
    levels = usable_levels(particles.box_size, max_shell=None if max_resolution is None else int(width / max_resolution))
    where = select_device(device)
    shaping = {"source": source, "radius": region.radius_px, "shift": region.shift_px, "symmetry": symmetry, "seed": seed, "largest_box": largest_box}
    shaping |= {"iterations": iterations, "images": images, "star": file_fingerprint(star)}
    seeds_key = fingerprint(shaping)
    shaping |= {"start_resolution": start_resolution, "start_map": None if start_map is None else file_fingerprint(start_map)}
    passes_key = fingerprint({**shaping, "seeds": seeds, "levels": [list(vars(level).values()) for level in levels]})
    figures: dict[str, Any] = {"source": source, "start": _start_text(source, start_map, start_resolution), "seeds": []}
    how: dict[str, Any] = {"symmetry": symmetry, "seed": seed, "device": where}
    sorted_in = average_classes(particles, region, classes=classes, iterations=CLASS_ITERATIONS, images=images, seed=seed, device=where)
    figures["classes"] = _class_figures(sorted_in)
    if source == "ab_initio":
        tried = _try_seeds(particles, region, Path(work_dir), seeds_key, iterations=iterations, images=images, seeds=seeds, **how)
        figures |= {"seeds": tried.figures(symmetry=symmetry), "best_seed": tried.best}
        start, centres = tried.volumes[tried.best], torch.zeros(len(table), 2)
    else:
        start, centres = given_start(table, particles, region, start_map=start_map, resolution=start_resolution, symmetry=symmetry)
    state, found, passes = _pass_through(
        first_state(start, centres), particles, region, levels, Path(work_dir) / "passes.safetensors", passes_key, **how
    )
    with files_together():
        with_poses(with_classes(table, sorted_in), found, pixel_size=particles.pixel_size).write(found_star)
        box_size = sorted_in.images.shape[-1]
        with MrcStackWriter(class_averages, count=classes, box_size=box_size, pixel_size=width / box_size) as writer:
            writer.append(sorted_in.images.numpy())
        write_map(found_map, resized_map(state.volume, table.box_size).numpy(), pixel_size=table.pixel_size)
        write_json(figures_json, {**figures, "passes": passes, "max_shell": levels[-1].max_shell, "box_width": width})


def _start_text(source: str, start_map: str | Path | None, resolution: float) -> str:
    """What the search started from, as the report says it."""
    if source == "ab_initio":
        return "from its particles alone"
    return f"starting from {'the poses of the table' if start_map is None else Path(start_map).name}, low-passed to {resolution:g} Å"


def region_of(particles: HalfParticles, *, mask_radius: float, mask_edge: float, shift_range: float) -> Region:
    """Where the particle is sought: within the mask, which has to leave a rim of the box free."""
    radius = min((mask_radius + mask_edge) / particles.pixel_size, 0.46 * particles.box_size)
    return Region(radius, shift_range / particles.pixel_size)


def with_poses(table: ParticleTable, found: FoundPoses, *, pixel_size: float) -> ParticleTable:
    """The table with the poses found; `pixel_size` is that of the shifts."""
    angles = matrices_to_euler(found.rotations.double().numpy())
    origins = -found.shifts_px.double().numpy() * pixel_size
    columns = dict(zip(ANGLES, angles.T, strict=True)) | {"rlnOriginXAngst": origins[:, 0], "rlnOriginYAngst": origins[:, 1]}
    errors = {ROTATION_SIGMA: found.rotation_sigma, SHIFT_SIGMA: found.shift_sigma * pixel_size, POSE_EVIDENCE: found.log_evidence}
    return table.with_columns(columns | {name: values.double().numpy() for name, values in errors.items()})


def with_classes(table: ParticleTable, sorted_in: ClassAverages) -> ParticleTable:
    """The table with the class of each particle and the evidence of it."""
    return table.with_columns({CLASS: sorted_in.classes.numpy() + 1, CLASS_EVIDENCE: sorted_in.log_evidence.double().numpy()})


def _class_figures(sorted_in: ClassAverages) -> list[dict[str, float]]:
    """Of every class: its particles, and their median log evidence."""
    rows = []
    for number in range(len(sorted_in.images)):
        own = sorted_in.log_evidence[sorted_in.classes == number]
        rows.append({"particles": len(own), "evidence": float(own.median()) if len(own) else 0.0})
    return rows


def _try_seeds(
    particles: HalfParticles,
    region: Region,
    work_dir: Path,
    key: str,
    *,
    symmetry: str,
    iterations: int,
    images: int,
    seeds: int,
    seed: int,
    device: torch.device,
) -> Seeds:
    volumes, evidence = [], []
    for number in range(seeds):
        path = work_dir / f"seed_{number}.safetensors"
        loaded = load_checkpoint(path, key=key)
        if loaded is None:
            volume = anneal(particles, region, symmetry=symmetry, iterations=iterations, images=images, seed=seed + number, device=device)
            explained = held_out_evidence(volume, particles, region, symmetry=symmetry, device=device)
            save_checkpoint(path, {"volume": volume, "evidence": torch.from_numpy(explained)}, {"key": key})
        else:
            volume, explained = loaded[0]["volume"], loaded[0]["evidence"].numpy()
        get_logger().info("seed %d of %d: log evidence %.2f a particle", number + 1, seeds, explained.mean())
        volumes.append(volume)
        evidence.append(explained)
    return Seeds(volumes, np.stack(evidence))


def _pass_through(
    state: PassState,
    particles: HalfParticles,
    region: Region,
    levels: tuple[Level, ...],
    path: Path,
    key: str,
    *,
    symmetry: str,
    seed: int,
    device: torch.device,
) -> tuple[PassState, FoundPoses, list[dict[str, Any]]]:
    """All passes that are left, each kept on disk."""
    loaded = load_checkpoint(path, key=key)
    history: list[dict[str, Any]] = []
    if loaded is not None:
        tensors, kept = loaded
        history = kept["history"]
        found = FoundPoses(**{name: tensors[name] for name in FoundPoses.__dataclass_fields__})
        counters = {name: kept[name] for name in _COUNTERS}
        state = PassState(tensors["volume"], found.shifts_px, tensors["known"], evidence=tuple(kept["evidence"]), found=found, **counters)
    for reached, told in run_passes(state, particles, region, levels, symmetry=symmetry, seed=seed, device=device):
        state = reached
        history.append(told)
        tensors = {"volume": state.volume, "known": state.known, **vars(state.found)}
        counters = {name: getattr(state, name) for name in _COUNTERS}
        save_checkpoint(path, tensors, {"key": key, "history": history, "evidence": list(state.evidence), **counters})
    if state.found is None:
        raise CryorestoreError(f"{path}: holds no pass; remove it and run the step again")
    return state, state.found, history
