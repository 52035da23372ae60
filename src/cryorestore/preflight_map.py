"""A small map of the particles against a given map: hand and magnification."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.findings import Finding
from cryorestore.fsc import fourier_shell_correlation
from cryorestore.io.mrc import read_map
from cryorestore.masks import soft_sphere
from cryorestore.preflight_particles import Agreement, coefficients_per_shell

MAGNIFICATIONS = tuple(0.9 + 0.01 * step for step in range(21))
_FITS = 0.3
"""A score from which on a map is taken for the particles' own structure in their frame."""

_DIFFERS = 0.015
"""Share by which a pixel size must be off to be reported: about what a small map can tell."""

Signs = tuple[int, int, int]
_FLIPS: tuple[Signs, ...] = tuple((z, y, x) for z, y, x in product((1, -1), repeat=3))
"""Signs of z, y, x: the identity, three half turns, and four mirrorings."""


@dataclass(frozen=True)
class GivenMap:
    """A map to compare with."""

    volume: Float[Tensor, "z y x"]
    pixel_size: float | None
    """angstrom; None where its header says none"""
    name: str


@dataclass(frozen=True)
class Fit:
    """How the given map lies on the particles'."""

    flip: Signs
    """signs of its axes z, y, x in the best fit"""
    sign: float
    """-1 where its contrast is the opposite"""
    score: float
    """in the best fit, between 0 and 1"""


def read_given_map(paths: Sequence[str | Path]) -> GivenMap:
    """Read a map, or the mean of two half-maps.

    Raises
    ------
    CryorestoreError
        If a file is damaged, or the boxes differ or are no cubes.
    """
    maps = [read_map(path) for path in paths]
    shapes = {volume.shape for volume, _ in maps}
    if len(shapes) != 1 or len(set(next(iter(shapes)))) != 1:
        raise CryorestoreError(f"{paths[0]}: found maps of {sorted(shapes)} voxels, expected one cubic box; give the maps of one refinement")
    mean = torch.from_numpy(sum(volume for volume, _ in maps) / len(maps))
    return GivenMap(mean, maps[0][1], " and ".join(str(path) for path in paths))


def place_map(given: GivenMap, *, box_size: int, pixel_size: float, magnification: float = 1.0) -> Float[Tensor, "box box box"]:
    """Resample a map to a small box, as if its pixel size were `magnification` times what it says (the small one where it says none)."""
    from_box = given.volume.shape[-1]
    extent = from_box * (given.pixel_size or pixel_size) / pixel_size
    fine = 2 * max(4, round(extent))
    reach = min(from_box // 2 - 1, fine // 4)
    transform = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(given.volume.float())))
    grid = torch.zeros(fine, fine, fine, dtype=torch.complex64)
    inner = slice(from_box // 2 - reach, from_box // 2 + reach + 1)
    outer = slice(fine // 2 - reach, fine // 2 + reach + 1)
    grid[outer, outer, outer] = transform[inner, inner, inner]
    low_passed = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(grid)).real)
    axis = (torch.arange(box_size) - box_size // 2) * fine / (extent * magnification) + fine // 2
    axis = 2 * axis / (fine - 1) - 1
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).flip(-1)
    placed: Tensor = torch.nn.functional.grid_sample(low_passed[None, None], points[None], align_corners=True)[0, 0]
    return placed


def map_score(agreement: Agreement, other: Float[Tensor, "box box box"]) -> float:
    """Correlate a map with the particles' own, shells weighted by what odd and even particles agree on; -1 to 1."""
    box_size = other.shape[-1]
    mask = soft_sphere(box_size, 0.4 * box_size, 0.08 * box_size)
    curve = fourier_shell_correlation(agreement.map * mask, other * mask, pixel_size=1.0).correlation
    weights = agreement.correlation.clamp_min(0).clone()
    weights[0] = weights[-1] = 0
    return float((weights * curve).sum() / weights.sum().clamp_min(1e-6))


def _margin(agreement: Agreement) -> float:
    """Twice the standard error of a score that is near 0."""
    counts = coefficients_per_shell(agreement.map.shape[-1])
    weights = agreement.correlation.clamp_min(0)[1:-1]
    return 0.01 + float(2 * (weights.square() * (1 - weights.square()).square() / counts[1:-1]).sum().sqrt() / weights.sum().clamp_min(1e-6))


