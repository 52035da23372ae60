"""A map of the raw particles of one half at the poses that the half's own map makes likely.

Every particle is put back at equally likely draws from its pose posterior instead of at its one given pose (one step of expectation
maximisation), and particles that the evidence takes for noise are left out. The map is linear in the raw images, in every shell: what the half's
map brings in is where an image goes, never what it shows. How far that map is trusted is measured shell by shell, by the correlation of the odd
and even particles' maps at the given poses: its weights end where these stop to agree, its error adds to the noise, and the same correlation, not
that of the new odd and even maps, sets the damping of the solution. The new ones have a reference in common, so that their correlation is too high.

How wide to look round the given poses is measured too: by the evidence that odd particles find in the even particles' map and even ones in the odd
particles', over a few widths up to the stated one. In a map that they are part of, particles find their given poses too good.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.batches import fixed_batches
from cryorestore.belonging import check_restorable
from cryorestore.ctf import ctf_2d
from cryorestore.errors import CryorestoreError
from cryorestore.files import files_together, write_json
from cryorestore.geometry import matrices_to_euler
from cryorestore.identity import particle_identities
from cryorestore.io.mrc import read_map
from cryorestore.io.star import Cells
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable
from cryorestore.pose_tensors import pose_tensors
from cryorestore.posterior import LocalPosterior, PosteriorResult
from cryorestore.project import FourierVolume
from cryorestore.reconstruct.native import OddEvenProjectors
from cryorestore.reconstruct.step import ACCEPTED_COLUMN, MINIMUM_PARTICLES, used_rows, write_maps
from cryorestore.reference import Reference
from cryorestore.seeds import derived_seeds

WIDTHS = (0.25, 0.5, 1.0)
"""Tried as factors on the stated error of the poses."""
WIDTH_PARTICLES = 128
"""Particles that the width is chosen by."""


@dataclass
class _Poses:
    """What the posteriors of n particles say; filled batch by batch."""

    count: int
    rotations: NDArray[np.float64] = field(init=False)
    shifts_px: NDArray[np.float64] = field(init=False)
    log_evidence: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.rotations, self.shifts_px = np.zeros((self.count, 3, 3)), np.zeros((self.count, 2))
        self.log_evidence = np.zeros(self.count)

    def keep(self, rows: NDArray[np.int64], result: PosteriorResult) -> None:
        real = len(rows)
        self.rotations[rows] = result.poses.mean_rotations[:real].double().numpy()
        self.shifts_px[rows] = result.poses.mean_shifts_px[:real].double().numpy()
        self.log_evidence[rows] = result.log_evidence[:real].double().numpy()


def fuse_map(
    *,
    star: str | Path,
    raw_map_odd: str | Path,
    raw_map_even: str | Path,
    reference_map: str | Path,
    noise_json: str | Path,
    map: str | Path,
    map_odd: str | Path,
    map_even: str | Path,
    mean_pose_star: str | Path,
    figures: str | Path,
    symmetry: str = "C1",
    mask_radius: float,
    mask_edge: float,
    rotation_sigma: float,
    shift_sigma: float,
    posterior_rotations: Sequence[int] = (96, 64, 64),
    evidence_threshold: float = 0.5,
    batch_size: int = 16,
    threads: int = 1,
    seed: int = 1,
) -> None:
    """Reconstruct raw particles of one half at draws from their pose posterior, and write their mean poses.

    Parameters
    ----------
    star
        Raw particles of one half with their given poses; held-out ones are left out.
    raw_map_odd, raw_map_even
        The half's own, of its odd and even particles at the given poses: what the reference was made from.
    reference_map, noise_json
        The half's own, from make_training_pairs.
    map, map_odd, map_even
        Outputs: of all used particles, and of those at odd and even places.
    mean_pose_star
        Output: the table with each used particle's pose replaced by its posterior's mean and rlnCryorestoreAccepted; for a map of the same
        raw particles at one pose each.
    figures
        Output (JSON): how many particles went in, how far poses moved, and how far the reference was trusted.
    symmetry
        Point group, as RELION names it.
    mask_radius, mask_edge
        Soft sphere round the particle, angstrom.
    rotation_sigma, shift_sigma
        Rms error of the given poses at most, degrees and angstrom; a quarter and a half of it are tried too.
    posterior_rotations
        Rotations drawn in each round of the pose posterior.
    evidence_threshold
        A particle enters if the posterior probability that it is there at all exceeds this.
    batch_size, threads
        How it is computed.
    seed
        Of draws; those of a particle depend on its identity alone.

    Raises
    ------
    CryorestoreError
        If particles and reference do not belong together, too few are accepted, or a map is empty or not finite.
    """
    torch.set_num_threads(threads)
    everything = ParticleTable.read(star)
    rows = used_rows(everything)
    table, reference = everything.take(rows), Reference.read(reference_map, noise_json)
    check_restorable(table, reference, [])
    search = _Search(rotation_sigma, shift_sigma / reference.pixel_size, tuple(posterior_rotations), batch_size, seed)
    crossed = [
        _of_parity(reference, read_map(path)[0], mask_radius=mask_radius, mask_edge=mask_edge, seed=seed) for path in (raw_map_even, raw_map_odd)
    ]
    evidences = {width: _crossed_evidence(table, crossed, search.narrowed(width)) for width in WIDTHS}
    chosen = max(WIDTHS, key=lambda width: evidences[width])
    search = search.narrowed(chosen)
    smallest = float(np.log(evidence_threshold) - np.log1p(-evidence_threshold))
    projectors, poses = OddEvenProjectors(table.box_size, symmetry=symmetry), _Poses(len(table))
    for batch in _batches(table, reference, search):
        poses.keep(batch.rows, batch.result)
        _insert(projectors, batch, smallest=smallest)
    accepted = poses.log_evidence > smallest
    if accepted.sum() < MINIMUM_PARTICLES:
        raise CryorestoreError(
            f"{star}: the evidence takes {accepted.sum()} of {len(table)} particles for particles, expected at least {MINIMUM_PARTICLES}; "
            "look at the half's map, poses.rotation_sigma and poses.shift_sigma"
        )
    maps = projectors.solve(pixel_size=table.pixel_size, correlation=_correlation(reference.fsc_weights))
    with files_together():
        write_maps(maps, map=map, map_odd=map_odd, map_even=map_even, pixel_size=table.pixel_size, maker="fuse_map")
        _with_mean_poses(everything, rows, poses, accepted).write(mean_pose_star)
        content = _figures(table, reference, poses, accepted)
        write_json(figures, content | {"width": chosen, "evidence_a_particle_by_width": {f"{width:g}": evidences[width] for width in WIDTHS}})


@dataclass(frozen=True)
class _Search:
    """How poses are looked for."""

    rotation_sigma: float
    shift_sigma_px: float
    rotations: tuple[int, ...]
    batch_size: int
    seed: int

    def narrowed(self, width: float) -> "_Search":
        return replace(self, rotation_sigma=self.rotation_sigma * width, shift_sigma_px=self.shift_sigma_px * width)

    def posterior(self, reference: Reference) -> LocalPosterior:
        return LocalPosterior(
            FourierVolume(reference.volume, max_shell=reference.max_shell),
            noise_power=reference.noise_power,
            map_error_power=reference.map_error_power,
            rotation_sigma=self.rotation_sigma,
            shift_sigma=self.shift_sigma_px,
            rotations=self.rotations,
        )


def _of_parity(reference: Reference, volume: NDArray[np.float32], *, mask_radius: float, mask_edge: float, seed: int) -> Reference:
    """The reference as the odd or the even particles alone know it: their map, with the weights of half as many particles."""
    return reference.of_map(torch.from_numpy(volume), _correlation(reference.fsc_weights), mask_radius=mask_radius, mask_edge=mask_edge, seed=seed)


def _crossed_evidence(table: ParticleTable, crossed: Sequence[Reference], search: _Search) -> float:
    """Mean log evidence of some particles, each in the map of the particles of the other parity."""
    found: list[Tensor] = []
    for parity, reference in enumerate(crossed):
        rows = np.arange(parity, len(table), 2)
        some = table.take(rows[np.linspace(0, len(rows) - 1, min(len(rows), WIDTH_PARTICLES // 2)).astype(np.int64)])
        found += [batch.result.log_evidence[: len(batch.rows)] for batch in _batches(some, reference, search)]
    return float(torch.cat(found).double().mean())


@dataclass(frozen=True)
class _Batch:
    rows: NDArray[np.int64]
    images: Float[Tensor, "b box box"]
    ctf: Float[Tensor, "b box half"]
    result: PosteriorResult


def _batches(table: ParticleTable, reference: Reference, search: _Search) -> Iterator[_Batch]:
    """Batches of one fixed size; `rows` are the real ones, the images and results beyond them the last one's copies."""
    posterior = search.posterior(reference)
    pixel_size, box_size, parameters = table.pixel_size, table.box_size, table.ctf_parameters()
    seeds = derived_seeds(search.seed, particle_identities(table), purpose="fuse")
    rotations, shifts = pose_tensors(table)
    for rows, real in fixed_batches(len(table), search.batch_size, description="find poses"):
        images = torch.from_numpy(table.load_images(rows))
        ctf = ctf_2d(parameters.take(rows), box_size=box_size, pixel_size=pixel_size)
        result = posterior(images, ctf, rotations[rows], shifts[rows], [seeds[row] for row in rows])
        yield _Batch(rows[:real], images, ctf, result)


