"""Poses on a grid: view directions spread evenly over the sphere, in-plane rotations, and shifts."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.geometry import random_rotations, symmetry_matrices

_TURN_SHARE = 0.7
"""Step of the in-plane rotation as a share of that of the direction: it costs less"""
_PHASE_STEP = 1.1
"""Radians by which neighbouring shifts, at most, turn the highest shell"""


@dataclass(frozen=True)
class PoseGrid:
    """All combinations of K view directions, `turns` in-plane rotations and S shifts.

    The rotation of direction k and turn j is Rz(2 pi j / turns) directions[k], Rz having rows (cos, sin, 0), (-sin, cos, 0), (0, 0, 1).
    """

    directions: Float[Tensor, "k 3 3"]
    turns: int
    shifts_px: Float[Tensor, "s 2"]
    """x, y, in px of the box that is searched"""
    operators: Float[Tensor, "order 3 3"]
    """of the point group; one pose of each set of equivalent ones is on the grid"""
    step: float
    """degrees between neighbouring directions"""

    @property
    def size(self) -> int:
        """How many poses there are."""
        return len(self.directions) * self.turns * len(self.shifts_px)


def make_pose_grid(*, step: float, max_shell: int, box_size: int, shift_range_px: float, symmetry: str = "C1", seed: int = 0) -> PoseGrid:
    """Spread poses evenly.

    Parameters
    ----------
    step
        Degrees between neighbouring view directions.
    max_shell
        Highest shell that is compared: shifts are as far apart as turns its phase by 1.1 radians.
    box_size, shift_range_px
        Px; shifts reach so far to each side along x and y (0: no shift but 0).
    symmetry
        Point group in RELION's setting: only directions of its asymmetric unit are taken.
    seed
        Turns the whole grid at random: grids of two passes do not coincide.
    """
    operators = torch.from_numpy(symmetry_matrices(symmetry)).float()
    count = max(4, round(4 * math.pi / math.radians(step) ** 2))
    turned = torch.from_numpy(random_rotations(1, np.random.default_rng(seed))[0]).float()
    directions = _fibonacci_directions(count) @ turned
    directions = directions[_in_asymmetric_unit(directions[:, 2], operators)]
    steps = math.ceil(2 * shift_range_px / (_PHASE_STEP * box_size / (2 * math.pi * max_shell)) - 1e-6)
    axis = torch.linspace(-shift_range_px, shift_range_px, steps + 1)
    shifts = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    return PoseGrid(directions, max(4, round(360 / (_TURN_SHARE * step))), shifts, operators, step)


def turned_directions(directions: Float[Tensor, "*batch 3 3"], angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Rz(angle) directions; angle in radians."""
    cosine, sine = angle.cos()[..., None], angle.sin()[..., None]
    first, second, third = directions.unbind(-2)
    return torch.stack([cosine * first + sine * second, cosine * second - sine * first, third], -2)


def _fibonacci_directions(count: int) -> Tensor:
    """Rotations whose third rows lie on a Fibonacci spiral (Gonzalez 2010), in-plane rotation 0."""
    place = torch.arange(count, dtype=torch.float64) + 0.5
    tilt, rot = torch.acos(1 - 2 * place / count), (math.pi * (1 + 5**0.5) * place) % (2 * math.pi)
    ct, st, cr, sr = tilt.cos(), tilt.sin(), rot.cos(), rot.sin()
    rows = [ct * cr, ct * sr, -st, -sr, cr, torch.zeros_like(cr), st * cr, st * sr, ct]
    return torch.stack(rows, -1).reshape(-1, 3, 3).float()


def _in_asymmetric_unit(views: Tensor, operators: Tensor) -> Tensor:
    """Directions nearer to a point without symmetry than any of their equivalents."""
    inside = torch.tensor([0.2231, 0.4517, 0.8638])
    closeness = torch.einsum("kj,ojl,l->ko", views, operators, inside)
    return closeness[:, 0] >= closeness.amax(1) - 1e-6
