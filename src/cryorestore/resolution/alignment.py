"""Whether a map lies on its reference: frame, hand, shift, rotation, magnification. An FSC that is low for one of these says nothing of the map."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.findings import Finding
from cryorestore.fsc import FscCurve
from cryorestore.masks import soft_sphere

LARGEST_BOX = 48
_ROUNDS = 8
_FITS = 0.3
"""Correlation of the low-passed maps from which on they are taken for one structure"""
_MARGIN = 0.03
"""Gain in correlation that another frame must bring to be believed"""
_SMALL_GAIN = 0.003
"""The same of a small move"""
_MOVED, _TURNED, _MAGNIFIED = 0.5, 1.0, 0.005
"""Least shift (px of the map), rotation (degrees) and change of scale that are reported"""
_STEPS = (0.25, 0.25, 0.25, 0.01, 0.01, 0.01, 0.005)
"""Of the differences that stand for derivatives: px of the small box, radians, share"""

Frame = tuple[tuple[int, int, int], tuple[int, int, int]]
"""Order and signs of the axes z, y, x"""
_OWN: Frame = ((0, 1, 2), (1, 1, 1))


@dataclass(frozen=True)
class Alignment:
    """How the reference has to be moved to lie on the map."""

    frame: str
    """axes of the reference that become z, y, x, such as +z+y+x (its own) or +z+y-x (its mirror)"""
    mirrored: bool
    shift: list[float]
    """x, y, z, angstrom"""
    rotation: float
    """degrees, after `frame`"""
    magnification: float
    """factor by which the reference has to grow"""
    correlation_as_given: float
    correlation_aligned: float
    """of the maps, low-passed to where the half-maps agree"""
    findings: Sequence[Finding] = ()

    def to_json(self) -> dict[str, Any]:
        """The numbers, as a mapping for JSON."""
        return {name: value for name, value in vars(self).items() if name != "findings"}


def check_alignment(
    volume: Float[Tensor, "box box box"], reference: Float[Tensor, "box box box"], half_maps: FscCurve, *, pixel_size: float, name: str
) -> Alignment:
    """Look for a move of the reference that makes it agree better with a map.

    First the 24 quarter turns and their mirror images, each at its best shift, then small moves of the best of these by Gauss-Newton.

    Parameters
    ----------
    volume, reference
        Maps of one box and pixel size, white particles.
    half_maps
        Unmasked FSC of the map's halves: it is looked at where that is above 0.5, and no finer than a quarter of the small box.
    pixel_size
        Angstrom per pixel.
    name
        What findings call the reference.
    """
    box_size = volume.shape[-1]
    small = min(LARGEST_BOX, box_size)
    scale = box_size / small
    below = torch.nonzero(half_maps.correlation[1:] < 0.5).flatten()
    agreed = int(below[0]) if below.numel() else box_size // 2
    last_shell = max(3, min(agreed, small // 4))
    target, given = (_small(_centred(part), small, last_shell) for part in (volume, reference))
    as_given = _correlation(target, given)
    scores = {frame: _best_shift(target, _framed(given, frame)) for frame in _frames()}
    best = max(scores, key=lambda frame: scores[frame][0])
    if scores[best][0] < scores[_OWN][0] + _MARGIN:
        best = _OWN
    whole_shift = [round(float(value) * scale) for value in scores[best][1]]
    placed = _small(_centred(_framed(reference, best).roll(whole_shift, (0, 1, 2))), small, last_shell)
    move, aligned = _refine(target, placed)
    shift = [(whole + float(value) * scale) * pixel_size for whole, value in zip(whole_shift, move[:3], strict=True)][::-1]
    rotation, magnification = float(torch.rad2deg(move[3:6].norm())), float(move[6].exp())
    found = Alignment(_frame_name(best), _is_mirror(best), shift, rotation, magnification, as_given, aligned)
    unshifted = _correlation(target, _framed(given, best))
    return replace(found, findings=_judge(found, unshifted=unshifted, unturned=scores[best][0], pixel_size=pixel_size, name=name))


def _judge(found: Alignment, *, unshifted: float, unturned: float, pixel_size: float, name: str) -> list[Finding]:
    """`unshifted` and `unturned`: correlations in the best frame, as it is and at its best whole shift."""
    said = f"correlation {found.correlation_as_given:.2f} as given, {found.correlation_aligned:.2f} after the best move"
    if found.correlation_aligned < _FITS:
        return [Finding("warning", "alignment", f"{name} fits in no frame tried: {said}", "see that it is a map of this structure")]
    findings = []
    if found.mirrored:
        mend = "mirror one of them; a FSC to a map of the other hand says nothing"
        findings.append(Finding("error", "hand", f"{name} has the other hand (axes {found.frame}): {said}", mend))
    elif found.frame != _frame_name(_OWN):
        findings.append(Finding("error", "frame", f"{name} fits with its axes as {found.frame}: {said}", "bring it into the map's frame"))
    moved = sum(value**2 for value in found.shift) ** 0.5
    if moved > _MOVED * pixel_size and found.correlation_aligned > unshifted + _SMALL_GAIN:
        findings.append(Finding("error", "shift", f"{name} is off by {moved:.2f} angstrom: {said}", "shift it onto the map"))
    if found.correlation_aligned <= unturned + _SMALL_GAIN:
        return findings
    if found.rotation > _TURNED:
        findings.append(Finding("error", "rotation", f"{name} is turned by {found.rotation:.1f} degrees: {said}", "turn it onto the map"))
    if abs(found.magnification - 1) > _MAGNIFIED:
        mend = f"one of the two pixel sizes is wrong: {pixel_size * found.magnification:.4g} for it, or {pixel_size / found.magnification:.4g} here"
        findings.append(Finding("error", "pixel size", f"{name} fits when enlarged by {found.magnification:.3f}: {said}", mend))
    return findings


def _frames() -> list[Frame]:
    return [(order, signs) for order in permutations((0, 1, 2)) for signs in product((1, -1), repeat=3)]  # type: ignore[misc]


def _is_mirror(frame: Frame) -> bool:
    order, signs = frame
    odd = order in ((0, 2, 1), (1, 0, 2), (2, 1, 0))
    return (signs[0] * signs[1] * signs[2] < 0) != odd


def _frame_name(frame: Frame) -> str:
    return "".join(f"{'+' if sign > 0 else '-'}{'zyx'[axis]}" for axis, sign in zip(*frame, strict=True))


def _framed(volume: Tensor, frame: Frame) -> Tensor:
    """Reorder and reverse axes about the voxel box // 2."""
    order, signs = frame
    axes = [axis for axis, sign in enumerate(signs) if sign < 0]
    turned = volume.permute(order)
    return turned.flip(axes).roll([1 - volume.shape[-1] % 2] * len(axes), axes) if axes else turned


