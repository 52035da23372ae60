"""Training pairs of one half-set: noisy particle and clean target, with every channel that a network may be shown."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from cryorestore.batches import fixed_batches
from cryorestore.belonging import refuse_premultiplied
from cryorestore.conditions import IMAGE_CONDITIONS, POSE_CONDITIONS, ConditionMaker
from cryorestore.ctf import ctf_2d
from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path
from cryorestore.geometry import perturb_rotations
from cryorestore.particles import ParticleTable
from cryorestore.project import FourierVolume
from cryorestore.reconstruct.step import used_rows
from cryorestore.reference import Reference, estimate_reference, seeded_noise
from cryorestore.seeds import derived_seeds


@dataclass(frozen=True)
class _Drawn:
    """Poses, CTF and content of n pairs, drawn from a half's own distribution."""

    rows: NDArray[Any]
    true_rotations: NDArray[Any]
    given_rotations: NDArray[Any]
    true_shifts: NDArray[Any]
    given_shifts: NDArray[Any]
    empty: NDArray[Any]


def make_training_pairs(
    *,
    star: str | Path,
    map: str | Path,
    map_odd: str | Path,
    map_even: str | Path,
    pairs: str | Path,
    reference_map: str | Path,
    noise_json: str | Path,
    kind: str = "simulated",
    count: int = 1500,
    empty_fraction: float = 0.1,
    validation_fraction: float = 0.1,
    mask_radius: float,
    mask_edge: float,
    bg_radius: float,
    max_resolution: float | None = None,
    rotation_sigma: float,
    shift_sigma: float,
    posterior_rotations: Sequence[int] = (96, 64, 64),
    with_posterior: bool = True,
    batch_size: int = 16,
    threads: int = 1,
    seed: int = 1,
) -> None:
    """Learn a half's reference and noise, and make its training pairs.

    Parameters
    ----------
    star
        Normalized particles of one half with poses; held-out ones are not looked at.
    map, map_odd, map_even
        The half's own maps.
    pairs, reference_map, noise_json
        Outputs: tensors (safetensors), the FSC-weighted map, its spectra and the evidence of the simulated particles.
    kind
        `simulated`: projections of the half's map with noise like its background; the target is exact.
        `projected`: the real particles, with the projection at their given pose as target; it carries the pose error.
    count
        Pairs to make (`projected`: at most one a particle).
    empty_fraction
        Share of simulated pairs that hold noise only, target zero.
    validation_fraction
        Share, at the end, that training only looks at to stop.
    mask_radius, mask_edge
        Soft sphere round the particle, angstrom.
    bg_radius
        Background circle, px.
    max_resolution
        Angstrom: the half's map is used no further than this; None = as far as its odd and even particles agree.
    rotation_sigma, shift_sigma
        Rms error of the given poses, degrees and angstrom.
    posterior_rotations
        Rotations drawn in each round of the pose posterior.
    with_posterior
        Whether the channels `mean` and `deviation` are wanted.
    batch_size, threads
        Fixed batch and torch threads: the same bytes whatever runs beside.
    seed
        Of everything drawn here.

    Raises
    ------
    CryorestoreError
        If `kind` is unknown, or the half's map is not good enough to learn from.
    """
    if kind not in ("simulated", "projected"):
        raise CryorestoreError(f"pairs kind: found {kind!r}, expected simulated or projected; change it in the configuration")
    torch.set_num_threads(threads)
    table = ParticleTable.read(star)
    table = table.take(used_rows(table))
    refuse_premultiplied(table)
    reference = estimate_reference(
        table,
        map=map,
        map_odd=map_odd,
        map_even=map_even,
        mask_radius=mask_radius,
        mask_edge=mask_edge,
        bg_radius=bg_radius,
        max_resolution=max_resolution,
        seed=seed,
    )
    names = (*IMAGE_CONDITIONS, *(POSE_CONDITIONS if with_posterior else ()))
    maker = ConditionMaker(reference, names, rotation_sigma=rotation_sigma, shift_sigma=shift_sigma, posterior_rotations=posterior_rotations)
    drawn = _draw(table, kind, count, empty_fraction, rotation_sigma=rotation_sigma, shift_sigma=shift_sigma / table.pixel_size, seed=seed)
    tensors, log_evidence = _fill(table, reference, maker, drawn, kind=kind, batch_size=batch_size, seed=seed)
    validation_from = len(drawn.rows) - round(validation_fraction * len(drawn.rows))
    # one key only: safetensors writes several in an order that changes from run to run
    config = {"kind": kind, "seed": seed, "pixel_size": reference.pixel_size, "validation_from": validation_from, "half": _only_half(table)}
    with atomic_path(pairs) as temporary:
        save_file(tensors, temporary, metadata={"config": json.dumps(config)})
    beside: dict[str, Any] = {}
    if log_evidence is not None:
        beside["simulated_log_evidence"] = {"particles": log_evidence[~drawn.empty].tolist(), "empty": log_evidence[drawn.empty].tolist()}
    reference.write(reference_map, noise_json, beside=beside)


