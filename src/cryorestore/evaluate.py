"""Score restored particles against the truth, on held-out true particles alone, beside the raw image and the Wiener filter."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.baselines.wiener import wiener_filter
from cryorestore.ctf import CtfParameters, ctf_2d
from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path, read_json, write_json
from cryorestore.io.mrc import MrcStackReader
from cryorestore.logs import progress
from cryorestore.masks import soft_disc
from cryorestore.metrics import Scores
from cryorestore.particles import ParticleTable
from cryorestore.truth import Truth

BATCH = 128
HISTOGRAM_BINS = 25


def evaluate_restoration(
    *,
    normalized_star: str | Path,
    half1_star: str | Path,
    half2_star: str | Path,
    restored1_star: str | Path,
    restored2_star: str | Path,
    noise1_json: str | Path,
    noise2_json: str | Path,
    statistics_csv: str | Path,
    evaluation: str | Path,
    montage: str | Path,
    evidence1: str | Path | None = None,
    evidence2: str | Path | None = None,
    deviation1: str | Path | None = None,
    deviation2: str | Path | None = None,
    truth_star: str | Path | None = None,
    truth_stack: str | Path | None = None,
    bg_radius: float,
    mask_radius: float,
    mask_edge: float = 12.0,
    montage_count: int = 12,
    network_evaluations: int = 1,
    seed: int = 0,
) -> None:
    """Write the evaluation of one method (JSON) and its montage (npz).

    Only held-out rows (rlnCryorestoreHoldout 1) that are true particles (truth's rlnClassNumber > 0) are scored; the truth is divided by
    each particle's background sigma, so that it stands on the grey scale of the normalized particles. Without truth the scores are null.

    Parameters
    ----------
    normalized_star, statistics_csv
        All normalized particles in order, and the background sigma of each.
    half1_star, half2_star, restored1_star, restored2_star
        The split particles and their restored images, row by row (rlnCryorestoreRow: row of `normalized_star`).
    noise1_json, noise2_json
        `noise_power` and `signal_power` per shell, measured on each half itself: all that the Wiener filter knows.
    evidence1, evidence2, deviation1, deviation2
        Evidence tables and stacks of the posterior deviation, in the order of the restored rows, where the method has them.
    truth_star, truth_stack
        True class of each pick and its clean image in counts: of simulated data only.
    evaluation, montage
        Outputs.
    bg_radius
        Radius of the background circle, px.
    mask_radius, mask_edge
        The Wiener filter's soft round mask, angstrom.
    montage_count
        How many particles the montage shows.
    network_evaluations
        Of the method, a particle: copied to the result.
    seed
        Of the montage's choice and the bootstrap.

    Raises
    ------
    CryorestoreError
        If rows do not join, or boxes differ.
    """
    table = ParticleTable.read(normalized_star)
    halves = [
        Half.read(*paths) for paths in ((half1_star, restored1_star, noise1_json, deviation1), (half2_star, restored2_star, noise2_json, deviation2))
    ]
    truth = None
    if truth_star is not None and truth_stack is not None:
        truth = Truth.read(table, truth_star=truth_star, truth_stack=truth_stack, statistics_csv=statistics_csv, bg_radius=bg_radius)
    mask = soft_disc(table.box_size, mask_radius / table.pixel_size, mask_edge / table.pixel_size)
    chosen = [half.scored_rows(truth) for half in halves]
    scores = Scores()
    if truth is not None:
        for half, rows in zip(halves, chosen, strict=True):
            for batch in progress(list(_batches(rows)), description="scoring"):
                scores.add(half.versions(batch, mask), truth.images(half.rows[batch]))
    true = None if truth is None else truth.is_particle
    content = scores.summarize(box_size=table.box_size, pixel_size=table.pixel_size, seed=seed) | {
        "truth": truth is not None,
        "particles_restored": sum(len(half.rows) for half in halves),
        "network_evaluations": network_evaluations,
        "wiener_mask_radius": mask_radius,
        "evidence": _summarize_evidence((evidence1, evidence2), [half.rows for half in halves], true),
    }
    write_json(evaluation, content)
    _write_montage(montage, halves, chosen, truth, mask, count=montage_count, seed=seed)


@dataclass(frozen=True)
class Half:
    """One half-set: raw and restored particles row by row."""

    raw: ParticleTable
    restored: ParticleTable
    rows: NDArray[np.int64]
    """row of each particle in the normalized table, shape (n,)"""
    holdout: NDArray[np.bool_]
    ctf: CtfParameters
    noise_power: Float[Tensor, "shells"]
    signal_power: Float[Tensor, "shells"]
    deviation: MrcStackReader | None

    @classmethod
    def read(cls, star: str | Path, restored_star: str | Path, noise_json: str | Path, deviation: str | Path | None) -> "Half":
        """Read both tables, check that they are one to one, and take the spectra that were measured on that half."""
        raw, restored = ParticleTable.read(star), ParticleTable.read(restored_star)
        rows = raw.particles.ints("rlnCryorestoreRow")
        if len(raw) != len(restored) or not np.array_equal(rows, restored.particles.ints("rlnCryorestoreRow")):
            raise CryorestoreError(
                f"{restored_star}: found {len(restored)} rows, expected the {len(raw)} of {star} in the same order (rlnCryorestoreRow); "
                "restore that half again"
            )
        if len(raw) and raw.box_size != restored.box_size:
            found, expected = restored.box_size, raw.box_size
            raise CryorestoreError(f"{restored_star}: found a box of {found} px, expected {expected} px as in {star}; restore that half again")
        spectra = read_json(noise_json)
        return cls(
            raw=raw,
            restored=restored,
            rows=rows,
            holdout=raw.particles.ints("rlnCryorestoreHoldout") == 1,
            ctf=raw.ctf_parameters(),
            noise_power=torch.tensor(spectra["noise_power"]),
            signal_power=torch.tensor(spectra["signal_power"]),
            deviation=None if deviation is None else MrcStackReader(deviation),
        )

    def scored_rows(self, truth: Truth | None) -> NDArray[np.int64]:
        """Held-out true particles; without truth, held-out particles, or all if none is held out."""
        if truth is not None:
            return np.flatnonzero(self.holdout & truth.is_particle[self.rows])
        return np.flatnonzero(self.holdout) if self.holdout.any() else np.arange(len(self.rows))

    def versions(self, batch: NDArray[np.int64], mask: Float[Tensor, "box box"]) -> dict[str, Float[Tensor, "n box box"]]:
        """Raw, Wiener-filtered and restored images of some rows."""
        raw = torch.from_numpy(self.raw.load_images(batch))
        ctf = ctf_2d(self.ctf.take(batch), box_size=raw.shape[-1], pixel_size=self.raw.pixel_size)
        wiener = wiener_filter(raw, ctf, signal_power=self.signal_power, noise_power=self.noise_power, mask=mask)
        return {"raw": raw, "wiener": wiener, "restored": torch.from_numpy(self.restored.load_images(batch))}


def _batches(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for begin in range(0, len(rows), BATCH):
        yield rows[begin : begin + BATCH]


def _write_montage(
    path: str | Path,
    halves: Sequence[Half],
    candidates: Sequence[NDArray[np.int64]],
    truth: Truth | None,
    mask: Float[Tensor, "box box"],
    *,
    count: int,
    seed: int,
) -> None:
    """Save every version of a seeded choice among the candidate rows of both halves."""
    pool = [(number, int(row)) for number, rows in enumerate(candidates) for row in rows]
    picked = sorted(np.random.default_rng(seed).permutation(len(pool))[:count].tolist())
    parts: dict[str, list[NDArray[Any]]] = {}
    for number, half in enumerate(halves):
        rows = np.array([pool[position][1] for position in picked if pool[position][0] == number], dtype=np.int64)
        if len(rows) == 0:
            continue
        arrays: dict[str, NDArray[Any]] = {name: images.numpy() for name, images in half.versions(rows, mask).items()}
        if truth is not None:
            arrays["truth"] = truth.images(half.rows[rows]).numpy()
        if half.deviation is not None:
            arrays["deviation"] = half.deviation.read(rows.tolist())
        arrays["image_names"] = np.array([half.raw.particles.column("rlnImageName")[row] for row in rows])
        for name, array in arrays.items():
            parts.setdefault(name, []).append(array)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **{name: np.concatenate(arrays) for name, arrays in parts.items()})


def _summarize_evidence(
    paths: Sequence[str | Path | None], rows: Sequence[NDArray[np.int64]], true: NDArray[np.bool_] | None
) -> dict[str, Any] | None:
    """Share of accepted particles, with truth that of true particles and of junk, and histograms of the probability; None without evidence."""
    accepted, probability, is_true = [], [], []
    for path, half_rows in zip(paths, rows, strict=True):
        if path is None:
            return None
        with Path(path).open(newline="", encoding="utf-8") as stream:
            cells = [(row["probability"], row["accepted"]) for row in csv.DictReader(stream)]
        if len(cells) != len(half_rows):
            raise CryorestoreError(f"{path}: found {len(cells)} rows, expected the {len(half_rows)} of its half-set; restore that half again")
        if not all(cell[0] for cell in cells):
            return None
        probability.append(np.array([float(cell[0]) for cell in cells]))
        accepted.append(np.array([cell[1] in ("1", "True", "true") for cell in cells]))
        is_true.append(np.ones(len(cells), bool) if true is None else true[half_rows])
    chance, kept, particle = np.concatenate(probability), np.concatenate(accepted), np.concatenate(is_true)
    edges = np.linspace(0.0, 1.0, HISTOGRAM_BINS + 1)
    groups = {"particles": np.ones(len(kept), bool)} if true is None else {"true particles": particle, "junk": ~particle}
    return {
        "accepted_fraction": _share(kept),
        "accepted_true_fraction": None if true is None else _share(kept[particle]),
        "accepted_junk_fraction": None if true is None else _share(kept[~particle]),
        "histogram_edges": edges.tolist(),
        "histograms": {label: np.histogram(chance[group], bins=edges)[0].tolist() for label, group in groups.items()},
    }


def _share(values: NDArray[np.bool_]) -> float | None:
    return float(values.mean()) if len(values) else None
