"""One simulated micrograph: where its particles and junk stand, and how they are seen (Baxter et al. 2009)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.ctf import CtfParameters, ctf_2d
from cryorestore.errors import CryorestoreError
from cryorestore.geometry import Matrices, random_rotations
from cryorestore.molecule import Molecule, project_molecule

EMPTY, CONTAMINANT = 0, -1
"""Kinds of a pick beside 1 and 2, the conformers."""


@dataclass(frozen=True)
class Scene:
    """What stands in one micrograph; one row a pick."""

    kinds: NDArray[np.int64]
    """(n,): 1, 2 (conformer), EMPTY or CONTAMINANT"""
    centres: NDArray[np.float64]
    """(n, 2), true x and y, px"""
    picks: NDArray[np.int64]
    """(n, 2), x and y, px"""
    rotation_matrices: Matrices
    ctf: CtfParameters
    """of the micrograph: one row"""


@dataclass(frozen=True)
class Exposure:
    """One simulated micrograph, white on zero, and the parts of it in each pick's box."""

    micrograph: Float[Tensor, "size size"]
    clean: Float[Tensor, "n box box"]
    """the object alone with its CTF"""
    structural: Float[Tensor, "n box box"]
    """the structural noise with the CTF"""
    effective_snr: float
    """mean variance of the true particles' clean images over the variance of all noise"""


def grid_cells(
    per_micrograph: int, *, diameter_px: float, box_size: int, micrograph_size: int, pick_error_px: float
) -> tuple[NDArray[np.float64], float]:
    """Centres (cells, 2) of square cells that keep every box inside the micrograph, and how far (px) a particle may leave its centre.

    Raises
    ------
    CryorestoreError
        If the molecule does not fit the box, or the cells are smaller than the molecule.
    """
    if diameter_px + 2 > box_size:
        raise CryorestoreError(f"box_size: found {box_size} px, expected at least {diameter_px + 2:.0f} for this molecule; raise it or pixel_size")
    columns = int(np.ceil(np.sqrt(per_micrograph)))
    margin = box_size / 2 + max(pick_error_px, 0.5) + 1
    width = (micrograph_size - 2 * margin) / columns
    if width < diameter_px:
        needed = int(np.ceil(columns * diameter_px + 2 * margin))
        raise CryorestoreError(
            f"micrograph_size: found {micrograph_size} px, expected at least {needed} for {per_micrograph} particles of {diameter_px:.0f} px; "
            "raise micrograph_size or lower per_micrograph"
        )
    steps = margin + width * (np.arange(columns) + 0.5)
    x, y = np.meshgrid(steps, steps)
    return np.stack([x.ravel(), y.ravel()], 1), (width - diameter_px) / 2