def flipped(volume: Float[Tensor, "box box box"], signs: Signs) -> Float[Tensor, "box box box"]:
    """Reverse the axes (z, y, x) whose sign is -1, about the voxel box // 2."""
    axes = [axis for axis, sign in enumerate(signs) if sign < 0]
    shift = 1 - volume.shape[-1] % 2
    return volume.flip(axes).roll([shift] * len(axes), axes) if axes else volume


def judge_hand(agreement: Agreement, given: GivenMap, *, pixel_size: float) -> tuple[Finding, Fit | None]:
    """Compare the particles' map with the given one, its half turns and its mirrorings.

    Returns
    -------
    tuple
        The finding, and the best fit; None where the map fits in no way.
    """
    placed = place_map(given, box_size=agreement.map.shape[-1], pixel_size=pixel_size)
    scores = {signs: map_score(agreement, flipped(placed, signs)) for signs in _FLIPS}
    best = max(scores, key=lambda signs: abs(scores[signs]))
    margin, own = _margin(agreement), abs(scores[1, 1, 1])
    mirror = max(abs(score) for signs, score in scores.items() if _is_mirroring(signs))
    turned = max(abs(score) for signs, score in scores.items() if not _is_mirroring(signs) and signs != (1, 1, 1))
    said = f"correlation with {given.name} {own:.2f}, with its mirror {mirror:.2f}"
    if abs(scores[best]) < _FITS:
        mend = "give a map of this structure in the frame of these poses, for example the refinement's own"
        return Finding("warning", "hand", f"{said}: it fits in neither hand, so hand and pixel size are not judged", mend), None
    fit = Fit(best, -1.0 if scores[best] < 0 else 1.0, abs(scores[best]))
    if mirror > max(own, turned) + margin:
        mend = "the map has the other hand, or an axis was reversed (a Y-flip) between images, poses and map: mirror the map, or refine again"
        return Finding("error", "hand", said, mend), fit
    if turned > own + margin:
        return Finding("warning", "hand", f"{said}; turned by 180 degrees {turned:.2f}", "give the map in the frame of these poses"), fit
    if fit.sign < 0:
        return Finding("warning", "hand", f"{said}; the map and the particles have opposite contrast", "see the contrast; invert one of them"), fit
    if own - mirror <= margin:
        mend = "look at a map at better than 10 angstrom; a symmetric or round particle shows no hand below that"
        return Finding("warning", "hand", f"{said}: too alike to tell the hand at this resolution", mend), fit
    return Finding("ok", "hand", f"{said}: that map's hand", ""), fit


def _is_mirroring(signs: Signs) -> bool:
    return signs[0] * signs[1] * signs[2] < 0


def judge_pixel_size(agreement: Agreement, given: GivenMap, fit: Fit, *, pixel_size: float, full_pixel_size: float) -> Finding:
    """Fit the magnification of the given map to the particles'."""
    subject = "pixel size"
    if given.pixel_size is None:
        return Finding("warning", subject, f"{given.name} says none in its header, so the particles' is not judged", "set it in the map's header")
    box_size = agreement.map.shape[-1]
    scores = torch.tensor(
        [
            fit.sign * map_score(agreement, flipped(place_map(given, box_size=box_size, pixel_size=pixel_size, magnification=m), fit.flip))
            for m in MAGNIFICATIONS
        ]
    )
    best = int(scores.argmax())
    fitted = _vertex(scores, best)
    gain = float(scores[best] - scores[len(MAGNIFICATIONS) // 2])
    said = f"{given.name} fits best when enlarged by {fitted:.3f} (score {float(scores[best]):.3f}, as it is {float(scores[best]) - gain:.3f})"
    if abs(fitted - 1) < _DIFFERS or gain < 0.005:
        return Finding("ok", subject, f"{full_pixel_size:g} angstrom per px; {said}", "")
    about = {0: "at least", len(MAGNIFICATIONS) - 1: "at most"}.get(best, "about")
    mend = (
        f"if the map is right the particles have {about} {full_pixel_size / fitted:.4g} angstrom per px, "
        f"if the particles are right the map has {given.pixel_size * fitted:.4g}; the data cannot tell which"
    )
    return Finding("error", subject, f"{full_pixel_size:g} angstrom per px; {said}", mend)


def _vertex(scores: Tensor, best: int) -> float:
    """Magnification at the top of the parabola through the best score and its neighbours."""
    if best in (0, len(MAGNIFICATIONS) - 1):
        return MAGNIFICATIONS[best]
    left, top, right = scores[best - 1 : best + 2].tolist()
    bend = left - 2 * top + right
    return MAGNIFICATIONS[best] + (0.005 * (left - right) / bend if bend < 0 else 0.0)
