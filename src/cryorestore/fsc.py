"""Fourier shell correlation of two maps, and where it first crosses a threshold."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.fourier import radial_shells_3d
from cryorestore.io.mrc import read_map


@dataclass(frozen=True)
class FscCurve:
    """One FSC curve: `correlation[k]` belongs to `spatial_frequency[k]` (1/angstrom)."""

    spatial_frequency: Float[Tensor, "shells"]
    correlation: Float[Tensor, "shells"]

    def resolution(self, threshold: float) -> float | None:
        """Resolution (angstrom) at the first crossing, linearly interpolated; None if the curve never crosses."""
        below = torch.nonzero(self.correlation[1:] < threshold).flatten()
        if below.numel() == 0:
            return None
        right = int(below[0]) + 1
        (f0, f1), (c0, c1) = self.spatial_frequency[right - 1 : right + 1], self.correlation[right - 1 : right + 1]
        if c0 < threshold:
            return None if right == 1 and f0 == 0 else float(1 / f0)
        return float(1 / (f0 + (c0 - threshold) / (c0 - c1) * (f1 - f0)))


def fourier_shell_correlation(
    map_1: Float[Tensor, "box box box"],
    map_2: Float[Tensor, "box box box"],
    *,
    pixel_size: float,
) -> FscCurve:
    """Correlate two maps shell by shell (Harauz and van Heel 1986), with RELION's shells: k - 1/2 <= radius < k + 1/2.

    Counted as RELION counts: every coefficient of the half transform once, so that those of the plane kx = 0, which stand there beside
    their conjugates, weigh double. Counting them once moves a shell by up to 0.03 in a box of 72 px.

    Parameters
    ----------
    map_1, map_2
        Real-space maps of the same even box, masked already if a masked curve is wanted.
    pixel_size
        Angstrom per pixel.

    Raises
    ------
    CryorestoreError
        If the boxes differ or a map holds a value that is not finite.
    """
    if map_1.shape != map_2.shape:
        raise CryorestoreError(f"maps differ in box: {tuple(map_1.shape)} and {tuple(map_2.shape)}; reconstruct both with the same box_size")
    if not (map_1.isfinite().all() and map_2.isfinite().all()):
        raise CryorestoreError("a map holds NaN or infinite values; look at its reconstruction's log")
    box_size = map_1.shape[-1]
    shells = radial_shells_3d(box_size).flatten()
    ft_1, ft_2 = torch.fft.rfftn(map_1.double()), torch.fft.rfftn(map_2.double())
    cross, power_1, power_2 = (
        torch.zeros(box_size // 2 + 2, dtype=torch.float64).index_add_(0, shells, term.flatten())[:-1]
        for term in ((ft_1 * ft_2.conj()).real, ft_1.abs().square(), ft_2.abs().square())
    )
    return FscCurve(
        spatial_frequency=torch.arange(box_size // 2 + 1) / (box_size * pixel_size),
        correlation=(cross / (power_1 * power_2).sqrt().clamp_min(1e-30)).float(),
    )


def read_pair(path_1: str | Path, path_2: str | Path) -> tuple[Tensor, Tensor, float]:
    """Read two maps, cubes, that must agree in box and pixel size (angstrom), which is returned too.

    Raises
    ------
    CryorestoreError
        If a map is no cube, the boxes differ, a header has no pixel size, or the two differ.
    """
    (first, size_1), (second, size_2) = read_map(path_1), read_map(path_2)
    if first.shape != second.shape or len(set(first.shape)) != 1:
        found = " and ".join(f"{' x '.join(map(str, volume.shape[::-1]))} voxels in {path}" for volume, path in ((first, path_1), (second, path_2)))
        raise CryorestoreError(f"maps: found {found}, expected cubes of one box; reconstruct both with the same box_size")
    if size_1 is None or size_2 is None or abs(size_1 - size_2) > 1e-3 * size_1:
        raise CryorestoreError(f"pixel sizes: found {size_1} in {path_1} and {size_2} in {path_2}, expected the same; reconstruct both again")
    return torch.from_numpy(first), torch.from_numpy(second), size_1
