"""A few hundred small particles and what their odd and even ones agree on, under one reading of their table."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.background import Background
from cryorestore.ctf import CtfParameters, ctf_2d
from cryorestore.errors import CryorestoreError
from cryorestore.fourier import fourier_crop_2d, hermitian_weights, radial_shells_3d
from cryorestore.fsc import fourier_shell_correlation
from cryorestore.geometry import symmetry_matrices
from cryorestore.particles import ParticleTable
from cryorestore.posed import posed_rows
from cryorestore.project import FourierVolume
from cryorestore.reconstruct.native import BackProjector, backproject, shared_out

LARGEST_BOX = 48
_BATCH = 64
_BACKGROUND_RADIUS = 0.45
"""Share of the box; only the grey scale depends on it."""


@dataclass(frozen=True)
class SmallParticles:
    """Particles of a small box with one reading of their table; another reading is a copy with other values."""

    images: Float[Tensor, "n box box"]
    """real space, background mean 0 and sigma 1 before cropping"""
    ctf: Float[Tensor, "n box half"]
    """on the frequencies of `rfft2`; ones where the table has none"""
    rotations: Float[Tensor, "n 3 3"]
    """zero where the particles have no pose"""
    shifts_px: Float[Tensor, "n 2"]
    """of the small box: minus the origin"""
    parameters: CtfParameters | None
    """None where the table has no CTF"""
    pixel_size: float
    """of the small box, angstrom"""
    full_pixel_size: float
    """of the images in the stack, angstrom"""
    premultiplied: bool
    posed: bool
    operators: Float[Tensor, "k 3 3"]
    """rotations of the point group"""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def box_size(self) -> int:
        """Px of the small box."""
        return int(self.images.shape[-1])

    def ctf_of(self, parameters: CtfParameters) -> Float[Tensor, "n box half"]:
        """The CTF of other parameters on this box."""
        return ctf_2d(parameters, box_size=self.box_size, pixel_size=self.pixel_size)


@dataclass(frozen=True)
class Agreement:
    """What odd and even particles agree on under one reading."""

    map: Float[Tensor, "box box box"]
    """mean of both maps"""
    correlation: Float[Tensor, "shells"]
    """their FSC, shells 0 .. box // 2"""
    area: float
    """mean of the FSC over the shells 1 .. box // 2 - 1"""
    scores: Float[Tensor, "n"]
    """correlation of each image with its projection of the map that it is not in"""

    def gain_over(self, other: "Agreement") -> float:
        """By how many standard errors the images agree better than under another reading of the same images (paired)."""
        difference = self.scores - other.scores
        error = float(difference.std(correction=0)) / math.sqrt(max(1, len(difference) - 1))
        return float(difference.mean()) / max(error, 1e-9)