def _insert(projectors: OddEvenProjectors, batch: _Batch, *, smallest: float) -> None:
    """Add the accepted particles of a batch at every draw; each draw has the same weight, which the solution does not depend on."""
    coefficients = projectors.coefficients
    kept = np.flatnonzero(batch.result.log_evidence[: len(batch.rows)].numpy() > smallest)
    # no transform of an empty batch: it is an error in some libraries
    data, contrast = coefficients.from_images(batch.images)[kept], coefficients.select(batch.ctf[kept])
    rotations, shifts = batch.result.poses.rotations[kept], batch.result.poses.shifts_px[kept]
    for draw in range(rotations.shape[1]):
        projectors.insert(batch.rows[kept], data * coefficients.shift_phases(-shifts[:, draw]), contrast, rotations[:, draw])


def _correlation(weights: Float[Tensor, "shells"]) -> Float[Tensor, "shells"]:
    """The correlation that Wiener weights 2 FSC / (1 + FSC) came from."""
    return weights / (2 - weights)


def _with_mean_poses(everything: ParticleTable, rows: NDArray[np.int64], poses: _Poses, accepted: NDArray[np.bool_]) -> ParticleTable:
    """The whole table; what is not among `rows` keeps its cells."""
    angles = matrices_to_euler(poses.rotations)
    origins = -poses.shifts_px * everything.pixel_size
    columns: dict[str, Cells] = {}
    for name, values in zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), angles.T, strict=True):
        columns[name] = _replaced(everything, name, rows, values)
    for name, values in zip(("rlnOriginXAngst", "rlnOriginYAngst"), origins.T, strict=True):
        columns[name] = _replaced(everything, name, rows, values)
    flags = np.zeros(len(everything), np.int64)
    flags[rows] = accepted
    return everything.with_columns({**columns, ACCEPTED_COLUMN: flags})


