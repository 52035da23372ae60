"""Particles with a known answer for the restoration benchmark: a molecule, structural noise, CTF, shot noise, and poses given with an error.

Background noise has sigma 1, as after normalization. SNR is var(CTF x projection) / var(shot noise), mean over the set, over the whole box.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryorestore.ctf import CtfParameters, ctf_2d
from cryorestore.fourier import to_fourier, to_real
from cryorestore.geometry import matrices_to_euler, perturb_rotations, random_rotations
from cryorestore.io.mrc import MrcStackWriter
from cryorestore.io.star import StarBlock, write_star
from cryorestore.molecule import Molecule, molecule_volume, project_molecule, turn_chain
from cryorestore.project import FourierVolume

BOX, PIXEL = 64, 3.0
ROTATION_ERROR, SHIFT_ERROR = 2.5, 0.5
"""Rms of the given poses' errors: degrees about all axes, px along both."""
LARGEST_SHIFT = 3.0
DEFOCUS = (8e3, 3e4)
SNR_STRUCTURAL = 1.4
STRUCTURES = ("none", "white", "ice", "carbon", "neighbours", "contaminants")
"""Kinds of structural noise, before the CTF: none; white (Baxter et al. 2009); coloured ice; a film's edge across the box; another particle beside
it; a bright blob."""


@dataclass(frozen=True)
class Particles:
    """A set in memory: images (n, box, box), CTF on the half plane, true and given poses, and what the images are made of."""

    images: Tensor
    clean: Tensor
    structural: Tensor
    parameters: CtfParameters
    ctf: Tensor
    rotations: np.ndarray
    shifts_px: np.ndarray
    given_rotations: np.ndarray
    given_shifts_px: np.ndarray

    def take(self, rows: slice) -> "Particles":
        """Some rows."""
        parts = {name: getattr(self, name)[rows] for name in self.__dataclass_fields__ if name != "parameters"}
        return Particles(parameters=self.parameters.take(rows), **parts)


def gain(molecule: Molecule, snr: float) -> float:
    """Factor on the molecule's charge that gives the mean SNR; one a molecule and SNR, so that all sets of it are on one grey scale."""
    generator = np.random.default_rng(0)
    images = project_molecule(molecule, random_rotations(64, generator), np.zeros((64, 2)), box_size=BOX, pixel_size=PIXEL)
    seen = to_real(to_fourier(images) * ctf_2d(draw_ctf(64, generator), box_size=BOX, pixel_size=PIXEL))
    return float(np.sqrt(snr / float(seen.var((1, 2), correction=0).mean())))


def draw_ctf(count: int, generator: np.random.Generator) -> CtfParameters:
    """Uniform defocus, 2 % astigmatism, 300 kV, 2.7 mm, 10 % amplitude contrast."""
    defocus, ones = generator.uniform(*DEFOCUS, count), np.ones(count)
    angle = generator.uniform(-90, 90, count)
    return CtfParameters(defocus, 0.98 * defocus, angle, 300 * ones, 2.7 * ones, 0.1 * ones, 0 * ones, 0 * ones, ones)


