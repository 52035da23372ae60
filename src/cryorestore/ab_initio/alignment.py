"""Laying one map onto another that has any other orientation, centre or hand.

Maps that were found apart share none of these. The hand is a matter of convention: a map and its mirror image explain the same projections.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import scipy.optimize
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryorestore.ab_initio.volumes import resized_map
from cryorestore.fourier import filtered_map
from cryorestore.geometry import symmetry_matrices
from cryorestore.posterior.grid import make_pose_grid, turned_directions

_COARSE_BOX, _COARSE_SHELL, _COARSE_STEP = 20, 5, 20.0
_FINE_BOX, _FINE_SHELL = 40, 10
_CANDIDATES = 4
"""Of either hand that are refined"""
_LARGEST_GROUP = 60
_LIKE_ITSELF = 0.97
"""Correlation of a map with itself, turned, from which on the two count as one: pseudosymmetric complexes reach 0.94, symmetric ones 0.99"""
_MOST_UNLIKE = 8
"""Rotations in a row after which the map is not like itself: the likeliest are tried first"""
_STILL_NEAR = 0.6
"""The same at the nearest rotation of the coarse grid"""
_APART = 20.0
"""Degrees between them"""
_RADIANS = 0.1
"""Unit of rotations where shifts count in px"""
_AT_ONCE = 256
_BALL = 0.42
"""Radius, as a share of the box, of the ball in which maps are compared"""


@dataclass(frozen=True)
class MapMove:
    """moved(r) = map(Q' (r - shift)), or map(-Q' (r - shift)) where it is mirrored; r = (x, y, z) from the voxel box // 2."""

    rotation: NDArray[np.float64]
    """Q, (3, 3)"""
    shift_px: NDArray[np.float64]
    """x, y, z"""
    mirrored: bool
    correlation: float
    """of the low-passed maps after the move"""
    other_hand: float
    """the same for the best move of the other hand"""

    def rotations(self, rotations: NDArray[np.float64]) -> NDArray[np.float64]:
        """RELION's matrices of the same images in the frame of the moved map, (n, 3, 3)."""
        turned = np.diag([-1.0, -1.0, 1.0]) @ rotations if self.mirrored else rotations
        return np.asarray(turned @ self.rotation.T)

    def shifts_px(self, rotations: NDArray[np.float64], shifts_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shifts (n, 2) of the same images as projections of the moved map; `rotations` are those that `rotations()` gives."""
        return np.asarray(shifts_px - (rotations @ self.shift_px)[:, :2])


def align_maps(
    target: Float[Tensor, "box box box"], moving: Float[Tensor, "box box box"], *, symmetry: str = "C1", max_shell: int = _FINE_SHELL
) -> MapMove:
    """Find the move of the second map, of either hand, that correlates best with the first.

    All rotations are tried on a grid with the maps' centres of mass together, then the best are refined. With a point group only those moves are
    tried that keep its axes where they are.

    Parameters
    ----------
    target, moving
        White particles in one box.
    symmetry
        Of both, in RELION's setting.
    max_shell
        Highest shell that is compared.
    """
    coarse, fine = (
        [_prepared(volume, box_size, min(max_shell, shell)) for volume in (target, moving)]
        for box_size, shell in ((_COARSE_BOX, _COARSE_SHELL), (_FINE_BOX, _FINE_SHELL))
    )
    larger, free = fine[0].shape[-1] / coarse[0].shape[-1], _free(symmetry)
    best: dict[bool, tuple[float, NDArray[np.float64]]] = {}
    for mirrored in (False, True):
        if symmetry.upper() == "C1":
            candidates = list(_candidates(coarse[0], coarse[1], mirrored))
        else:
            candidates = [(rotation, np.zeros(3)) for rotation in _symmetric_moves(symmetry)]
        tried = [_refined(coarse[0], coarse[1], rotation, shift, mirrored, free=free) for rotation, shift in candidates]
        _, parameters = max(tried, key=lambda score: score[0])
        rotation = Rotation.from_rotvec(parameters[:3]).as_matrix()
        best[mirrored] = _refined(fine[0], fine[1], rotation, larger * parameters[3:], mirrored, free=free)
    mirrored = best[True][0] > best[False][0]
    correlation, parameters = best[mirrored]
    scale = target.shape[-1] / fine[0].shape[-1]
    rotation = Rotation.from_rotvec(parameters[:3]).as_matrix()
    return MapMove(rotation, parameters[3:] * scale, mirrored, correlation, best[not mirrored][0])


def own_rotations(volume: Float[Tensor, "box box box"]) -> NDArray[np.float64]:
    """Rotations (n, 3, 3) that leave a map as it is, as far as shell 10 shows them, the identity first.

    Poses of one particle that differ by R -> R Q, Q among them, explain its image equally well.
    """
    return np.stack([move.rotation for move in own_moves(volume)])


def own_moves(volume: Float[Tensor, "box box box"], *, least: float = _LIKE_ITSELF) -> list[MapMove]:
    """Moves after which a map correlates with itself to `least` at least, as far as shell 10 shows it, the identity first."""
    coarse, fine = (_prepared(volume, box, shell) for box, shell in ((_COARSE_BOX, _COARSE_SHELL), (_FINE_BOX, _FINE_SHELL)))
    larger, everything = fine.shape[-1] / coarse.shape[-1], np.ones(6, bool)
    kept, unlike = [MapMove(np.eye(3), np.zeros(3), False, 1.0, 0.0)], 0

    def is_new(rotation: NDArray[np.float64]) -> bool:
        return all((np.trace(rotation @ other.rotation.T) - 1) / 2 < math.cos(math.radians(_APART)) for other in kept)

    for rotation, shift in _candidates(coarse, coarse, False, most=_LARGEST_GROUP, least=_STILL_NEAR):
        correlation, parameters = _refined(coarse, coarse, rotation, shift, False, free=everything)
        near = Rotation.from_rotvec(parameters[:3]).as_matrix()
        unlike = unlike + 1 if correlation < least else 0
        if unlike == _MOST_UNLIKE:
            break
        if unlike or not is_new(near):
            continue
        correlation, parameters = _refined(fine, fine, near, larger * parameters[3:], False, free=everything)
        found = Rotation.from_rotvec(parameters[:3]).as_matrix()
        if correlation > least and is_new(found):
            kept.append(MapMove(found, parameters[3:] * volume.shape[-1] / fine.shape[-1], False, correlation, 0.0))
    return kept


def moved_map(volume: Float[Tensor, "box box box"], move: MapMove) -> Float[Tensor, "box box box"]:
    """The map after a move, by cubic splines."""
    centre = volume.shape[-1] // 2
    sign = -1.0 if move.mirrored else 1.0
    matrix = sign * move.rotation.T[::-1, ::-1]  # z, y, x
    offset = centre - matrix @ (centre + move.shift_px[::-1])
    return torch.from_numpy(scipy.ndimage.affine_transform(volume.numpy(), matrix, offset, order=3).astype(np.float32))


def _prepared(volume: Tensor, box_size: int, max_shell: int) -> Tensor:
    """Smaller, low-passed with a soft end."""
    small = resized_map(volume, min(box_size, volume.shape[-1]))
    shells = torch.arange(max_shell + 3.0)
    return filtered_map(small, (0.5 + (max_shell - shells) / 4).clamp(0, 1))


def _ball_points(box_size: int) -> Tensor:
    """x, y, z of the voxels in a ball, from the centre."""
    axis = torch.arange(box_size, dtype=torch.float32) - box_size // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    inside = x**2 + y**2 + z**2 < (_BALL * box_size) ** 2
    return torch.stack([x[inside], y[inside], z[inside]], -1)


def _sampled(volume: Tensor, points: Tensor) -> Tensor:
    """Trilinear values (n, m) at points (n, m, 3)."""
    box_size = volume.shape[-1]
    grid = 2 * (points + box_size // 2) / (box_size - 1) - 1
    values: Tensor = torch.nn.functional.grid_sample(volume[None, None], grid[None, :, :, None], align_corners=True)[0, 0, :, :, 0]
    return values


def _candidates(
    first: Tensor, second: Tensor, mirrored: bool, *, most: int = _CANDIDATES, least: float = -1.0
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The best rotations that are well apart, and the shift that brings the centres of mass together."""
    centres = [_centre_of_mass(volume) for volume in (first, second)]
    points = _ball_points(first.shape[-1])
    wanted = _standard(_sampled(first, (points + centres[0])[None]))[0]
    grid = make_pose_grid(step=_COARSE_STEP, max_shell=1, box_size=first.shape[-1], shift_range_px=0)
    turns = 2 * math.pi * torch.arange(grid.turns) / grid.turns
    rotations = turned_directions(grid.directions[:, None].expand(-1, grid.turns, 3, 3), turns.expand(len(grid.directions), -1)).flatten(0, 1)
    sign = -1.0 if mirrored else 1.0
    scores = torch.cat([_standard(_sampled(second, sign * (points @ part) + centres[1])) @ wanted for part in rotations.split(_AT_ONCE)])
    chosen: list[Tensor] = []
    for place in scores.argsort(descending=True).tolist():
        if float(scores[place]) < least:
            break
        cosines = [(float((rotations[place] * other).sum()) - 1) / 2 for other in chosen]
        if all(cosine < math.cos(math.radians(_APART)) for cosine in cosines):
            chosen.append(rotations[place])
        if len(chosen) == most:
            break
    for rotation in chosen:
        yield rotation.double().numpy(), (centres[0] - sign * rotation @ centres[1]).double().numpy()


def _centre_of_mass(volume: Tensor) -> Tensor:
    points = _ball_points(volume.shape[-1])
    weight = _sampled(volume, points[None])[0]
    weight = (weight - 0.2 * weight.max()).clamp_min(0)
    return (weight[:, None] * points).sum(0) / weight.sum().clamp_min(1e-20)


def _standard(values: Tensor) -> Tensor:
    centred = values - values.mean(-1, keepdim=True)
    standard: Tensor = centred / centred.norm(dim=-1, keepdim=True).clamp_min(1e-20)
    return standard


def _refined(
    target: Tensor, moving: Tensor, rotation: NDArray[np.float64], shift: NDArray[np.float64], mirrored: bool, *, free: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float64]]:
    """Highest correlation near a start, and its rotation vector of Q with its shift; only what is `free` moves."""
    points = _ball_points(target.shape[-1])
    wanted = _standard(_sampled(target, points[None]))[0]
    sign = -1.0 if mirrored else 1.0
    start, offset = torch.from_numpy(rotation).float(), torch.from_numpy(shift).float()
    place = torch.from_numpy(np.flatnonzero(free))

    def turned_and_moved(change: Tensor) -> tuple[Tensor, Tensor]:
        whole = torch.zeros(6).index_add(0, place, change)
        x, y, z = (_RADIANS * whole[:3]).unbind()
        none = torch.zeros(())
        generator = torch.stack([none, -z, y, z, none, -x, -y, x, none]).view(3, 3)
        return torch.linalg.matrix_exp(generator) @ start, offset + whole[3:]

    def loss(change: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        with torch.enable_grad():
            variable = torch.from_numpy(change).float().requires_grad_(True)
            turned, moved = turned_and_moved(variable)
            source = sign * (points - moved) @ turned
            correlation = _standard(_sampled(moving, source[None]))[0] @ wanted
            (slope,) = torch.autograd.grad(correlation, variable)
        return -float(correlation.detach()), -slope.double().numpy()

    best = np.zeros(int(free.sum()))
    if free.any():
        best = scipy.optimize.minimize(loss, best, jac=True, method="BFGS", options={"gtol": 1e-4, "maxiter": 25}).x
    turned, moved = turned_and_moved(torch.from_numpy(np.atleast_1d(best)).float())
    correlation = _standard(_sampled(moving, (sign * (points - moved) @ turned)[None]))[0] @ wanted
    return float(correlation), np.concatenate([Rotation.from_matrix(turned.double().numpy()).as_rotvec(), moved.double().numpy()])


def _free(symmetry: str) -> NDArray[np.bool_]:
    """Which of rotation (x, y, z) and shift (x, y, z) a point group leaves open."""
    name = symmetry.upper()
    if name == "C1":
        return np.ones(6, bool)
    along_z = name.startswith("C")
    return np.array([False, False, along_z, False, False, along_z])


def _symmetric_moves(symmetry: str) -> list[NDArray[np.float64]]:
    """Rotations that map the axes of a point group onto each other, one of each set that the group itself makes equal."""
    group = symmetry_matrices(symmetry)
    name, steps = symmetry.upper(), 2 * len(group)
    turns = [Rotation.from_rotvec([0, 0, 2 * math.pi * step / steps]).as_matrix() for step in range(steps)]
    flip = np.diag([1.0, -1.0, -1.0])
    tried = [*turns, *(turn @ flip for turn in turns)] if name[0] in "CD" else []
    tried += list(symmetry_matrices("O"))
    kept: list[NDArray[np.float64]] = []
    for rotation in tried:
        conjugated = rotation @ group @ rotation.T
        normal = all(any(np.allclose(element, other, atol=1e-6) for other in group) for element in conjugated)
        known = any(np.allclose(rotation, other @ element, atol=1e-6) for other in kept for element in group)
        if normal and not known:
            kept.append(rotation)
    return kept
