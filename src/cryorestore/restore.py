"""Restored particles: one image out for each image in, same order, same metadata, with evidence and deviation beside them."""

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.baselines.filters import FILTERS, build_filter
from cryorestore.batches import fixed_batches
from cryorestore.belonging import check_restorable
from cryorestore.conditions import ConditionMaker
from cryorestore.ctf import ctf_2d
from cryorestore.diffusion.denoiser import Denoiser, load_denoiser
from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path, files_together
from cryorestore.general.method import GENERAL, SHIPPED, HalfWithGeneral
from cryorestore.general.restorer import GeneralRestorer
from cryorestore.identity import particle_identities
from cryorestore.io.mrc import MrcStackWriter
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable
from cryorestore.pose_tensors import shift_tensor
from cryorestore.postprocess import PostProcessor, load_postprocess
from cryorestore.reconstruct.step import ACCEPTED_COLUMN
from cryorestore.reference import Reference
from cryorestore.seeds import derived_seeds
from cryorestore.sharding import shard_rows

ROW_COLUMN = "rlnCryorestoreRow"
EVIDENCE_COLUMN = "rlnCryorestoreLogEvidence"


@dataclass(frozen=True)
class Restored:
    """A batch of restored particles in the grey scale of the input."""

    images: Float[Tensor, "b box box"]
    deviation: Float[Tensor, "b box box"] | None
    log_evidence: Float[Tensor, "b"] | None
    network_evaluations: int
    """a particle"""


@dataclass(frozen=True)
class Restorer:
    """One method of one half: conditions, then a network, then the post-processing network; without a network one of the conditions is the result."""

    conditions: ConditionMaker
    denoiser: Denoiser | None
    postprocessor: PostProcessor | None
    sampler: str
    sampler_steps: int
    samples: int
    result: str = "mean"
    """the condition that is the result where there is no network"""
    general: HalfWithGeneral | None = None
    """the network of other proteins, where it is the method"""

    @property
    def has_evidence(self) -> bool:
        """Whether the method says how likely it is that there is a particle."""
        return self.conditions.has_posterior or self.general is not None

    def __call__(self, images: Tensor, ctf: Tensor, rotations: Tensor, shifts_px: Tensor, seeds: Sequence[int]) -> Restored:
        """Restore a batch; every batch must have the same size, or sums may differ in the last digit."""
        if self.general is not None:
            found = self.general(images, ctf)
            return Restored(found.images, found.deviation, found.log_evidence, 1)
        conditions = self.conditions(images, ctf, rotations, shifts_px, seeds)
        channels, deviation = conditions.channels, conditions.channels.get("deviation")
        evaluations = 0
        if self.denoiser is None:
            restored = channels[self.result]
        else:
            restored, evaluations = self.denoiser.restore(
                channels, sampler=self.sampler, steps=self.sampler_steps, seeds=list(seeds), samples=self.samples
            )
        if self.postprocessor is not None:
            restored, evaluations = self.postprocessor.apply(restored, channels), evaluations + 1
        return Restored(restored, deviation, conditions.log_evidence, evaluations)


def load_restorer(
    *,
    reference_map: str | Path,
    noise_json: str | Path,
    diffusion_weights: str | Path | None,
    postprocess_weights: str | Path | None,
    condition: Sequence[str],
    sampler: str,
    sampler_steps: int,
    samples: int,
    rotation_sigma: float,
    shift_sigma: float,
    posterior_rotations: Sequence[int],
    device: str,
    precision: str,
    mask_radius: float | None = None,
    mask_edge: float = 12.0,
    particles: ParticleTable | None = None,
    peer_python: str | None = None,
    general_weights: str = SHIPPED,
    general_diameter: float | None = None,
    general_whiten: str = "none",
) -> Restorer:
    """Put a method together from its half's files; without diffusion weights its one condition is the result.

    Raises
    ------
    CryorestoreError
        If there are neither weights nor one condition, or a condition lacks what it needs (`build_filter`).
    """
    results = [name for name in condition if name != "deviation"]
    if diffusion_weights is None and len(results) != 1:
        raise CryorestoreError(f"condition: found {list(condition)} and no diffusion weights, expected one name: the image that is the result then")
    reference = Reference.read(reference_map, noise_json)
    build = partial(build_filter, reference=reference, mask_radius=mask_radius, mask_edge=mask_edge, particles=particles, peer_python=peer_python)
    maker = ConditionMaker(
        reference,
        condition,
        rotation_sigma=rotation_sigma,
        shift_sigma=shift_sigma,
        posterior_rotations=posterior_rotations,
        filters={name: build(name) for name in condition if name in FILTERS},
    )
    general = None
    if GENERAL in condition:
        diameter = 2 * mask_radius if general_diameter is None and mask_radius is not None else general_diameter
        shipped = GeneralRestorer.load(None if general_weights == SHIPPED else general_weights, device=device, precision=precision)
        general = HalfWithGeneral.of(shipped, reference, diameter=diameter, whiten=general_whiten)
    denoiser = None if diffusion_weights is None else load_denoiser(diffusion_weights, device=device, precision=precision)
    postprocessor = None if postprocess_weights is None else load_postprocess(postprocess_weights, device=device, precision=precision)
    return Restorer(maker, denoiser, postprocessor, sampler, sampler_steps, samples, next(iter(results), "mean"), general)