def _only_half(table: ParticleTable) -> int | None:
    """The half that all particles belong to, by which networks trained on these pairs refuse the other half's particles."""
    halves = set(table.halves().tolist())
    return halves.pop() if len(halves) == 1 and 0 not in halves else None


def _draw(table: ParticleTable, kind: str, count: int, empty_fraction: float, *, rotation_sigma: float, shift_sigma: float, seed: int) -> _Drawn:
    generator = np.random.default_rng(seed)
    given_rotations, given_shifts = table.rotation_matrices(), -table.origins() / table.pixel_size
    if kind == "projected":
        rows = generator.permutation(len(table))[:count]
        return _Drawn(rows, given_rotations[rows], given_rotations[rows], given_shifts[rows], given_shifts[rows], np.zeros(len(rows), bool))
    rows = generator.integers(len(table), size=count)
    angle = generator.uniform(0, 2 * np.pi, count)
    in_plane = np.zeros((count, 3, 3))
    in_plane[:, 0, 0], in_plane[:, 0, 1], in_plane[:, 1, 0], in_plane[:, 1, 1] = np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)
    in_plane[:, 2, 2] = 1.0
    true_rotations = perturb_rotations(in_plane @ given_rotations[rows], rotation_error=rotation_sigma, generator=generator)
    true_shifts = given_shifts[generator.integers(len(table), size=count)]
    return _Drawn(
        rows=rows,
        true_rotations=true_rotations,
        given_rotations=perturb_rotations(true_rotations, rotation_error=rotation_sigma, generator=generator),
        true_shifts=true_shifts,
        given_shifts=true_shifts + generator.standard_normal((count, 2)) * shift_sigma / np.sqrt(2),
        empty=generator.permutation(count) < round(empty_fraction * count),
    )


def _fill(
    table: ParticleTable, reference: Reference, maker: ConditionMaker, drawn: _Drawn, *, kind: str, batch_size: int, seed: int
) -> tuple[dict[str, Tensor], Tensor | None]:
    slicer = FourierVolume(reference.volume, max_shell=reference.max_shell)
    parameters, box_size, count = table.ctf_parameters(), table.box_size, len(drawn.rows)
    tensors = {name: torch.zeros(count, box_size, box_size, dtype=torch.float16) for name in ("clean", *maker.names)}
    log_evidence = torch.zeros(count) if maker.has_posterior else None
    seeds = derived_seeds(seed, [str(number) for number in range(count)], purpose="training pair")
    for places, real in fixed_batches(count, batch_size, description="training pairs"):
        ctf = ctf_2d(parameters.take(drawn.rows[places]), box_size=box_size, pixel_size=reference.pixel_size)
        clean = _clean(slicer, ctf, drawn, places)
        if kind == "simulated":
            noisy = clean + seeded_noise([seeds[place] for place in places], reference.noise_power, box_size=box_size)
        else:
            noisy = torch.from_numpy(table.load_images(drawn.rows[places]))
        rotations, shifts = torch.from_numpy(drawn.given_rotations[places]).float(), torch.from_numpy(drawn.given_shifts[places]).float()
        conditions = maker(noisy, ctf, rotations, shifts, [seeds[place] for place in places])
        for name, values in {"clean": clean, **conditions.channels}.items():
            tensors[name][places[:real]] = values[:real].half()
        if log_evidence is not None and conditions.log_evidence is not None:
            log_evidence[places[:real]] = conditions.log_evidence[:real]
    return tensors, log_evidence


def _clean(slicer: FourierVolume, ctf: Tensor, drawn: _Drawn, places: NDArray[Any]) -> Float[Tensor, "b box box"]:
    coefficients = slicer.coefficients
    shifts = torch.from_numpy(drawn.true_shifts[places]).float()
    slices = slicer.slices(torch.from_numpy(drawn.true_rotations[places]).float())
    present = torch.from_numpy(~drawn.empty[places]).float()[:, None]
    return coefficients.to_images(slices * coefficients.select(ctf) * coefficients.shift_phases(shifts) * present)
