"""Particles to train the general network on, made while it trains: any structure, view, size, microscope and disturbance.

Order: projection -> structural noise (neighbours, ice, carbon, contaminants) -> CTF -> noise -> normalization by the background. Everything is drawn
from the generator that the caller seeds. SNR is var(CTF x projection) / var(noise) over the box, structural noise not counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.ctf import CtfParameters, ctf_2d
from cryorestore.general.restorer import DIAMETER_SHARE, WORKING_SIDE
from cryorestore.general.structures import Structure
from cryorestore.geometry import random_rotations
from cryorestore.masks import background_mask
from cryorestore.project import FourierVolume

SIDE, WIDE = WORKING_SIDE, 2 * WORKING_SIDE
VIEWS = 2
"""Images that share structure, size and CTF: the evaluation of a CTF is what costs most."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranges:
    """What is drawn. Lengths are px of the working sampling unless they say angstrom; shares are of the images."""

    snr: tuple[float, float] = (0.002, 0.5)
    """log-uniform"""
    diameter_share: tuple[float, float] = DIAMETER_SHARE
    largest_shift: float = 6.0
    defocus: tuple[float, float] = (3e3, 4e4)
    """angstrom"""
    astigmatism: float = 800.0
    """angstrom, at most"""
    voltages: tuple[float, ...] = (200.0, 300.0)
    spherical_aberrations: tuple[float, ...] = (2.7, 2.0, 0.01)
    """mm"""
    amplitude_contrast: tuple[float, float] = (0.07, 0.1)
    phase_plate: float = 0.05
    b_factor: tuple[float, float] = (0.0, 150.0)
    """angstrom^2"""
    empty: float = 0.1
    """nothing, or structural noise alone; the target is zero"""
    two_structures: float = 0.15
    """a second structure grown onto the first, for more shapes than there are entries"""
    solvent: float = 0.3
    """low frequencies damped by up to 60 %, as where the solvent is nearly as dense"""
    hollow: float = 0.1
    """an inner part taken away, as in shells"""
    neighbours: float = 0.35
    """one to three of them"""
    crowded: float = 0.2
    """neighbours all round, as in a monolayer"""
    ice: float = 0.4
    white: float = 0.15
    carbon: float = 0.12
    contaminant: float = 0.15
    coloured: float = 0.5
    periodic: float = 0.25
    """the CTF's ripples come back in at the opposite edge, as in simulations on the box itself, instead of leaving the box"""
    unknown_ctf: float = 0.1
    known_sigma: float = 0.5
    """normalized by the true sigma instead of the background outside a circle"""
    sigma_error: float = 0.1
    defocus_error: float = 100.0
    """angstrom, rms"""
    amplitude_contrast_error: float = 0.03


PLAIN = Ranges(
    diameter_share=(0.55, 0.55),
    largest_shift=3.0,
    defocus=(8e3, 3e4),
    voltages=(300.0,),
    spherical_aberrations=(2.7,),
    amplitude_contrast=(0.1, 0.1),
    phase_plate=0.0,
    b_factor=(0.0, 0.0),
    empty=0.0,
    two_structures=0.0,
    solvent=0.0,
    hollow=0.0,
    neighbours=0.0,
    crowded=0.0,
    ice=0.0,
    white=0.0,
    carbon=0.0,
    contaminant=0.0,
    coloured=0.0,
    periodic=0.0,
    unknown_ctf=0.0,
    known_sigma=1.0,
    sigma_error=0.0,
    defocus_error=0.0,
    amplitude_contrast_error=0.0,
)
"""White noise and nothing else, for following a training."""