def load_small_particles(table: ParticleTable, *, count: int, symmetry: str, seed: int, box_size: int = LARGEST_BOX) -> SmallParticles:
    """Draw `count` particles (with poses, if there are any) and bring them to a box of at most `box_size` px.

    Raises
    ------
    CryorestoreError
        If images are missing, the table is empty, or no image has a background that varies.
    """
    with_pose = posed_rows(table)
    posed = bool(with_pose.any())
    candidates = np.flatnonzero(with_pose) if posed else np.arange(len(table))
    if not len(candidates):
        raise CryorestoreError(f"{table.path}: found no rows, expected particles; check the step that wrote it")
    chosen = np.random.default_rng(seed).choice(candidates, min(count, len(candidates)), replace=False)
    taken = table.take(np.sort(chosen))
    full_box, full_pixel = taken.box_size, taken.pixel_size
    small = min(box_size, full_box) // 2 * 2
    images = _grey_scaled(taken, small)
    good = np.flatnonzero(images.isfinite().all(-1).all(-1).numpy())
    if not len(good):
        raise CryorestoreError(f"{table.path}: found no image among {len(taken)} whose background varies, expected particles; look at the stack")
    taken, images = taken.take(good), images[torch.from_numpy(good)]
    pixel_size = full_pixel * full_box / small
    parameters = _ctf_parameters(taken)
    ones = torch.ones(len(taken), small, small // 2 + 1)
    return SmallParticles(
        images=images,
        ctf=ones if parameters is None else ctf_2d(parameters, box_size=small, pixel_size=pixel_size),
        rotations=torch.from_numpy(taken.rotation_matrices()).float() if posed else torch.zeros(len(taken), 3, 3),
        shifts_px=torch.from_numpy(-taken.origins() / pixel_size).float(),
        parameters=parameters,
        pixel_size=pixel_size,
        full_pixel_size=full_pixel,
        premultiplied=taken.ctf_premultiplied,
        posed=posed,
        operators=torch.from_numpy(symmetry_matrices(symmetry)).float(),
    )


def _grey_scaled(table: ParticleTable, box_size: int) -> Tensor:
    full_box = table.box_size
    background = Background(full_box, _BACKGROUND_RADIUS * full_box)
    even = full_box // 2 * 2
    batches = []
    for begin in range(0, len(table), _BATCH):
        images = table.load_images(slice(begin, begin + _BATCH), finite=False)
        normalized = torch.from_numpy(background.normalize(images, remove_ramp=True).images)
        batches.append(fourier_crop_2d(normalized[..., :even, :even], box_size))
    return torch.cat(batches)


def _ctf_parameters(table: ParticleTable) -> CtfParameters | None:
    return table.ctf_parameters() if "rlnDefocusU" in table.particles else None


def odd_even_agreement(particles: SmallParticles) -> Agreement:
    """Reconstruct the particles at odd and at even places, correlate the two maps, and each image with the map that it is not in.

    The FSC alone does not compare readings of the CTF: each weights the noise otherwise. The images are the same under every reading.
    """
    odd, even = (_map_of(particles, slice(parity, None, 2)) for parity in (0, 1))
    correlation = fourier_shell_correlation(odd, even, pixel_size=particles.pixel_size).correlation
    scores = torch.empty(len(particles))
    for parity, other in enumerate((even, odd)):
        scores[parity::2] = _scores(particles, slice(parity, None, 2), other, correlation)
    return Agreement(map=0.5 * (odd + even), correlation=correlation, area=float(correlation[1 : particles.box_size // 2].mean()), scores=scores)


def _scores(particles: SmallParticles, rows: slice, other: Tensor, correlation: Tensor) -> Tensor:
    """Correlation of whitened images with projections of `other`, shells weighted by the FSC."""
    slicer = FourierVolume(other, max_shell=particles.box_size // 2 - 1)
    coefficients = slicer.coefficients
    data = coefficients.from_images(particles.images[rows]) * coefficients.shift_phases(-particles.shifts_px[rows])
    ctf = coefficients.select(particles.ctf[rows])
    expected = slicer.slices(particles.rotations[rows]) * (ctf.square() if particles.premultiplied else ctf)
    shells = coefficients.max_shell + 1
    power = torch.zeros(shells).index_add_(0, coefficients.shell, data.abs().square().mean(0) * coefficients.weight)
    power = power / torch.zeros(shells).index_add_(0, coefficients.shell, coefficients.weight).clamp_min(1)
    whiten = power.clamp_min(1e-12).rsqrt()[coefficients.shell]
    data, expected = data * whiten, expected * whiten * correlation.clamp_min(0)[coefficients.shell]
    cross, power_1, power_2 = (
        (term * coefficients.weight).sum(-1) for term in ((data * expected.conj()).real, data.abs().square(), expected.abs().square())
    )
    scores: Tensor = cross / (power_1 * power_2).sqrt().clamp_min(1e-12)
    return scores


def _map_of(particles: SmallParticles, rows: slice) -> Tensor:
    projector, (inserted, applied) = BackProjector(particles.box_size), shared_out(particles.operators)
    images, ctf, shifts = particles.images[rows], particles.ctf[rows], particles.shifts_px[rows]
    for operator in inserted:
        backproject(images, ctf, particles.rotations[rows] @ operator, shifts, projector, premultiplied=particles.premultiplied)
    return projector.volume(applied)


def coefficients_per_shell(box_size: int) -> Float[Tensor, "shells"]:
    """Independent coefficients (conjugates count once) in the shells 0 .. box // 2 of a real map."""
    weights = hermitian_weights(box_size).expand(box_size, box_size, -1).flatten()
    counts = torch.zeros(box_size // 2 + 2).index_add_(0, radial_shells_3d(box_size).flatten(), weights)
    return (counts[:-1] / 2).clamp_min(1)
