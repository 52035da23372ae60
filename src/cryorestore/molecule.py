"""Molecules for the simulator: atoms, two conformers, and their band-limited projections and volume."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import gemmi
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.geometry import Matrices
from cryorestore.io.file_form import require_regular_file

DEMO_MOLECULE = "demo"
"""Name of the embedded molecule (PDB 7PBL)."""
B_FACTOR = 60.0
"""angstrom^2; the envelope of every projection is exp(-B s^2 / 4)"""
_OVERSAMPLING = 4
_INTERFACE = 8.0
_ATOMS_AT_ONCE = 1024


@dataclass(frozen=True)
class Molecule:
    """Heavy atoms about their centre of charge."""

    positions: NDArray[np.float64]
    """(atoms, 3), x, y, z in angstrom"""
    weights: NDArray[np.float64]
    """(atoms,), atomic number times occupancy"""
    chains: NDArray[np.generic]
    """(atoms,), chain names"""

    @property
    def diameter(self) -> float:
        """Twice the distance (angstrom) of the farthest atom from the centre."""
        return 2.0 * float(np.sqrt((self.positions**2).sum(1).max()))


def load_molecule(molecule: str | Path) -> Molecule:
    """Load the embedded molecule ("demo") or a PDB or mmCIF file, gzipped or not; hydrogens and waters are left out.

    Raises
    ------
    CryorestoreError
        If the file is missing, cannot be read or holds no heavy atom.
    """
    if str(molecule) == DEMO_MOLECULE:
        with resources.files("cryorestore").joinpath("assets/7pbl.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            positions, weights = arrays["positions"] * 0.1, arrays["atomic_number"].astype(float)
            chains = arrays["chain_names"][arrays["chain"]]
    else:
        positions, weights, chains = read_atoms(molecule)
    centre = (positions * weights[:, None]).sum(0) / weights.sum()
    return Molecule(positions - centre, weights, chains)


def read_atoms(path: str | Path) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.generic]]:
    """Positions (angstrom), atomic numbers times occupancies, and chain names of the heavy atoms of the first model of a file.

    Raises
    ------
    CryorestoreError
        If the file is missing, cannot be read or holds no heavy atom.
    """
    require_regular_file(path)
    try:
        structure = gemmi.read_structure(str(path))
        structure.remove_hydrogens()
        structure.remove_waters()
        atoms = [(atom, chain.name) for chain in (structure[0] if len(structure) else ()) for residue in chain for atom in residue]
    except (OSError, RuntimeError, ValueError) as error:
        raise CryorestoreError(f"{path}: cannot be read as PDB or mmCIF ({error}); give a .pdb or .cif file (.gz allowed) or 'demo'") from error
    if not atoms:
        raise CryorestoreError(f"{path}: found no atom but hydrogens and waters, expected a molecule; give a file with coordinates")
    positions = np.array([atom.pos.tolist() for atom, _ in atoms], float)
    weights = np.array([atom.element.atomic_number * atom.occ for atom, _ in atoms], float)
    if not (np.isfinite(positions).all() and np.isfinite(weights).all() and weights.sum() > 0):
        raise CryorestoreError(f"{path}: found positions that are no numbers, or no occupied atom; expected a molecule; mend the file")
    return positions, weights, np.array([chain for _, chain in atoms])


def turn_chain(molecule: Molecule, *, chain: str, angle: float) -> Molecule:
    """The second conformer: one chain turned by `angle` degrees like a door.

    The hinge passes through the middle of the chain's interface (its atoms within 8 angstrom of the other chains; its own centre
    if there are none), perpendicular to the z axis and to the line from there to the chain's centre.

    Raises
    ------
    CryorestoreError
        If the molecule has no such chain.
    """
    moving = molecule.chains == chain
    if not moving.any():
        names = ", ".join(sorted(set(molecule.chains.tolist())))
        raise CryorestoreError(f"conformer_chain: found {chain!r}, expected one of the molecule's chains {names}; choose one of these")
    own, others = molecule.positions[moving], molecule.positions[~moving]
    distances = cKDTree(others).query(own)[0] if len(others) else np.full(len(own), np.inf)
    near = np.asarray(distances <= _INTERFACE)
    hinge = own[near].mean(0) if near.any() else own.mean(0)
    axis = np.cross(own.mean(0) - hinge, (0.0, 0.0, 1.0))
    axis = axis / np.linalg.norm(axis) if np.linalg.norm(axis) > 1e-6 else np.array([1.0, 0.0, 0.0])
    positions = molecule.positions.copy()
    positions[moving] = Rotation.from_rotvec(np.radians(angle) * axis).apply(own - hinge) + hinge
    return Molecule(positions, molecule.weights, molecule.chains)


def project_molecule(
    molecule: Molecule,
    rotation_matrices: Matrices,
    shifts_px: NDArray[np.float64],
    *,
    box_size: int,
    pixel_size: float,
) -> Float[Tensor, "n box box"]:
    """Project the atoms themselves: one bilinear deposition on a grid four times finer a view, then low-pass to the box.

    Parameters
    ----------
    rotation_matrices
        (n, 3, 3), RELION's.
    shifts_px
        (n, 2), x and y of the molecule's centre from the pixel box // 2.
    box_size, pixel_size
        Pixels; angstrom per pixel.

    Returns
    -------
    Real-space images, white; a pixel holds the charge that falls into it, blurred by `B_FACTOR`, without frequencies of
    radius box / 2 - 1/2 or more.
    """
    fine = box_size * _OVERSAMPLING
    rows, envelope = _rows(box_size, fine), _envelope_2d(box_size, pixel_size)
    images = torch.empty(len(rotation_matrices), box_size, box_size)
    for index, (matrix, shift) in enumerate(zip(rotation_matrices, shifts_px, strict=True)):
        points = (molecule.positions @ matrix[:2].T / pixel_size + shift) * _OVERSAMPLING
        ft = torch.fft.rfft2(torch.from_numpy(_deposit(points, molecule.weights, fine)).float())
        cropped = ft[rows, : box_size // 2 + 1] * envelope
        images[index] = torch.fft.fftshift(torch.fft.irfft2(cropped, s=(box_size, box_size)))
    return images


def _deposit(points: NDArray[np.float64], weights: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Share each weight bilinearly among four pixels of a periodic grid whose origin is the pixel (0, 0)."""
    floor = np.floor(points).astype(np.int64)
    fx, fy = (points - floor).T
    x0, y0 = (floor % size).T
    x1, y1 = (x0 + 1) % size, (y0 + 1) % size
    pixels = np.concatenate([y0 * size + x0, y0 * size + x1, y1 * size + x0, y1 * size + x1])
    left, right = weights * (1 - fx), weights * fx
    shares = np.concatenate([left * (1 - fy), right * (1 - fy), left * fy, right * fy])
    return np.asarray(np.bincount(pixels, shares, minlength=size * size), np.float64).reshape(size, size)