def simulate(
    molecule: Molecule,
    count: int,
    *,
    snr: float,
    seed: int,
    structure: str = "none",
    scale: float | None = None,
    volume: Tensor | None = None,
) -> Particles:
    """Draw a set.

    Parameters
    ----------
    scale
        Of the charge; that of `gain` where none is given. A second conformer takes the first one's.
    volume
        Where given, particles are slices of this map, many times faster; else the atoms themselves are projected.
    """
    generator = np.random.default_rng([seed, 64])
    rotations, shifts = random_rotations(count, generator), generator.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, (count, 2))
    parameters = draw_ctf(count, generator)
    ctf = ctf_2d(parameters, box_size=BOX, pixel_size=PIXEL)
    if volume is None:
        factor = gain(molecule, snr) if scale is None else scale
        signal = to_fourier(factor * project_molecule(molecule, rotations, shifts, box_size=BOX, pixel_size=PIXEL))
        clean = to_real(signal * ctf)
    else:
        slicer = FourierVolume(volume, max_shell=BOX // 2 - 1)
        coefficients = slicer.coefficients
        moved = slicer.slices(torch.from_numpy(rotations).float()) * coefficients.shift_phases(torch.from_numpy(shifts).float())
        clean = coefficients.to_images(moved * coefficients.select(ctf))
    structural = to_real(to_fourier(structural_noise(structure, molecule, count, snr=snr, generator=generator)) * ctf)
    noise = torch.from_numpy(generator.standard_normal((count, BOX, BOX), dtype=np.float32))
    return Particles(
        images=clean + structural + noise,
        clean=clean,
        structural=structural,
        parameters=parameters,
        ctf=ctf,
        rotations=rotations,
        shifts_px=shifts,
        given_rotations=perturb_rotations(rotations, rotation_error=ROTATION_ERROR, generator=generator),
        given_shifts_px=shifts + generator.standard_normal((count, 2)) * SHIFT_ERROR / np.sqrt(2),
    )


def structural_noise(structure: str, molecule: Molecule, count: int, *, snr: float, generator: np.random.Generator) -> Tensor:
    """Images of one of STRUCTURES before the CTF, of the variance `structural_power`, mean over the set; neighbours are as bright as the particle."""
    if structure == "none":
        return torch.zeros(count, BOX, BOX)
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    if structure == "neighbours":
        factor, views = gain(molecule, snr), random_rotations(64, generator)
        angle = generator.uniform(0, 2 * np.pi, 64)
        offsets = 44 * np.stack([np.cos(angle), np.sin(angle)], 1)  # px: two particles of 43 px that touch
        beside = factor * project_molecule(molecule, views, offsets, box_size=2 * BOX, pixel_size=PIXEL)[:, 32:96, 32:96]
        return beside[torch.from_numpy(generator.integers(64, size=count))]
    images = generator.standard_normal((count, BOX, BOX))
    if structure == "ice":
        frequency = np.hypot(np.fft.fftfreq(BOX)[:, None], np.fft.rfftfreq(BOX))
        images = np.fft.irfft2(np.fft.rfft2(images) / (1 + (frequency / 0.06) ** 2), s=(BOX, BOX))
    angle, place = generator.uniform(0, 2 * np.pi, (count, 1, 1)), generator.uniform(-24, 24, (count, 1, 1))
    across = x * np.cos(angle) + y * np.sin(angle) - place
    if structure == "carbon":
        images = (across > 0) * (1 + 0.5 * images + 0.01 * across)
    if structure == "contaminants":
        along = -x * np.sin(angle) + y * np.cos(angle) - generator.uniform(-24, 24, (count, 1, 1))
        images = np.exp(-(across**2 + along**2) / (2 * generator.uniform(3, 7, (count, 1, 1)) ** 2))
    factor = np.sqrt(structural_power(structure, molecule, snr=snr) / images.var((1, 2)).mean())
    return torch.from_numpy((images - images.mean((1, 2), keepdims=True)) * factor).float()


def structural_power(structure: str, molecule: Molecule, *, snr: float) -> float:
    """Variance of the structural noise before the CTF: that of projections over SNR_STRUCTURAL."""
    if structure == "none":
        return 0.0
    views = random_rotations(64, np.random.default_rng(0))
    projections = gain(molecule, snr) * project_molecule(molecule, views, np.zeros((64, 2)), box_size=BOX, pixel_size=PIXEL)
    return float(projections.var((1, 2), correction=0).mean()) / SNR_STRUCTURAL


def true_volume(molecule: Molecule, scale: float) -> Tensor:
    """The map whose projections the particles are."""
    return scale * molecule_volume(molecule, box_size=BOX, pixel_size=PIXEL)


def second_conformer(molecule: Molecule, angle: float = 20.0) -> Molecule:
    """The molecule with its chain A turned, as in the demo."""
    return turn_chain(molecule, chain="A", angle=angle)


def write_half(folder: Path, particles: Particles) -> Path:
    """Write a set as one half, with the given poses; returns its table."""
    folder.mkdir(parents=True, exist_ok=True)
    star, count, parameters = folder / "particles.star", len(particles.images), particles.parameters
    with MrcStackWriter(folder / "particles.mrcs", count=count, box_size=BOX, pixel_size=PIXEL) as writer:
        writer.append(particles.images.numpy())
    optics = {"rlnOpticsGroup": ["1"], "rlnOpticsGroupName": ["one"], "rlnImagePixelSize": [str(PIXEL)], "rlnImageSize": [str(BOX)]}
    optics |= {"rlnImageDimensionality": ["2"], "rlnVoltage": ["300"], "rlnSphericalAberration": ["2.7"], "rlnAmplitudeContrast": ["0.1"]}
    angles, origins = matrices_to_euler(particles.given_rotations), -PIXEL * particles.given_shifts_px
    columns = dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"), [*angles.T, *origins.T], strict=True))
    columns |= {"rlnDefocusU": parameters.defocus_u, "rlnDefocusV": parameters.defocus_v, "rlnDefocusAngle": parameters.defocus_angle}
    cells = {name: [f"{value:.6f}" for value in column] for name, column in columns.items()}
    cells |= {"rlnPhaseShift": ["0.0"] * count, "rlnOpticsGroup": ["1"] * count, "rlnRandomSubset": ["1"] * count}
    cells = {"rlnImageName": [f"{row:06d}@{folder / 'particles.mrcs'}" for row in range(1, count + 1)]} | cells
    write_star(star, {"optics": StarBlock.from_columns(optics), "particles": StarBlock.from_columns(cells)})
    return star