@files_together()
def restore_particles(
    *,
    star: str | Path,
    reference_map: str | Path,
    noise_json: str | Path,
    restored_stack: str | Path,
    restored_star: str | Path,
    evidence_csv: str | Path,
    deviation_stack: str | Path | None = None,
    diffusion_weights: str | Path | None = None,
    postprocess_weights: str | Path | None = None,
    condition: Sequence[str] = ("noisy", "phase_flipped", "wiener", "mean", "deviation"),
    sampler: str = "mean",
    sampler_steps: int = 1,
    samples: int = 1,
    rotation_sigma: float,
    shift_sigma: float,
    posterior_rotations: Sequence[int] = (96, 64, 64),
    evidence_threshold: float = 0.5,
    batch_size: int = 16,
    device: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    mask_radius: float | None = None,
    mask_edge: float = 12.0,
    peer_python: str | None = None,
    general_weights: str = SHIPPED,
    general_diameter: float | None = None,
    general_whiten: str = "none",
    seed: int = 1,
    shard: int = 1,
    shards: int = 1,
) -> None:
    """Restore the particles of one half with what was learned from that half.

    Parameters
    ----------
    star
        Normalized particles of one half, in the order that is kept.
    reference_map, noise_json
        The half's own, from make_training_pairs.
    restored_stack, restored_star, evidence_csv
        Outputs: images (CTF still applied), the input's table pointing to them, and one row of evidence a particle.
        No stack is written where there is no particle.
    deviation_stack
        Output: posterior standard deviation of each pixel; only for methods that look at poses.
    diffusion_weights, postprocess_weights
        The half's own networks; both may be absent (the one channel of `condition` is then the result).
    condition
        Channels that the method computes: "noisy", "phase_flipped", "wiener", the pose posterior's "mean" and "deviation", and the methods without a
        network "low_pass", "wiener_masked", "cwf" (covariance Wiener filter), "projection" (the half's map at the given pose), "topaz", "bm3d", and
        "general", the network that was trained on other proteins.
    sampler, sampler_steps, samples
        How the diffusion model is evaluated, and how many draws are averaged.
    rotation_sigma, shift_sigma
        Rms error of the given poses, degrees and angstrom.
    posterior_rotations
        Rotations drawn in each round of the pose posterior.
    evidence_threshold
        A particle is accepted if the posterior probability that it is there at all exceeds this.
    batch_size, device, precision, threads
        How it is computed.
    mask_radius, mask_edge
        Soft disc of "wiener_masked", angstrom.
    peer_python
        The Python of the environment that has Topaz or BM3D.
    general_weights
        Of the method "general": "general", those of the package, or a file.
    general_diameter
        Of the particle, angstrom, by which the sampling of the method "general" is chosen; None: twice mask_radius.
    general_whiten
        For the method "general": "none", or "background": by the spectrum of the half's background.
    seed
        Of draws; those of a particle depend on its identity alone.
    shard, shards
        Restore this one (from 1) of so many parts of the particles; `gather_shards` puts them together.

    Raises
    ------
    CryorestoreError
        If particles, reference and networks do not belong together (`belonging.check_restorable`), an image cannot be read, or a batch does not
        fit into the GPU's memory.
    """
    torch.set_num_threads(threads)
    everything = ParticleTable.read(star)
    rows = shard_rows(len(everything), batch_size, shard=shard, shards=shards)
    table = everything.take(rows)
    if len(table) == 0:
        get_logger().warning("%s holds no particle%s: the tables are written empty, and no stack", star, "" if shards == 1 else " for this shard")
        table.write(restored_star)
        nothing = np.empty(0)
        _write_evidence(evidence_csv, table, nothing, *judge_evidence(nothing, threshold=evidence_threshold), first_row=0)
        return
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
        particles=everything,
        peer_python=peer_python,
        general_weights=general_weights,
        general_diameter=general_diameter,
        general_whiten=general_whiten,
    )
    check_restorable(table, restorer.conditions.reference, [path for path in (diffusion_weights, postprocess_weights) if path is not None])
    batches = _restored_batches(table, restorer, batch_size=batch_size, seed=seed)
    log_evidence, hashes, evaluations = _write_stacks(batches, table, restored_stack, deviation_stack)
    probability, accepted = judge_evidence(log_evidence, threshold=evidence_threshold)
    out = table.with_images(restored_stack, box_size=table.box_size, hashes=hashes).with_columns({ACCEPTED_COLUMN: accepted.astype(np.int64)})
    if not np.isnan(log_evidence).all():
        out = out.with_columns({EVIDENCE_COLUMN: log_evidence})
    _write_evidence(evidence_csv, table, log_evidence, probability, accepted, first_row=rows.start)
    out.write(restored_star)
    get_logger().info("restored %d particles, %d accepted, %d network evaluations each", len(table), accepted.sum(), evaluations)


