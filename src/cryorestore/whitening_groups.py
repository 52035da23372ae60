"""The groups that images are whitened by, and the file that tells with what."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path
from cryorestore.particles import ParticleTable

WHITEN = ("none", "micrograph", "half_and_optics_group")


@dataclass(frozen=True)
class Groups:
    """The group of each particle: `number` (n,) counts in `labels`."""

    labels: list[str]
    number: NDArray[np.int64]


def whitening_groups(table: ParticleTable, whiten: str) -> Groups:
    """The groups that `whiten` names.

    Raises
    ------
    CryorestoreError
        If `whiten` is unknown, or the table does not say the micrographs or the half-sets.
    """
    if whiten not in WHITEN:
        raise CryorestoreError(f"whiten: found {whiten!r}, expected one of {', '.join(WHITEN)}; choose one")
    if whiten == "none":
        return Groups([], np.zeros(len(table), np.int64))
    if whiten == "micrograph":
        if "rlnMicrographName" not in table.particles:
            raise CryorestoreError(
                f"{table.path}: column _rlnMicrographName is missing, expected it for normalize.whiten micrograph; add it, "
                "or choose half_and_optics_group"
            )
        return _numbered(table.micrograph_names())
    halves = table.halves()
    unknown = np.flatnonzero(halves == 0)
    if unknown.size:
        raise CryorestoreError(
            f"{table.path}: row {int(unknown[0]) + 1}: found no half-set (rlnRandomSubset is absent or 0 in {unknown.size} of {len(table)} rows), "
            "expected 1 or 2 for normalize.whiten half_and_optics_group: one spectrum of both halves would make them depend on each other; "
            "choose micrograph, or give particles with half-sets"
        )
    pairs = zip(halves.tolist(), table.optics_groups().tolist(), strict=True)
    return _numbered([f"half {half}, optics group {group}" for half, group in pairs])


def _numbered(labels: Sequence[str]) -> Groups:
    numbers: dict[str, int] = {}
    of_each = np.array([numbers.setdefault(label, len(numbers)) for label in labels], np.int64)
    return Groups(list(numbers), of_each)


def write_spectra(path: str | Path, groups: Groups, counts: NDArray[np.int64], power: NDArray[np.floating], *, pixel_size: float) -> None:
    """Write a row a group: group, images (`counts`), then the power (groups, shells) in each shell under its spatial frequency (1/angstrom)."""
    shells = power.shape[1]
    frequencies = np.arange(shells) / (max(2 * (shells - 1), 1) * pixel_size)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["group", "images", *(f"{frequency:.6g}" for frequency in frequencies)])
        for label, count, values in zip(groups.labels, counts.tolist(), power.tolist(), strict=True):
            table.writerow([label, count, *(f"{value:.9g}" for value in values)])
