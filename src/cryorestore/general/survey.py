"""What is found out about particles before they are restored: contrast, diameter, the spectrum of their noise; from a sample of fixed size."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.background import SMALLEST_SIGMA, Background
from cryorestore.contrast import judge_contrast
from cryorestore.errors import CryorestoreError
from cryorestore.fourier import spread_shells, to_fourier, to_real
from cryorestore.general.method import GeneralMethod
from cryorestore.general.sampling import WINDOW
from cryorestore.io.mrc import Images
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable
from cryorestore.rescale import fourier_crop
from cryorestore.whitening import NoiseSpectra, estimate_spectra
from cryorestore.whitening_groups import Groups

SAMPLED = 512
"""Particles that are looked at, spread over the table"""
_SURVEY_BOX = 64
_BATCH = 64
_CLEAR = 5.0
"""Standard errors from which on the middle of the box is taken to hold a particle"""
_SUPPOSED = 0.6
"""Of the box, where nothing is seen in it"""
_LOW_SHELL = 12
_EDGE_SHARE = 0.1
"""Of the greatest variance above the background: where it falls below, the particle ends"""


@dataclass(frozen=True)
class MeasuredDiameter:
    """Angstrom, and whether the particles showed it."""

    angstrom: float
    is_seen: bool


def sampled_rows(count: int, most: int = SAMPLED) -> NDArray[np.int64]:
    """At most so many rows, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))


def contrast_sign(table: ParticleTable, invert_contrast: bool | str, *, diameter: float) -> int:
    """1 for white particles, -1 for dark ones; "auto" looks at the middle of some, and takes those that cannot be told for white.

    Parameters
    ----------
    diameter
        Of the particle, angstrom: a box of 1.6 diameters is looked at, without what crowds about it.

    Raises
    ------
    CryorestoreError
        If `invert_contrast` is neither a truth value nor "auto".
    """
    if isinstance(invert_contrast, bool):
        return -1 if invert_contrast else 1
    if invert_contrast != "auto":
        raise CryorestoreError(f"invert_contrast: found {invert_contrast!r}, expected true, false or auto; choose one")
    rows, middle = sampled_rows(len(table)), _middle(table.box_size, 1.6 * diameter / table.pixel_size)
    contrast, score = judge_contrast(np.concatenate([images[:, middle, middle] for images in _images(table, rows)]))
    get_logger().info("contrast of %d particles: %s (%.1f standard errors from neither)", len(rows), contrast, abs(score))
    if contrast == "unclear":
        get_logger().warning("%s: whether particles are white or dark cannot be told; they are taken for white", table.path)
    return -1 if contrast == "dark" else 1


def measure_diameter(table: ParticleTable) -> MeasuredDiameter:
    """The diameter of the particles, from where in the box the variance is above that of the background.

    The images are brought to 64 px or less, normalized, and low-passed at shell 12; the mean square per ring, less that of the outermost, falls to
    a tenth of its greatest value at the particle's edge. Where nothing stands out, 0.6 of the box is supposed.
    """
    box_size, pixel_size = table.box_size, table.pixel_size
    small = min(box_size, _SURVEY_BOX)
    background = Background(small, 0.46 * small)
    axis = np.arange(small) - small // 2
    ring = np.hypot(axis[:, None], axis).round().astype(np.int64).ravel()
    passed = torch.zeros(small // 2 + 1)
    passed[1 : min(_LOW_SHELL, small // 4) + 1] = 1
    profiles = []
    for images in _images(table, sampled_rows(len(table))):
        normalized = background.normalize(fourier_crop(images, small), remove_ramp=True)
        good = np.isfinite(normalized.sigma) & (normalized.sigma >= SMALLEST_SIGMA)
        low = to_real(to_fourier(torch.from_numpy(normalized.images[good])) * spread_shells(passed, small)).numpy()
        squares = np.square(low).reshape(len(low), -1)
        profiles += [np.bincount(ring, weights=image)[: small // 2] for image in squares]
    supposed = MeasuredDiameter(_SUPPOSED * box_size * pixel_size, False)
    if len(profiles) < 2:
        return supposed
    pixels = np.bincount(ring)[: small // 2]
    every = np.array(profiles) / pixels
    outside = every[:, int(0.46 * small) :].mean(1)
    # half the box is what most particles fill; where others crowd about, a quarter of it stands out more
    discs = [np.average(every[:, :radius], axis=1, weights=pixels[:radius]) - outside for radius in (small // 4, small // 8)]
    if max(disc.mean() * np.sqrt(len(disc)) / disc.std(ddof=1) for disc in discs) < _CLEAR:
        return supposed
    smooth = np.convolve(every.mean(0) - outside.mean(), np.ones(3) / 3, mode="same")[: int(0.46 * small)]
    smooth[:2] = smooth[2]
    top = int(smooth.argmax())
    below = np.flatnonzero(smooth[top:] < _EDGE_SHARE * smooth[top])
    edge = top + (int(below[0]) if below.size else len(smooth) - top)
    return MeasuredDiameter(2 * edge / small * box_size * pixel_size, True)


def measure_noise(table: ParticleTable, method: GeneralMethod) -> NoiseSpectra:
    """The spectrum of the background of each optics group in the windows that the network sees."""
    groups = optics_groups(table)
    most = max(1, SAMPLED // max(1, len(groups.labels)))
    rows = np.sort(np.concatenate([_spread(np.flatnonzero(groups.number == number), most) for number in range(len(groups.labels))]))

    def windows() -> Iterator[tuple[NDArray[np.int64], Images]]:
        for start in range(0, len(rows), _BATCH):
            chosen = rows[start : start + _BATCH]
            prepared = method.prepare(table.load_images(chosen))
            good = prepared.sigma > 0
            yield chosen[good], prepared.images[good]

    return estimate_spectra(windows(), groups, box_size=WINDOW, bg_radius=_spectrum_radius(method))


def optics_groups(table: ParticleTable) -> Groups:
    """The optics groups as groups of particles."""
    labels, number = np.unique(table.optics_groups(), return_inverse=True)
    return Groups([f"optics group {label}" for label in labels.tolist()], number.astype(np.int64))


def flatness(power: Float[Tensor, "shells"]) -> float:
    """Greatest over least power of a spectrum, shell 0 left out: 1 for white noise."""
    return float(power[1:].max() / power[1:].min())


def _spectrum_radius(method: GeneralMethod) -> float:
    """Px: the background's window has a soft edge of 3 px, which needs more room than the circle of the normalization."""
    return min(0.55 * method.sampling.diameter / method.sampling.working_pixel_size + 2, 26.0)


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    return rows[sampled_rows(len(rows), most)]


def _middle(box_size: int, size: float) -> slice:
    """The middle of a box, an even number of px, at least 4 and at most all of it."""
    half = min(max(2, round(size / 2)), box_size // 2)
    return slice(box_size // 2 - half, box_size // 2 + half)


def _images(table: ParticleTable, rows: NDArray[np.int64]) -> Iterator[Images]:
    for start in range(0, len(rows), _BATCH):
        yield table.load_images(rows[start : start + _BATCH])