def _write_stacks(
    batches: Iterable[tuple[NDArray[np.int64], Restored]], table: ParticleTable, restored_stack: str | Path, deviation_stack: str | Path | None
) -> tuple[NDArray[np.float64], list[str], int]:
    """Write restored images, and deviations where they are wanted.

    Returns the log evidence (n,), NaN where there is none, the images' hashes, and the network evaluations of a particle.
    """
    log_evidence, evaluations = np.full(len(table), np.nan), 0
    with ExitStack() as stack, torch.no_grad():

        def writer(path: str | Path) -> MrcStackWriter:
            return stack.enter_context(MrcStackWriter(path, count=len(table), box_size=table.box_size, pixel_size=table.pixel_size))

        images_out = writer(restored_stack)
        deviation_out = None if deviation_stack is None else writer(deviation_stack)
        for rows, restored in batches:
            images_out.append(restored.images.numpy())
            evaluations = restored.network_evaluations
            if deviation_out is not None:
                if restored.deviation is None:
                    raise CryorestoreError("deviation_stack: this method looks at no poses and knows no deviation; leave the option out")
                deviation_out.append(restored.deviation.numpy())
            if restored.log_evidence is not None:
                log_evidence[rows] = restored.log_evidence.numpy()
    return log_evidence, images_out.hashes, evaluations


def _restored_batches(table: ParticleTable, restorer: Restorer, *, batch_size: int, seed: int) -> Iterator[tuple[NDArray[np.int64], Restored]]:
    """Restore in batches of one fixed size along the table's order; the last is filled up with its last row, and the filling dropped."""
    count, box_size, pixel_size = len(table), table.box_size, table.pixel_size
    parameters, seeds = table.ctf_parameters(), derived_seeds(seed, particle_identities(table), purpose="restore")
    posed = restorer.conditions.needs_poses
    rotations = torch.from_numpy(table.rotation_matrices()).float() if posed else torch.eye(3).expand(count, 3, 3)
    shifts = shift_tensor(table)
    for rows, real in fixed_batches(count, batch_size, description="restore particles"):
        images = torch.from_numpy(table.load_images(rows))
        ctf = ctf_2d(parameters.take(rows), box_size=box_size, pixel_size=pixel_size)
        try:
            restored = restorer(images, ctf, rotations[rows], shifts[rows], [seeds[row] for row in rows])
        except torch.OutOfMemoryError as error:
            raise CryorestoreError(
                f"out of GPU memory with {batch_size} images at once; lower compute.batch_size, on which the last digits of the results depend"
            ) from error
        yield rows[:real], first_of(restored, real)


def first_of(restored: Restored, count: int) -> Restored:
    """The first `count` particles of a batch."""
    return Restored(
        restored.images[:count],
        None if restored.deviation is None else restored.deviation[:count],
        None if restored.log_evidence is None else restored.log_evidence[:count],
        restored.network_evaluations,
    )


def judge_evidence(log_evidence: NDArray[np.float64], *, threshold: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probability that there is a particle (even odds beforehand), and whether it is accepted; without evidence all are."""
    probability = 1 / (1 + np.exp(-np.clip(log_evidence, -700, 700)))
    return probability, np.isnan(log_evidence) | (probability > threshold)


def _write_evidence(
    path: str | Path,
    table: ParticleTable,
    log_evidence: NDArray[np.float64],
    probability: NDArray[np.float64],
    accepted: NDArray[np.bool_],
    *,
    first_row: int,
) -> None:
    rows = table.particles.column(ROW_COLUMN) if ROW_COLUMN in table.particles else [str(first_row + row) for row in range(len(table))]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", "image_name", "log_evidence", "probability", "accepted"])
        for row, name, value, chance, kept in zip(rows, table.particles.column("rlnImageName"), log_evidence, probability, accepted, strict=True):
            numbers = ["", ""] if math.isnan(value) else [f"{value:.4f}", f"{chance:.6f}"]
            writer.writerow([row, name, *numbers, int(kept)])
