"""What controls do with some particles of a half: restore them, or what is put in their place, and make a map of the outcome."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.batches import fixed_batches
from cryorestore.ctf import ctf_2d
from cryorestore.fsc import FscCurve, fourier_shell_correlation
from cryorestore.identity import particle_identities
from cryorestore.masks import soft_sphere
from cryorestore.particles import ParticleTable
from cryorestore.pose_tensors import pose_tensors
from cryorestore.reconstruct.native import BackProjector, backproject
from cryorestore.reference import seeded_noise
from cryorestore.restore import Restorer
from cryorestore.seeds import derived_seeds

Rows = NDArray[np.int64]
Source = Callable[[Rows, Sequence[int]], Float[Tensor, "b box box"]]
"""Images to restore for some rows of a table, from the rows and a seed for each."""
FIRST_SHELL = 3
"""Means over shells begin here: below, every centred blob agrees with every other."""


@dataclass(frozen=True)
class RestoredRows:
    """Restored images (n, box, box) and log evidence (n,), NaN where the method has none."""

    images: Float[Tensor, "n box box"]
    log_evidence: NDArray[np.float64]


def chosen_rows(candidates: Rows, count: int, *, seed: int) -> Rows:
    """A seeded choice of at most `count` of the candidates, in their order."""
    picked = np.random.default_rng(seed).permutation(len(candidates))[:count]
    return candidates[np.sort(picked)]


def particle_seeds(table: ParticleTable, rows: Rows, *, seed: int) -> list[int]:
    """The seeds that the particles of some rows are restored with by the step restore_particles."""
    every = derived_seeds(seed, particle_identities(table), purpose="restore")
    return [every[row] for row in rows]


def particles_themselves(table: ParticleTable) -> Source:
    """The images of the table."""
    return lambda rows, seeds: torch.from_numpy(table.load_images(rows))


def noise_alone(restorer: Restorer, *, box_size: int) -> Source:
    """Noise with the spectrum that the restorer's half has in its background."""
    return lambda rows, seeds: seeded_noise(seeds, restorer.conditions.reference.noise_power, box_size=box_size)


def prepared(images: Float[Tensor, "n box box"], seeds: Sequence[int]) -> Source:
    """Images that are there already, each known by its seed."""
    places = {seed: place for place, seed in enumerate(seeds)}
    return lambda rows, drawn: images[[places[seed] for seed in drawn]]


def restore_rows(
    table: ParticleTable, rows: Rows, restorer: Restorer, source: Source, *, seeds: Sequence[int], batch_size: int, description: str
) -> RestoredRows:
    """Restore what `source` puts at the poses and CTFs of some rows; a row may come more than once.

    Parameters
    ----------
    table, rows
        Posed particles of one half, and which of them lend their pose and CTF.
    restorer
        Of that half, or of the other where that is the question.
    seeds
        One an image.
    """
    box_size, pixel_size = table.box_size, table.pixel_size
    rotations, shifts = pose_tensors(table)
    parameters = table.ctf_parameters()
    images, evidence = torch.empty(len(rows), box_size, box_size), np.full(len(rows), np.nan)
    with torch.no_grad():
        for places, real in fixed_batches(len(rows), batch_size, description=description):
            chosen, drawn = rows[places], [seeds[place] for place in places]
            ctf = ctf_2d(parameters.take(chosen), box_size=box_size, pixel_size=pixel_size)
            restored = restorer(source(chosen, drawn), ctf, rotations[chosen], shifts[chosen], drawn)
            images[torch.from_numpy(places[:real])] = restored.images[:real]
            if restored.log_evidence is not None:
                evidence[places[:real]] = restored.log_evidence[:real].numpy()
    return RestoredRows(images, evidence)


def map_of(table: ParticleTable, rows: Rows, images: Float[Tensor, "n box box"], *, batch: int = 64) -> Float[Tensor, "box box box"]:
    """The native map of images at the poses and CTFs of `rows`; no symmetry, so that maps of few images are judged alike."""
    rotations, shifts = pose_tensors(table)
    parameters = table.ctf_parameters()
    projector = BackProjector(table.box_size)
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        ctf = ctf_2d(parameters.take(chosen), box_size=table.box_size, pixel_size=table.pixel_size)
        backproject(images[start : start + batch], ctf, rotations[chosen], shifts[chosen], projector)
    return projector.volume()


@dataclass(frozen=True)
class Comparison:
    """How maps are compared: by their FSC under the soft sphere round the particle; all in angstrom."""

    pixel_size: float
    mask_radius: float
    mask_edge: float

    def sphere(self, box_size: int) -> Float[Tensor, "box box box"]:
        """The mask."""
        return soft_sphere(box_size, self.mask_radius / self.pixel_size, self.mask_edge / self.pixel_size)

    def fsc(self, first: Tensor, second: Tensor, *, mask: Tensor | None = None) -> FscCurve:
        """FSC of two maps under the sphere, or under another mask."""
        used = self.sphere(first.shape[-1]) if mask is None else mask
        return fourier_shell_correlation(first * used, second * used, pixel_size=self.pixel_size)


def mean_over_shells(curve: FscCurve, first: int, last: int) -> float:
    """Mean correlation of the shells `first` to `last`, both counted."""
    return float(curve.correlation[first : last + 1].mean())
