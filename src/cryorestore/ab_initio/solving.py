"""The M-step: the map that fits what an E-step found best, as much as the signal's power allows."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorestore.ab_initio.volumes import masked_map
from cryorestore.fourier import filtered_map
from cryorestore.posterior.bank import MatchedImages, PoseBank
from cryorestore.posterior.search import PoseWeights
from cryorestore.reconstruct.native import BackProjector, shared_out

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


@dataclass(frozen=True)
class FittedMap:
    """A map and how far it is known."""

    volume: Float[Tensor, "box box box"]
    known: Float[Tensor, "shells"]
    """share of the signal's power that the images determine, shells 0 .. box // 2: the map has been multiplied with it; 0 beyond the band limit"""


class MapSums:
    """Slices at their poses, under a point group: what a map is fitted to.

    Parameters
    ----------
    box_size
        Px.
    operators
        Of the point group. Rotations that map the grid onto itself are applied to the sums; others cost an insertion each.
    """

    def __init__(self, box_size: int, operators: Float[Tensor, "order 3 3"]) -> None:
        self._into = BackProjector(box_size)
        self.coefficients = self._into.coefficients
        self._inserted, self._applied = shared_out(operators)

    def insert(self, numerator: Complex[Tensor, "n m"], weight: Float[Tensor, "n m"], rotations: Float[Tensor, "n 3 3"]) -> None:
        """Add centred images times CTF over noise power, and CTF^2 over noise power."""
        for operator in self._inserted:
            self._into.insert(numerator, weight.sqrt(), rotations @ operator, premultiplied=True)

    def fit(self, *, images: float, signal_power: Float[Tensor, "shells"], radius_px: float, max_shell: int) -> FittedMap:
        """Maximum a posteriori map: the prior is a map within a sphere whose power per shell is the images' own.

        That power is measured without poses (`baselines.wiener.estimate_signal_power`), so that a wrong pose cannot raise it.

        Parameters
        ----------
        images
            How often each image was counted.
        signal_power
            Per shell, before the CTF, orthonormal transform.
        radius_px
            Of the sphere.
        max_shell
            The map ends here.
        """
        equations = self._into.equations(self._applied)
        filled = 4 / 3 * math.pi * (radius_px / equations.right.shape[-1]) ** 3
        shells = len(equations.weight)
        weight = equations.weight / images
        ratio = (_PADDED_VOXELS * weight * smooth_power(signal_power)[:shells] / filled).clamp(*_RATIO)
        known = torch.cat([ratio / (1 + ratio), torch.zeros(1)])
        known[max_shell + 1 :] = 0
        solved = masked_map(equations.solve(signal_to_noise=ratio), radius_px=radius_px)
        return FittedMap(masked_map(filtered_map(solved, known), radius_px=radius_px), known)


def solve_map(sums: ClassSums, bank: PoseBank, *, signal_power: Float[Tensor, "shells"], radius_px: float, max_shell: int) -> FittedMap:
    """The map that fits class averages best, as much as the signal's power allows (`MapSums.fit`).

    Parameters
    ----------
    sums
        Of one E-step or their running mean.
    bank
        That they were made with.
    signal_power, radius_px, max_shell
        As of `MapSums.fit`.
    """
    into = MapSums(bank.box_size, bank.grid.operators)
    images = bank.polar.to_images(bank.polar.from_harmonics(sums.numerator.permute(2, 1, 0))).cpu()
    numerator, shell = into.coefficients.from_images(images), into.coefficients.shell.clamp_max(bank.rings)
    # beyond the last ring the map is held at 0 as firmly as that ring is known, which keeps the equations well-conditioned
    numerator[:, into.coefficients.count(bank.rings) :] = 0
    into.insert(numerator, sums.weight.T.cpu()[:, shell], bank.grid.directions)
    return into.fit(images=1.0, signal_power=signal_power, radius_px=radius_px, max_shell=max_shell)


def smooth_power(power: Float[Tensor, "shells"]) -> Float[Tensor, "shells"]:
    """Mean over three neighbouring shells, and above 0: single shells of weak data are measured at 0 and would never be filled."""
    padded = torch.cat([power[:1], power, power[-1:]])
    return ((padded[:-2] + padded[1:-1] + padded[2:]) / 3).clamp_min(_SMALLEST_POWER)
