"""Particle stacks of the embedded molecule with a known answer, as files that every program reads."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryorestore.ctf import CtfParameters, ctf_2d
from cryorestore.fourier import to_fourier, to_real
from cryorestore.geometry import matrices_to_euler, perturb_rotations, random_rotations
from cryorestore.io.mrc import MrcStackWriter
from cryorestore.io.star import StarBlock, write_star
from cryorestore.molecule import load_molecule, molecule_volume, project_molecule

EXTENT = 192.0
"""angstrom along a side of the box, whatever its number of pixels"""
MASK = 80.0, 12.0
"""radius and edge (angstrom) of the sphere that maps are compared in"""
DEFOCUS = 8000.0, 30000.0
BATCH = 256


@dataclass(frozen=True)
class ParticleSet:
    """What `simulate` wrote: the poses that a program is told, those that are true, and the map in the particles' grey scale."""

    given_star: Path
    true_star: Path
    truth: torch.Tensor
    pixel_size: float
    is_particle: np.ndarray


def simulate(
    folder: Path, count: int, *, box_size: int, snr: float, rotation_error: float, shift_error: float, junk_fraction: float, seed: int
) -> ParticleSet:
    """Project the atoms at random poses, apply the CTF, add white noise of sigma 1.

    Parameters
    ----------
    box_size, snr
        Px; var(CTF x projection) / var(noise) over the whole box, at 64 px. Larger boxes have the same noise an area of the specimen.
    rotation_error, shift_error
        Rms of the given poses' errors: degrees, and px of a box of 64 px.
    junk_fraction
        Share of images that are noise alone.
    """
    generator = np.random.default_rng([seed, count])
    pixel_size = EXTENT / box_size
    molecule = load_molecule("demo")
    rotations = random_rotations(count, generator)
    shifts = generator.uniform(-3.0, 3.0, (count, 2)) * box_size / 64
    u = generator.uniform(*DEFOCUS, count)
    ones = np.ones(count)
    parameters = CtfParameters(u, u - 300, generator.uniform(-90, 90, count), 300 * ones, 2.7 * ones, 0.1 * ones, 0 * ones, 0 * ones, ones)
    is_particle = generator.random(count) >= junk_fraction
    gain = _gain(box_size, pixel_size, snr * (64 / box_size) ** 2)
    noise = torch.Generator().manual_seed(int(generator.integers(2**62)))
    with MrcStackWriter(folder / "particles.mrcs", count=count, box_size=box_size, pixel_size=pixel_size) as writer:
        for start in range(0, count, BATCH):
            rows = np.arange(start, min(start + BATCH, count))
            clean = project_molecule(molecule, rotations[rows], shifts[rows], box_size=box_size, pixel_size=pixel_size)
            ctf = ctf_2d(parameters.take(rows), box_size=box_size, pixel_size=pixel_size)
            signal = gain * to_real(to_fourier(clean) * ctf) * torch.from_numpy(is_particle[rows])[:, None, None]
            writer.append((signal + torch.randn(signal.shape, generator=noise)).float().numpy())
    given = perturb_rotations(rotations, rotation_error=rotation_error, generator=generator)
    given_shifts = shifts + generator.standard_normal((count, 2)) * shift_error * box_size / 64 / np.sqrt(2)
    paths = []
    for name, matrices, places in (("given", given, given_shifts), ("true", rotations, shifts)):
        paths.append(folder / f"{name}.star")
        _write_table(paths[-1], folder / "particles.mrcs", parameters, matrices, places, box_size, pixel_size)
    truth = gain * molecule_volume(molecule, box_size=box_size, pixel_size=pixel_size)
    return ParticleSet(paths[0], paths[1], truth, pixel_size, is_particle)


def _gain(box_size: int, pixel_size: float, snr: float) -> float:
    """Grey values per unit of charge, the same for every set of a box."""
    generator = np.random.default_rng(0)
    views, u, ones = random_rotations(64, generator), generator.uniform(*DEFOCUS, 64), np.ones(64)
    parameters = CtfParameters(u, u, 0 * ones, 300 * ones, 2.7 * ones, 0.1 * ones, 0 * ones, 0 * ones, ones)
    images = project_molecule(load_molecule("demo"), views, np.zeros((64, 2)), box_size=box_size, pixel_size=pixel_size)
    signal = to_real(to_fourier(images) * ctf_2d(parameters, box_size=box_size, pixel_size=pixel_size))
    return float((snr / signal.var((-2, -1)).mean()).sqrt())


def _write_table(
    path: Path, stack: Path, parameters: CtfParameters, rotations: np.ndarray, shifts: np.ndarray, box_size: int, pixel_size: float
) -> None:
    count = len(rotations)
    angles, origins = matrices_to_euler(rotations), -pixel_size * shifts
    optics = {"rlnOpticsGroup": ["1"], "rlnOpticsGroupName": ["one"], "rlnImagePixelSize": [f"{pixel_size:.6f}"], "rlnImageSize": [str(box_size)]}
    optics |= {"rlnImageDimensionality": ["2"], "rlnVoltage": ["300"], "rlnSphericalAberration": ["2.7"], "rlnAmplitudeContrast": ["0.1"]}
    columns = {"rlnImageName": [f"{row + 1:06d}@{stack.name}" for row in range(count)]}
    columns |= {f"rlnAngle{name}": angles[:, axis] for axis, name in enumerate(("Rot", "Tilt", "Psi"))}
    columns |= {f"rlnOrigin{name}Angst": origins[:, axis] for axis, name in enumerate("XY")}
    columns |= {"rlnDefocusU": parameters.defocus_u, "rlnDefocusV": parameters.defocus_v, "rlnDefocusAngle": parameters.defocus_angle}
    columns |= {"rlnPhaseShift": parameters.phase_shift, "rlnOpticsGroup": ["1"] * count}
    write_star(path, {"optics": StarBlock.from_columns(optics), "particles": StarBlock.from_columns(columns)})
