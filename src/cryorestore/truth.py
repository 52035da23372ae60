"""The truth of simulated data, joined to the particles that were extracted: read by the evaluation only."""

import csv
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.fourier import fourier_crop_2d
from cryorestore.io.mrc import MrcStackReader
from cryorestore.masks import background_mask
from cryorestore.particles import ParticleTable

SAME_PICK_PX = 1.0


@dataclass(frozen=True)
class Truth:
    """Class and clean image of each normalized particle."""

    is_particle: NDArray[np.bool_]
    """shape (n,), n rows of the normalized table: a true particle, no junk"""
    stack: MrcStackReader
    index: NDArray[np.int64]
    """shape (n,): image of `stack`"""
    sigma: NDArray[np.float64]
    """shape (n,): background sigma, counts, that the particle was divided by"""
    background: NDArray[np.bool_]
    """shape (box, box)"""

    @classmethod
    def read(
        cls,
        table: ParticleTable,
        *,
        truth_star: str | Path,
        truth_stack: str | Path,
        statistics_csv: str | Path,
        bg_radius: float,
    ) -> "Truth":
        """Join by micrograph and coordinates, for extraction may leave picks out.

        Raises
        ------
        CryorestoreError
            If a particle has no pick within 1 px in the truth, or the statistics have another number of rows.
        """
        picks = ParticleTable.read(truth_star)
        index = _match_picks(table, picks)
        return cls(
            is_particle=np.asarray(picks.particles.ints("rlnClassNumber")[index] > 0),
            stack=MrcStackReader(truth_stack),
            index=index,
            sigma=_read_sigmas(statistics_csv, len(table)),
            background=background_mask(table.box_size, bg_radius).numpy(),
        )

    def images(self, rows: NDArray[np.int64]) -> Float[Tensor, "n box box"]:
        """Clean images of some normalized rows on the normalized grey scale: background mean 0, divided by sigma, rescaled as the particles were."""
        clean = fourier_crop_2d(torch.from_numpy(self.stack.read(self.index[rows].tolist())), len(self.background))
        mean = clean[:, torch.from_numpy(self.background)].mean(1)
        return (clean - mean[:, None, None]) / torch.from_numpy(self.sigma[rows]).float()[:, None, None]


def _match_picks(table: ParticleTable, picks: ParticleTable) -> NDArray[np.int64]:
    """Row of `picks` for each particle: the nearest pick of the same micrograph (file name), at most SAME_PICK_PX away."""
    wanted, offered = _micrograph_rows(table), _micrograph_rows(picks)
    wanted_xy, offered_xy = _coordinates(table), _coordinates(picks)
    index = np.full(len(table), -1, np.int64)
    for name, rows in wanted.items():
        candidates = offered.get(name, np.empty(0, np.int64))
        if len(candidates):
            distance, nearest = cKDTree(offered_xy[candidates]).query(wanted_xy[rows], distance_upper_bound=SAME_PICK_PX)
            found = np.isfinite(distance)
            index[rows[found]] = candidates[np.asarray(nearest)[found]]
    lost = np.flatnonzero(index < 0)
    if lost.size:
        row = int(lost[0])
        raise CryorestoreError(
            f"{table.path}: row {row + 1}: found a particle at {wanted_xy[row].tolist()} px of {table.micrograph_names()[row]}, "
            f"expected a pick within {SAME_PICK_PX:g} px of it in {picks.path} ({lost.size} of {len(table)} rows have none); "
            "give the truth that belongs to these particles"
        )
    return index


def _micrograph_rows(table: ParticleTable) -> dict[str, NDArray[np.int64]]:
    names = np.array([PurePath(name).name for name in table.micrograph_names()])
    return {str(name): np.flatnonzero(names == name) for name in np.unique(names)}


def _coordinates(table: ParticleTable) -> NDArray[np.float64]:
    return np.stack([table.particles.floats("rlnCoordinateX"), table.particles.floats("rlnCoordinateY")], axis=1)


def _read_sigmas(path: str | Path, count: int) -> NDArray[np.float64]:
    with Path(path).open(newline="", encoding="utf-8") as stream:
        sigmas = np.array([float(row["sigma"]) for row in csv.DictReader(stream)])
    if len(sigmas) != count:
        raise CryorestoreError(f"{path}: found {len(sigmas)} rows, expected the {count} of the normalized particles; normalize them again")
    return sigmas