def draw_scene(
    cells: tuple[NDArray[np.float64], float],
    ctf: CtfParameters,
    per_micrograph: int,
    *,
    conformer_fraction: float,
    junk_fraction: float,
    pick_error_px: float,
    generator: np.random.Generator,
) -> Scene:
    """Choose cells, kinds, positions, picks and orientations of one micrograph."""
    grid, freedom = cells
    chosen = generator.permutation(len(grid))[:per_micrograph]
    junk = round(junk_fraction * per_micrograph)
    kinds = np.where(generator.random(per_micrograph) < conformer_fraction, 2, 1)
    kinds[:junk] = EMPTY
    kinds[: junk // 2] = CONTAMINANT
    generator.shuffle(kinds)
    centres = grid[chosen] + generator.uniform(-freedom, freedom, (per_micrograph, 2))
    error = max(pick_error_px - 0.5, 0.0)
    picks = np.rint(centres + generator.uniform(-error, error, centres.shape)).astype(np.int64)
    return Scene(kinds, centres, picks, random_rotations(per_micrograph, generator), ctf)


def draw_objects(
    scene: Scene, conformers: tuple[Molecule, Molecule], box_size: int, pixel_size: float, generator: np.random.Generator
) -> Float[Tensor, "n box box"]:
    """What stands at each pick, before the CTF, shifted by its centre's fraction of a pixel."""
    fractions = scene.centres - np.rint(scene.centres)
    images = torch.zeros(len(scene.kinds), box_size, box_size)
    for kind, molecule in enumerate(conformers, 1):
        rows = np.flatnonzero(scene.kinds == kind)
        images[rows] = project_molecule(molecule, scene.rotation_matrices[rows], fractions[rows], box_size=box_size, pixel_size=pixel_size)
    particles = images[scene.kinds > 0]
    peak = float(particles.amax()) if len(particles) else 1.0
    for row in np.flatnonzero(scene.kinds == CONTAMINANT):
        images[row] = peak * _contaminant(box_size, generator)
    return images


def _contaminant(box_size: int, generator: np.random.Generator) -> Float[Tensor, "box box"]:
    """A bright blob, rod or ring of random size and direction; values up to 1 to 2."""
    angle, strength = generator.uniform(0, np.pi), generator.uniform(1.0, 2.0)
    long, short = box_size * generator.uniform(0.08, 0.18), box_size * generator.uniform(0.03, 0.08)
    axis = np.arange(box_size) - box_size // 2
    along = axis[None] * np.cos(angle) + axis[:, None] * np.sin(angle)
    across = axis[:, None] * np.cos(angle) - axis[None] * np.sin(angle)
    if generator.random() < 1 / 3:
        image = np.exp(-((np.hypot(along, across) - long) ** 2) / (0.5 * short**2))
    else:
        image = np.exp(-(along**2) / (2 * long**2) - across**2 / (2 * short**2))
    return torch.from_numpy(strength * image).float()


def expose(
    scene: Scene,
    objects: Float[Tensor, "n box box"],
    *,
    micrograph_size: int,
    pixel_size: float,
    snr_structural: float,
    snr_shot: float,
    generator: np.random.Generator,
) -> Exposure:
    """Put the objects into a micrograph, add both noises and the CTF; all of it white on zero, in the objects' grey scale."""
    box_size, real = objects.shape[-1], scene.kinds > 0
    nearest = np.rint(scene.centres).astype(np.int64)
    clean = _seen_alone(objects, nearest - scene.picks, scene.ctf, pixel_size)
    structural_variance = mean_variance(objects[real]) / snr_structural
    signal_variance = mean_variance(clean[real])
    shot_variance = signal_variance / snr_shot
    ctf = ctf_2d(scene.ctf, box_size=micrograph_size, pixel_size=pixel_size)[0]
    signal = torch.zeros(micrograph_size, micrograph_size)
    for image, (x, y) in zip(objects, (nearest - box_size // 2).tolist(), strict=True):
        signal[y : y + box_size, x : x + box_size] += image
    structural = _noise(generator, micrograph_size, structural_variance)
    structural = torch.fft.irfft2(torch.fft.rfft2(structural) * ctf, s=structural.shape)
    micrograph = torch.fft.irfft2(torch.fft.rfft2(signal) * ctf, s=signal.shape) + structural + _noise(generator, micrograph_size, shot_variance)
    boxes = [(slice(y, y + box_size), slice(x, x + box_size)) for x, y in (scene.picks - box_size // 2).tolist()]
    noise_variance = float(structural.var()) + shot_variance
    return Exposure(
        micrograph=micrograph,
        clean=clean,
        structural=torch.stack([structural[box] for box in boxes]),
        effective_snr=signal_variance / noise_variance if noise_variance > 0 else float("inf"),
    )


def _seen_alone(objects: Float[Tensor, "n box box"], offsets: NDArray[np.int64], ctf: CtfParameters, pixel_size: float) -> Float[Tensor, "n box box"]:
    """Each object with the CTF and nothing beside it, in a box of twice the size, cut out `offsets` (x, y, px) off its centre."""
    box_size = objects.shape[-1]
    transfer, inset = ctf_2d(ctf, box_size=2 * box_size, pixel_size=pixel_size), box_size // 2
    seen = torch.empty_like(objects)
    for row, (image, (x, y)) in enumerate(zip(objects, offsets.tolist(), strict=True)):
        padded = torch.nn.functional.pad(image, (inset, box_size - inset, inset, box_size - inset))
        whole = torch.fft.irfft2(torch.fft.rfft2(padded) * transfer[0], s=padded.shape)
        seen[row] = whole[inset - y : inset - y + box_size, inset - x : inset - x + box_size]
    return seen


def mean_variance(images: Float[Tensor, "n box box"]) -> float:
    """Mean of the images' variances, each over its whole box; 1 without images."""
    return float(images.var(dim=(-2, -1), correction=0).mean()) if len(images) else 1.0


def _noise(generator: np.random.Generator, size: int, variance: float) -> Float[Tensor, "size size"]:
    return torch.from_numpy(generator.standard_normal((size, size), dtype=np.float32)) * float(np.sqrt(variance))