def _replaced(table: ParticleTable, name: str, rows: NDArray[np.int64], values: NDArray[np.float64]) -> list[str]:
    cells = table.particles.column(name) if name in table.particles else ["0"] * len(table)
    for row, value in zip(rows, values, strict=True):
        cells[row] = f"{value:.6f}"
    return cells


def _figures(table: ParticleTable, reference: Reference, poses: _Poses, accepted: NDArray[np.bool_]) -> dict[str, Any]:
    between = np.einsum("nij,nij->n", poses.rotations, table.rotation_matrices())
    turned = np.degrees(np.arccos(np.clip((between - 1) / 2, -1, 1)))
    moved = poses.shifts_px * table.pixel_size + table.origins()
    get_logger().info("fused %d of %d particles; poses turned by %.2f degrees rms", accepted.sum(), len(table), np.sqrt((turned**2).mean()))
    return {
        "prior": "own half",
        "particles": len(table),
        "accepted": int(accepted.sum()),
        "turned_rms_degrees": float(np.sqrt((turned**2).mean())),
        "moved_rms_angstrom": float(np.sqrt((moved**2).sum(1).mean())),
        "reference_shells": reference.max_shell,
        "reference_resolution": reference.pixel_size * table.box_size / reference.max_shell,
        "reference_weights": reference.fsc_weights.tolist(),
        "note": "The odd and even maps have one reference in common: their correlation is no measure of this map.",
    }
