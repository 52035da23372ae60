"""The M-step: the map that fits the class averages of an E-step best, as much as the signal's power allows."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.ab_initio.volumes import filtered_map, masked_map
from cryorestore.posterior.bank import MatchedImages, PoseBank
from cryorestore.posterior.search import PoseWeights
from cryorestore.reconstruct.native import BackProjector

_PADDED_VOXELS = 8
"""Grid points of the padded transform, in which slices are added up, for each one of the map's own"""
_RATIO = (1e-3, 1e3)
_SMALLEST_POWER = 1e-6


class ClassSums:
    """What the images put into each direction of a bank, turned and shifted back with their posterior weights."""

    def __init__(self, bank: PoseBank) -> None:
        directions, rings = len(bank.grid.directions), bank.rings + 1
        self.numerator = torch.zeros(bank.polar.harmonics + 1, rings, directions, dtype=torch.complex64, device=bank.device)
        self.weight = torch.zeros(rings, directions, device=bank.device)

    def add(self, matched: MatchedImages, weights: PoseWeights) -> None:
        """Add a batch of images."""
        data = matched.harmonics.flatten(0, 1).permute(2, 1, 0)
        self.numerator += torch.bmm(data, weights.turned.flatten(1, 2))
        self.weight += matched.ctf_power.T @ weights.by_direction

    def mixed(self, other: "ClassSums", share: float) -> None:
        """Move towards `other` by a share: a running mean."""
        self.numerator.lerp_(other.numerator, share)
        self.weight.lerp_(other.weight, share)

    def scaled(self, factor: float) -> None:
        """Count every image `factor` times."""
        self.numerator *= factor
        self.weight *= factor


def solve_map(
    sums: ClassSums, bank: PoseBank, *, signal_power: Float[Tensor, "shells"], radius_px: float, max_shell: int
) -> Float[Tensor, "box box box"]:
    """Maximum a posteriori map: the prior is a map within a sphere whose power per shell is the images' own.

    That power is measured without poses (`baselines.wiener.estimate_signal_power`), so that a wrong pose cannot raise it.

    Parameters
    ----------
    sums
        Of one E-step or their running mean.
    bank
        That they were made with.
    signal_power
        Per shell, before the CTF, orthonormal transform.
    radius_px
        Of the sphere.
    max_shell
        The map ends here.
    """
    box_size, operators = bank.box_size, bank.grid.operators
    on_grid = bool((operators - operators.round()).abs().max() < 1e-6)
    into = BackProjector(box_size)
    images = bank.polar.to_images(bank.polar.from_harmonics(sums.numerator.permute(2, 1, 0))).cpu()
    numerator, shell = into.coefficients.from_images(images), into.coefficients.shell.clamp_max(bank.rings)
    # beyond the last ring the map is held at 0 as firmly as that ring is known, which keeps the equations well-conditioned
    numerator[:, into.coefficients.count(bank.rings) :] = 0
    weight = sums.weight.T.cpu()[:, shell]
    for operator in operators[:1] if on_grid else operators:
        into.insert(numerator, weight.sqrt(), bank.grid.directions @ operator, premultiplied=True)
    equations = into.equations(operators if on_grid else None)
    filled = 4 / 3 * math.pi * (radius_px / box_size) ** 3
    shells = len(equations.weight)
    ratio = (_PADDED_VOXELS * equations.weight * smooth_power(signal_power)[:shells] / filled).clamp(*_RATIO)
    shrinkage = ratio / (1 + ratio)
    shrinkage[max_shell + 1 :] = 0
    solved = masked_map(equations.solve(signal_to_noise=ratio), radius_px=radius_px)
    return masked_map(filtered_map(solved, shrinkage), radius_px=radius_px)


def smooth_power(power: Float[Tensor, "shells"]) -> Float[Tensor, "shells"]:
    """Mean over three neighbouring shells, and above 0: single shells of weak data are measured at 0 and would never be filled."""
    padded = torch.cat([power[:1], power, power[-1:]])
    return ((padded[:-2] + padded[1:-1] + padded[2:]) / 3).clamp_min(_SMALLEST_POWER)