class Simulator:
    """Draws batches from structures.

    Parameters
    ----------
    structures
        With their volumes; each takes 37 MB.
    ranges
        What is drawn.
    """

    def __init__(self, structures: Sequence[Structure], ranges: Ranges) -> None:
        self.ranges = ranges
        self._diameters = np.array([structure.diameter for structure in structures])
        self._volumes = [FourierVolume(structure.volume, max_shell=SIDE // 2 - 1) for structure in structures]
        self._wide, self._narrow = _Plane(WIDE), _Plane(SIDE)
        self._narrow_in_wide = self._wide.places_of(2 * self._narrow.kx, 2 * self._narrow.ky)

    def batch(self, count: int, generator: np.random.Generator, *, snr: float | None = None, structure: int | None = None) -> dict[str, Tensor]:
        """Draw `count` images (an even number).

        Returns
        -------
        images, clean, corrected
            (count, 64, 64): normalized particle; CTF-applied projection of the centred particle alone; the same without CTF; one grey scale.
        ctf, known
            (count, 64, 33), as a user knows it; and whether it is known at all.
        snr, ratio, particle
            (count,): drawn ratio; variance of `clean` over that of `corrected`, were there a particle; 1 where there is a particle, 0 where not.
        """
        r = self.ranges
        optics = self._draw_optics(count // VIEWS, generator, structure)
        snrs = np.exp(generator.uniform(math.log(r.snr[0]), math.log(r.snr[1]), count)) if snr is None else np.full(count, snr)
        views = self._projections(optics, count, generator)
        moved = views * self._wide.shifts(generator.uniform(-r.largest_shift, r.largest_shift, (count, 2)))
        wide_ctf, seen_ctf = self._ctf(optics)
        applied = self._wide.to_images(moved * self._wide.take(wide_ctf))
        periodic = torch.from_numpy(generator.random(count) < r.periodic)
        clean = torch.where(periodic[:, None, None], _folded(applied), _centre(applied))
        corrected = self._narrow.to_images((moved * self._wide.take(self._envelope(optics)))[:, self._narrow_in_wide])
        particle = torch.from_numpy(generator.random(count) >= r.empty)
        scale = torch.from_numpy(np.sqrt(snrs)).float() / clean.std((1, 2)).clamp_min(1e-20)
        ratio = clean.var((1, 2)) / corrected.var((1, 2)).clamp_min(1e-20)
        beside = self._structural(optics, wide_ctf, corrected.std((1, 2)), generator)
        clean, corrected, beside = (
            (image * scale[:, None, None]) for image in (clean * particle[:, None, None], corrected * particle[:, None, None], beside)
        )
        images, sigma = self._normalized(clean + beside + self._noise(count, generator), generator)
        return {
            "images": images,
            "clean": clean / sigma,
            "corrected": corrected / sigma,
            "ctf": seen_ctf,
            "known": torch.from_numpy(generator.random(count) >= r.unknown_ctf),
            "snr": torch.from_numpy(snrs).float(),
            "ratio": ratio,
            "particle": particle.float(),
        }

    def _draw_optics(self, draws: int, generator: np.random.Generator, structure: int | None) -> "_Optics":
        """What the images of a draw share; lengths in px, so that one evaluation serves all pixel sizes."""
        r = self.ranges
        structures = generator.integers(len(self._volumes), size=draws) if structure is None else np.full(draws, structure)
        share = generator.uniform(*r.diameter_share, draws)
        pixel_size = self._diameters[structures] / (share * SIDE)
        defocus = generator.uniform(*r.defocus, draws)
        split = 0.5 * generator.uniform(0, r.astigmatism, draws)
        amplitude = generator.uniform(*r.amplitude_contrast, draws)
        true = CtfParameters(
            defocus_u=(defocus + split) / pixel_size**2,
            defocus_v=(defocus - split) / pixel_size**2,
            defocus_angle=generator.uniform(-90, 90, draws),
            voltage=generator.choice(r.voltages, draws),
            spherical_aberration=generator.choice(r.spherical_aberrations, draws) / pixel_size**4,
            amplitude_contrast=amplitude,
            phase_shift=np.where(generator.random(draws) < r.phase_plate, 90.0, 0.0),
            b_factor=generator.uniform(*r.b_factor, draws) / pixel_size**2,
            scale=np.ones(draws),
        )
        error = r.defocus_error * generator.standard_normal(draws) / pixel_size**2
        contrast = (amplitude + generator.uniform(-1, 1, draws) * r.amplitude_contrast_error).clip(0.0, 1.0)
        return _Optics(structures, share, true, error, contrast)

    def _ctf(self, optics: "_Optics") -> tuple[Tensor, Tensor]:
        """The true CTF on the wide half plane, and the one that a user has on the narrow one, each repeated for the views."""
        true = optics.true
        seen = CtfParameters(
            defocus_u=true.defocus_u + optics.defocus_error,
            defocus_v=true.defocus_v + optics.defocus_error,
            defocus_angle=true.defocus_angle,
            voltage=true.voltage,
            spherical_aberration=true.spherical_aberration,
            amplitude_contrast=optics.seen_contrast,
            phase_shift=true.phase_shift,
            b_factor=np.zeros(len(true)),
            scale=true.scale,
        )
        wide, narrow = ctf_2d(true, box_size=WIDE, pixel_size=1.0), ctf_2d(seen, box_size=SIDE, pixel_size=1.0)
        return wide.repeat_interleave(VIEWS, 0), narrow.repeat_interleave(VIEWS, 0)

    def _envelope(self, optics: "_Optics") -> Tensor:
        b_factor = torch.from_numpy(optics.true.b_factor).float().repeat_interleave(VIEWS)
        return torch.exp(-0.25 * b_factor[:, None, None] * _squared_frequency(WIDE))

    def _projections(self, optics: "_Optics", count: int, generator: np.random.Generator) -> Tensor:
        """Wide coefficients of the centred particles."""
        r = self.ranges
        grown = (generator.random(count // VIEWS) < r.two_structures).repeat(VIEWS)
        shrink = np.where(grown, 0.7, 1.0)
        structures, share = optics.structures.repeat(VIEWS), optics.share.repeat(VIEWS) * shrink
        rotations = random_rotations(count, generator)
        views = self._slices(structures, share, rotations)
        rows = np.flatnonzero((generator.random(count) < r.hollow) & ~grown)
        inner, density = generator.uniform(0.5, 0.8, len(rows)), generator.uniform(0.7, 1.0, len(rows))
        taken = torch.from_numpy(density * inner**3).float()[:, None]
        views[rows] -= taken * self._slices(structures[rows], share[rows] * inner, rotations[rows])
        rows = np.flatnonzero(grown)
        if len(rows):
            length = 0.35 * SIDE * optics.share.repeat(VIEWS)[rows]
            direction = random_rotations(len(rows), generator)[:, 0, :2]
            second = generator.integers(len(self._volumes), size=len(rows))
            others = self._slices(second, share[rows], random_rotations(len(rows), generator))
            own = views[rows].abs().square().sum(1, keepdim=True).sqrt()
            others = others * (own / others.abs().square().sum(1, keepdim=True).sqrt().clamp_min(1e-20))
            views[rows] = (
                self._wide.shifts(length[:, None] * direction / 2) * views[rows] + self._wide.shifts(-length[:, None] * direction / 2) * others
            )
        damped = torch.from_numpy(0.6 * generator.random(count) * (generator.random(count) < r.solvent)).float()
        return views * (1 - damped[:, None] * torch.exp(-self._wide.squared_frequency / (2 * 0.025**2)))

    def _slices(self, structures: NDArray[np.int64], share: Floats, rotations: Floats) -> Tensor:
        """Slices of structures; a smaller share of the side is a slice that is read closer to the origin."""
        axes = rotations * (share / DIAMETER_SHARE[1])[:, None, None]
        views = torch.empty(len(structures), len(self._wide.index), dtype=torch.complex64)
        for structure in np.unique(structures):
            rows = np.flatnonzero(structures == structure)
            views[rows] = self._volumes[structure].read(torch.from_numpy(axes[rows]).float(), self._wide.kx, self._wide.ky)
        return views

    def _structural(self, optics: "_Optics", wide_ctf: Tensor, sigma: Tensor, generator: np.random.Generator) -> Tensor:
        """Neighbours, ice, carbon and contaminants behind the CTF, in the scale of projections of deviation `sigma`."""
        r, count = self.ranges, len(sigma)
        images = torch.zeros(count, SIDE, SIDE)
        chance = generator.random(count)
        rows = np.flatnonzero(chance < r.neighbours + r.crowded)
        if len(rows):
            images[rows] += self._neighbours(optics, wide_ctf, rows, chance[rows] < r.crowded, generator)
        amplitude = torch.from_numpy(_film(count, r, generator)).float() * sigma[:, None, None]
        rows = np.flatnonzero(amplitude.abs().amax((1, 2)).numpy() > 0)
        if len(rows):
            narrow_ctf = wide_ctf[rows][:, ::2, : SIDE + 1 : 2]
            narrow_ctf = narrow_ctf[:, :, : SIDE // 2 + 1]
            images[rows] += torch.fft.irfft2(torch.fft.rfft2(amplitude[rows]) * narrow_ctf, s=(SIDE, SIDE))
        return images

    def _neighbours(
        self, optics: "_Optics", wide_ctf: Tensor, rows: NDArray[np.int64], crowded: NDArray[np.bool_], generator: np.random.Generator
    ) -> Tensor:
        """Other views of the same structure: one to three that touch the particle or stand farther off, or six all round it."""
        structures, share = optics.structures.repeat(VIEWS)[rows], optics.share.repeat(VIEWS)[rows]
        total = torch.zeros(len(rows), len(self._wide.index), dtype=torch.complex64)
        turn = generator.uniform(0, 2 * np.pi, len(rows))
        for number, chance in enumerate((1.0, 0.5, 0.4, 0.0, 0.0, 0.0)):
            there = np.flatnonzero(generator.random(len(rows)) < np.where(crowded, 0.9, chance))
            if not len(there):
                continue
            size = SIDE * share[there]
            near, free = generator.uniform(0.9, 1.25, len(there)) * size, generator.uniform(0.85 * size, 62.0)
            distance = np.where(crowded[there], near, free)
            angle = np.where(crowded, turn + number * np.pi / 3 + generator.normal(0, 0.2, len(rows)), generator.uniform(0, 2 * np.pi, len(rows)))[
                there
            ]
            place = distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
            brightness = torch.from_numpy(generator.uniform(0.7, 1.3, len(there))).float()
            views = self._slices(structures[there], share[there], random_rotations(len(there), generator))
            total[there] += brightness[:, None] * self._wide.shifts(place) * views
        return _centre(self._wide.to_images(total * self._wide.take(wide_ctf[rows])))

    def _noise(self, count: int, generator: np.random.Generator) -> Tensor:
        """Noise of variance 1: white, or with more or much more power at low frequencies and less at high ones."""
        images = torch.from_numpy(generator.standard_normal((count, SIDE, SIDE), dtype=np.float32))
        rows = np.flatnonzero(generator.random(count) < self.ranges.coloured)
        if len(rows) == 0:
            return images
        squared = _squared_frequency(SIDE).numpy()

        def column(values: Floats) -> Floats:
            return values[:, None, None]

        height = column(np.exp(generator.uniform(np.log(0.3), np.log(60.0), len(rows))))
        corner, steepness = column(generator.uniform(0.01, 0.08, len(rows))), column(generator.uniform(0.75, 2.0, len(rows)))
        power = 1 + height / (1 + squared / corner**2) ** steepness
        power *= np.exp(-column(generator.uniform(0, 1.0, len(rows)) * (generator.random(len(rows)) < 0.5)) * squared / 0.25)
        filtered = torch.fft.rfft2(images[rows]) * torch.from_numpy(np.sqrt(power)).float()
        weights = np.full(SIDE // 2 + 1, 2.0)
        weights[[0, -1]] = 1.0
        variance = (power * weights).sum((1, 2)) / SIDE**2
        images[rows] = torch.fft.irfft2(filtered, s=(SIDE, SIDE)) / torch.from_numpy(np.sqrt(variance)).float()[:, None, None]
        return images

    def _normalized(self, images: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Images less their background's mean over its sigma, which errs a little; and what was divided by (n, 1, 1)."""
        r, count = self.ranges, len(images)
        background = background_mask(SIDE, generator.uniform(24.0, 31.0))
        outside = images[:, background]
        known = torch.from_numpy(generator.random(count) < r.known_sigma)
        mean = torch.where(known, 0.0, outside.mean(1))[:, None, None]
        error = torch.from_numpy(1 + r.sigma_error * generator.uniform(-1, 1, count)).float()
        sigma = (torch.where(known, 1.0, outside.std(1)) * error)[:, None, None]
        return (images - mean) / sigma, sigma


@dataclass(frozen=True)
class _Optics:
    """What the views of a draw share."""

    structures: NDArray[np.int64]
    share: Floats
    true: CtfParameters
    """with lengths in px"""
    defocus_error: Floats
    seen_contrast: Floats


class _Plane:
    """The coefficients of a side's half plane that the finest slice reaches, the constant term among them."""

    def __init__(self, side: int) -> None:
        self.side = side
        ky, kx = torch.meshgrid(torch.fft.fftfreq(side, 1 / side), torch.arange(side // 2 + 1.0), indexing="ij")
        inside = (kx**2 + ky**2).flatten() < (side / 2 - side / SIDE) ** 2
        self.index = inside.nonzero()[:, 0]
        self.kx, self.ky = kx.flatten()[self.index], ky.flatten()[self.index]
        self.squared_frequency = (self.kx**2 + self.ky**2) / side**2

    def places_of(self, kx: Tensor, ky: Tensor) -> Tensor:
        """Where in this set the coefficients stand."""
        places = torch.full((self.side, self.side // 2 + 1), -1)
        places[self.ky.long() % self.side, self.kx.long()] = torch.arange(len(self.index))
        found = places[ky.long() % self.side, kx.long()]
        if (found < 0).any():
            raise ValueError("a coefficient is not in the set")
        return found

    def take(self, half_plane: Tensor) -> Tensor:
        """Values of a function on the half plane."""
        return half_plane.flatten(-2)[..., self.index]

    def shifts(self, shifts_px: Floats) -> Tensor:
        """Factors that move an image by x, y px."""
        moved = torch.from_numpy(shifts_px).float()
        angle = (-2 * torch.pi / self.side) * (moved[:, :1] * self.kx + moved[:, 1:] * self.ky)
        return torch.polar(torch.ones_like(angle), angle)

    def to_images(self, coefficients: Tensor) -> Tensor:
        """Real images, origin at the pixel side // 2."""
        plane = torch.zeros(len(coefficients), self.side * (self.side // 2 + 1), dtype=torch.complex64)
        plane[:, self.index] = coefficients
        images: Tensor = torch.fft.irfft2(plane.unflatten(1, (self.side, self.side // 2 + 1)), s=(self.side, self.side))
        shifted: Tensor = torch.fft.fftshift(images, dim=(1, 2))
        return shifted


def _centre(wide: Tensor) -> Tensor:
    start = (WIDE - SIDE) // 2
    return wide[:, start : start + SIDE, start : start + SIDE]


def _folded(wide: Tensor) -> Tensor:
    """Wide images on the periodic box of the working side."""
    tiles = wide.view(-1, 2, SIDE, 2, SIDE).sum((1, 3))
    return torch.roll(tiles, (SIDE // 2, SIDE // 2), (1, 2))


def _squared_frequency(side: int) -> Tensor:
    squared: Tensor = torch.fft.fftfreq(side)[:, None] ** 2 + torch.fft.rfftfreq(side) ** 2
    return squared


def _film(count: int, r: Ranges, generator: np.random.Generator) -> Floats:
    """Ice, structural white noise, a carbon film's edge and contaminants before the CTF, in units of a projection's deviation."""
    images = np.zeros((count, SIDE, SIDE))
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2

    def some(share: float) -> NDArray[np.int64]:
        return np.flatnonzero(generator.random(count) < share)

    def column(low: float, high: float, rows: NDArray[np.int64]) -> Floats:
        return generator.uniform(low, high, (len(rows), 1, 1))

    rows = some(r.white)
    images[rows] += column(0.2, 1.2, rows) * generator.standard_normal((len(rows), SIDE, SIDE))
    rows = some(r.ice)
    images[rows] += column(0.1, 1.2, rows) * _texture(len(rows), generator)
    rows = some(r.carbon)
    angle, place = column(0, 2 * np.pi, rows), column(-24, 24, rows)
    across = x * np.cos(angle) + y * np.sin(angle) - place
    inside = 1 / (1 + np.exp(-across / column(0.3, 2.0, rows)))
    images[rows] += (
        column(0.3, 2.5, rows) * inside * (1 + column(0.1, 1.0, rows) * _texture(len(rows), generator) + column(-0.02, 0.02, rows) * across)
    )
    rows = some(r.contaminant)
    for _ in range(2):
        angle, stretch, width = column(0, 2 * np.pi, rows), column(1.0, 2.5, rows), column(2.0, 9.0, rows)
        away_x, away_y = x - column(-30, 30, rows), y - column(-30, 30, rows)
        along, beside = away_x * np.cos(angle) + away_y * np.sin(angle), away_y * np.cos(angle) - away_x * np.sin(angle)
        distance = (along / stretch) ** 2 + (beside * stretch) ** 2
        sharp = column(0.5, 3.0, rows)
        images[rows] += column(-2.0, 8.0, rows) * np.exp(-((distance / (2 * width**2)) ** sharp))
    return images


def _texture(count: int, generator: np.random.Generator) -> Floats:
    """Smooth random images of variance 1, half of them with heavy tails."""
    if count == 0:
        return np.zeros((0, SIDE, SIDE))
    corner = generator.uniform(0.015, 0.1, (count, 1, 1))
    images = torch.from_numpy(generator.standard_normal((count, SIDE, SIDE), dtype=np.float32))
    filtered = torch.fft.rfft2(images) / torch.from_numpy(1 + _squared_frequency(SIDE).numpy() / corner**2).float()
    texture = torch.fft.irfft2(filtered, s=(SIDE, SIDE)).numpy().astype(np.float64)
    texture -= texture.mean((1, 2), keepdims=True)
    texture /= texture.std((1, 2), keepdims=True) + 1e-12
    heavy = generator.random((count, 1, 1)) < 0.5
    texture = np.where(heavy, texture * np.abs(texture), texture)
    return np.asarray(texture / (texture.std((1, 2), keepdims=True) + 1e-12))
