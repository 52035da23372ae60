"""Particles of structures that the general restorer was never shown: atoms projected on a wide box, CTF, and the middle cut out as from a micrograph.

A set is drawn once with signal of variance 1 and scaled to each SNR, so that all SNRs show the same views and all lanes the same images. Noise has
sigma 1. SNR is var(CTF x projection) / var(noise) of each particle, over the box.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryorestore.ctf import CtfParameters, ctf_2d
from cryorestore.fourier import radial_average, to_fourier, to_real
from cryorestore.geometry import random_rotations
from cryorestore.molecule import Molecule, load_molecule, project_molecule

BOX = 64
SHARE = 0.55
"""Diameter (of 99 % of the atoms) over the box; it sets the pixel size."""
LARGEST_SHIFT = 3.0
DEFOCUS = (8e3, 3e4)
SNR_STRUCTURAL = 1.4
"""var(projection) / var(structural noise), before the CTF, over the box (Baxter et al. 2009)"""
KINDS = ("white", "ice", "carbon", "neighbours", "contaminants")
"""Structural noise of the particles of a set, in turn."""
NOISES = ("plain", "structural", "crowded")
"""White noise alone; one of KINDS besides; or six neighbours all round, as in a monolayer."""
NEIGHBOUR_VIEWS = 40
WIDE = 2 * BOX


@dataclass(frozen=True)
class Particles:
    """Images (n, 64, 64) with what they are made of, and the CTF on the half plane."""

    images: Tensor
    clean: Tensor
    structural: Tensor
    ctf: Tensor
    signal_power: Tensor
    """(33,), oracle: mean power of the projections before the CTF per shell, orthonormal transform"""
    noise_power: Tensor
    """(33,), oracle: of all that is not signal"""


@dataclass(frozen=True)
class Drawn:
    """A set before its SNR is chosen; signal of variance 1, structural noise in its scale."""

    clean: Tensor
    corrected: Tensor
    structural: Tensor
    ctf: Tensor
    noise: Tensor
    pixel_size: float


def drawn(path: Path, count: int, *, noise: str, seed: int) -> Drawn:
    """Draw a set of one structure; defocus 0.8 to 3 um, 300 kV, up to 3 px off-centre."""
    return _drawn(path, count, noise, seed)


@lru_cache(maxsize=4)
def _drawn(path: Path, count: int, kind: str, seed: int) -> Drawn:
    molecule = load_molecule(path)
    pixel_size = 2 * float(np.percentile(np.linalg.norm(molecule.positions, axis=1), 99)) / (SHARE * BOX)
    generator = np.random.default_rng([seed, 10])
    rotations, shifts = random_rotations(count, generator), generator.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, (count, 2))
    parameters = _draw_ctf(count, generator)
    noise = torch.from_numpy(generator.standard_normal((count, BOX, BOX), dtype=np.float32))
    signal = project_molecule(molecule, rotations, shifts, box_size=WIDE, pixel_size=pixel_size)
    wide_ctf = ctf_2d(parameters, box_size=WIDE, pixel_size=pixel_size)
    clean = _middle(to_real(to_fourier(signal) * wide_ctf))
    beside = torch.zeros_like(clean)
    if kind != "plain":
        shown = _structural(molecule, signal, pixel_size, generator) if kind == "structural" else _crowd(molecule, count, pixel_size, generator)
        beside = _middle(to_real(to_fourier(shown) * wide_ctf))
    scale = 1 / clean.std((1, 2), keepdim=True)
    ctf = ctf_2d(parameters, box_size=BOX, pixel_size=pixel_size)
    return Drawn(clean * scale, _middle(signal) * scale, beside * scale, ctf, noise, pixel_size)


def at_snr(drawing: Drawn, snr: float) -> Particles:
    """The set at one SNR, with the spectra that the oracle Wiener filter is given."""
    scale = float(np.sqrt(snr))
    clean, structural = scale * drawing.clean, scale * drawing.structural
    beside = structural + drawing.noise
    return Particles(
        images=clean + beside,
        clean=clean,
        structural=structural,
        ctf=drawing.ctf,
        signal_power=_power(scale * drawing.corrected),
        noise_power=_power(beside),
    )


def empty_boxes(count: int, *, seed: int) -> Tensor:
    """White noise of sigma 1."""
    return torch.from_numpy(np.random.default_rng([seed, 11]).standard_normal((count, BOX, BOX), dtype=np.float32))


def _draw_ctf(count: int, generator: np.random.Generator) -> CtfParameters:
    defocus, ones = generator.uniform(*DEFOCUS, count), np.ones(count)
    return CtfParameters(defocus, 0.98 * defocus, generator.uniform(-90, 90, count), 300 * ones, 2.7 * ones, 0.1 * ones, 0 * ones, 0 * ones, ones)


def _structural(molecule: Molecule, signal: Tensor, pixel_size: float, generator: np.random.Generator) -> Tensor:
    """One kind a particle, in turn, before the CTF; a neighbour is as bright as the particle, the others have `SNR_STRUCTURAL`."""
    count = len(signal)
    kinds = np.arange(count) % len(KINDS)
    y, x = np.mgrid[:WIDE, :WIDE] - WIDE // 2
    texture = generator.standard_normal((count, WIDE, WIDE))
    frequency = np.hypot(np.fft.fftfreq(WIDE)[:, None], np.fft.rfftfreq(WIDE))
    ice = np.fft.irfft2(np.fft.rfft2(texture) / (1 + (frequency / 0.06) ** 2), s=(WIDE, WIDE))
    angle, place = generator.uniform(0, 2 * np.pi, (count, 1, 1)), generator.uniform(-24, 24, (count, 1, 1))
    across = x * np.cos(angle) + y * np.sin(angle) - place
    along = -x * np.sin(angle) + y * np.cos(angle) - generator.uniform(-24, 24, (count, 1, 1))
    blob = np.exp(-(across**2 + along**2) / (2 * generator.uniform(3, 7, (count, 1, 1)) ** 2))
    film = (across > 0) * (1 + 0.5 * texture + 0.01 * across)
    images = np.choose(kinds[:, None, None], [texture, ice, film, np.zeros_like(texture), blob])
    images = torch.from_numpy(images).float()
    images -= images.mean((1, 2), keepdim=True)
    inside = _middle(images).std((1, 2)).clamp_min(1e-6)
    images *= (_middle(signal).std((1, 2)) / (SNR_STRUCTURAL**0.5 * inside))[:, None, None] * torch.from_numpy(kinds != 3)[:, None, None]
    rows = np.flatnonzero(kinds == 3)
    turn = generator.uniform(0, 2 * np.pi, len(rows))
    offsets = 1.1 * SHARE * BOX * np.stack([np.cos(turn), np.sin(turn)], 1)
    images[rows] = project_molecule(molecule, random_rotations(len(rows), generator), offsets, box_size=WIDE, pixel_size=pixel_size)
    return images


def _crowd(molecule: Molecule, count: int, pixel_size: float, generator: np.random.Generator) -> Tensor:
    """Neighbours before the CTF, as bright as the particle, at places of a jittered hexagon, 1 to 1.2 diameters away."""
    views = project_molecule(
        molecule, random_rotations(NEIGHBOUR_VIEWS, generator), np.zeros((NEIGHBOUR_VIEWS, 2)), box_size=WIDE, pixel_size=pixel_size
    )
    spectra = to_fourier(views)
    ky, kx = torch.fft.fftfreq(WIDE)[:, None], torch.fft.rfftfreq(WIDE)
    total, turn = torch.zeros(count, *spectra.shape[1:], dtype=spectra.dtype), generator.uniform(0, 2 * np.pi, count)
    for place in range(6):
        angle = turn + place * np.pi / 3 + generator.normal(0, 0.15, count)
        distance = SHARE * BOX * generator.uniform(1.0, 1.2, count)
        x, y = (torch.from_numpy(distance * part).float()[:, None, None] for part in (np.cos(angle), np.sin(angle)))
        total += spectra[torch.from_numpy(generator.integers(NEIGHBOUR_VIEWS, size=count))] * torch.exp(-2j * torch.pi * (kx * x + ky * y))
    return to_real(total)


def _middle(wide: Tensor) -> Tensor:
    start = (WIDE - BOX) // 2
    return wide[:, start : start + BOX, start : start + BOX]


def _power(images: Tensor) -> Tensor:
    return radial_average(to_fourier(images).abs().square()).mean(0)