def _centred(volume: Tensor) -> Tensor:
    """Cut the box's corners off softly and take the mean of what is left away."""
    box_size = volume.shape[-1]
    sphere = soft_sphere(box_size, 0.42 * box_size, 0.06 * box_size)
    return (volume - (volume * sphere).sum() / sphere.sum()) * sphere


def _small(volume: Tensor, box_size: int, last_shell: int) -> Tensor:
    """Crop a map's transform to a box, and to a sphere of `last_shell` with a soft edge."""
    whole = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(volume.float()), norm="forward"))
    start = (volume.shape[-1] - box_size) // 2 if volume.shape[-1] % 2 == box_size % 2 else volume.shape[-1] // 2 - box_size // 2
    inner = slice(start, start + box_size)
    cropped = whole[inner, inner, inner] * soft_sphere(box_size, last_shell - 1, 2.0)
    real: Tensor = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(cropped), norm="forward").real)
    return real / real.std().clamp_min(1e-20)


def _correlation(first: Tensor, second: Tensor) -> float:
    return float((first * second).sum() / (first.norm() * second.norm()).clamp_min(1e-20))


def _best_shift(target: Tensor, moved: Tensor) -> tuple[float, Tensor]:
    """Highest correlation over whole shifts of the second map, and that shift (z, y, x; px)."""
    box_size = target.shape[-1]
    product_ = torch.fft.rfftn(target) * torch.fft.rfftn(moved).conj()
    correlation = torch.fft.irfftn(product_, s=target.shape)
    place = int(correlation.argmax())
    shift = torch.tensor([place // box_size**2, place // box_size % box_size, place % box_size], dtype=torch.float32)
    shift = torch.where(shift > box_size // 2, shift - box_size, shift)
    return float(correlation.max() / (target.norm() * moved.norm()).clamp_min(1e-20)), shift


def _refine(target: Tensor, reference: Tensor) -> tuple[Tensor, float]:
    """Gauss-Newton over shift (z, y, x; px), rotation vector (radians) and log magnification, with a free amplitude."""
    move = torch.zeros(len(_STEPS))
    best, best_score = move, _correlation(target, _moved(reference, move))
    steps = torch.diag(torch.tensor(_STEPS))
    for _ in range(_ROUNDS):
        now = _moved(reference, move)
        slopes = [(_moved(reference, move + step) - _moved(reference, move - step)) / (2 * step.sum()) for step in steps]
        design = torch.stack([now, *slopes], -1).reshape(-1, len(_STEPS) + 1).double()
        solution = torch.linalg.lstsq(design, target.reshape(-1, 1).double()).solution.flatten()
        if float(solution[0]) <= 0:
            break
        change = (solution[1:] / solution[0]).float()
        limit = torch.tensor([2.0] * 3 + [0.15] * 3 + [0.05])
        move = move + change.clamp(-limit, limit)
        score = _correlation(target, _moved(reference, move))
        if score > best_score:
            best, best_score = move, score
    return best, best_score


def _moved(volume: Tensor, move: Tensor) -> Tensor:
    """Enlarge, turn, then shift a map about its centre voxel; moved(r) = volume(R^-1 (r - shift) / magnification)."""
    box_size = volume.shape[-1]
    axis = torch.arange(box_size, dtype=torch.float32) - box_size // 2
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1) - move[:3]
    z, y, x = move[3:6].tolist()
    generator = torch.tensor([[0.0, -x, y], [x, 0.0, -z], [-y, z, 0.0]])
    points = points @ torch.linalg.matrix_exp(generator) / move[6].exp()
    grid = (2 * (points + box_size // 2) / (box_size - 1) - 1).flip(-1)
    placed: Tensor = torch.nn.functional.grid_sample(volume[None, None], grid[None], align_corners=True)[0, 0]
    return placed