def _rows(box_size: int, fine: int) -> Tensor:
    """Rows of a fine rfft2 that hold the ky of a smaller box."""
    return torch.from_numpy(np.fft.fftfreq(box_size, 1 / box_size).astype(np.int64) % fine)


def _envelope_2d(box_size: int, pixel_size: float) -> Tensor:
    """B-factor, band limit, and the division by the transform of the bilinear kernel."""
    ky, kx = torch.fft.fftfreq(box_size, 1 / box_size)[:, None], torch.fft.rfftfreq(box_size, 1 / box_size)[None]
    fine = box_size * _OVERSAMPLING
    kernel = (torch.sinc(kx / fine) * torch.sinc(ky / fine)) ** 2
    return _envelope((kx**2 + ky**2).sqrt(), box_size, pixel_size) / kernel


def _envelope(radius: Tensor, box_size: int, pixel_size: float) -> Tensor:
    return torch.exp(-0.25 * B_FACTOR * (radius / (box_size * pixel_size)) ** 2) * (radius < box_size / 2 - 0.5)


def molecule_volume(molecule: Molecule, *, box_size: int, pixel_size: float) -> Float[Tensor, "box box box"]:
    """The volume [z, y, x] whose projections `project_molecule` makes: its Fourier sum over the atoms, exact, same grey scale and band limit."""
    full, half = np.fft.fftfreq(box_size, 1 / box_size), np.fft.rfftfreq(box_size, 1 / box_size)
    ft = torch.zeros(box_size * box_size, len(half), dtype=torch.complex64)
    for start in range(0, len(molecule.weights), _ATOMS_AT_ONCE):
        x, y, z = (molecule.positions[start : start + _ATOMS_AT_ONCE] * (-2j * np.pi / (box_size * pixel_size))).T
        wave_x = np.exp(np.outer(x, half)) * molecule.weights[start : start + _ATOMS_AT_ONCE, None]
        wave_zy = np.exp(np.outer(full, z)).astype(np.complex64)[:, None] * np.exp(np.outer(full, y)).astype(np.complex64)[None]
        ft += torch.from_numpy(wave_zy.reshape(box_size * box_size, -1)) @ torch.from_numpy(wave_x.astype(np.complex64))
    k, kx = torch.from_numpy(full).float(), torch.from_numpy(half).float()
    radius = (k[:, None, None] ** 2 + k[None, :, None] ** 2 + kx**2).sqrt()
    coefficients = ft.reshape(box_size, box_size, -1) * _envelope(radius, box_size, pixel_size)
    volume: Tensor = torch.fft.fftshift(torch.fft.irfftn(coefficients, s=(box_size,) * 3))
    return volume
