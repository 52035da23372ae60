"""Fourier shell correlation of two maps, and where it first crosses a threshold."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path, write_json
from cryorestore.fourier import hermitian_weights, radial_shells_3d
from cryorestore.io.mrc import read_map
from cryorestore.masks import soft_sphere
from cryorestore.plots import plot_fsc


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
    weights = hermitian_weights(box_size).double().expand(box_size, box_size, -1).flatten()
    ft_1, ft_2 = torch.fft.rfftn(map_1.double()), torch.fft.rfftn(map_2.double())
    cross, power_1, power_2 = (
        torch.zeros(box_size // 2 + 2, dtype=torch.float64).index_add_(0, shells, term.flatten() * weights)[:-1]
        for term in ((ft_1 * ft_2.conj()).real, ft_1.abs().square(), ft_2.abs().square())
    )
    return FscCurve(
        spatial_frequency=torch.arange(box_size // 2 + 1) / (box_size * pixel_size),
        correlation=(cross / (power_1 * power_2).sqrt().clamp_min(1e-30)).float(),
    )


def write_fsc(
    *,
    half_map_1: str | Path,
    half_map_2: str | Path,
    curve: str | Path,
    plot: str | Path,
    figures: str | Path,
    thresholds: Sequence[float] = (0.5, 0.143),
    mask: str = "none",
    mask_radius: float = 0.0,
    mask_edge: float = 10.0,
    label: str = "half-map FSC",
) -> None:
    """Correlate two half-maps and write the curve (CSV), its picture (SVG) and its crossings (JSON).

    Parameters
    ----------
    half_map_1, half_map_2
        Maps (MRC) of the same box and pixel size.
    curve, plot, figures
        Outputs.
    thresholds
        Correlations whose first crossing is reported.
    mask
        `none`, or `soft_sphere` of `mask_radius` and `mask_edge`, angstrom.
    label
        Name of the curve in the picture.
    """
    first, second, pixel_size = read_pair(half_map_1, half_map_2)
    _write_curve(first, second, pixel_size, curve, plot, figures, thresholds, mask, mask_radius, mask_edge, label)


def write_truth_fsc(
    *,
    half_map_1: str | Path,
    half_map_2: str | Path,
    truth_map: str | Path,
    curve: str | Path,
    plot: str | Path,
    figures: str | Path,
    thresholds: Sequence[float] = (0.5, 0.143),
    mask: str = "none",
    mask_radius: float = 0.0,
    mask_edge: float = 10.0,
    label: str = "FSC to the truth",
) -> None:
    """Correlate the mean of two half-maps with the true map (simulated data); outputs and options as in `write_fsc`."""
    first, second, pixel_size = read_pair(half_map_1, half_map_2)
    truth = torch.from_numpy(read_map(truth_map)[0])
    _write_curve(0.5 * (first + second), truth, pixel_size, curve, plot, figures, thresholds, mask, mask_radius, mask_edge, label)


def read_pair(path_1: str | Path, path_2: str | Path) -> tuple[Tensor, Tensor, float]:
    """Read two maps that must agree in pixel size (angstrom), which is returned too.

    Raises
    ------
    CryorestoreError
        If a header has no pixel size, or the two differ.
    """
    (first, size_1), (second, size_2) = read_map(path_1), read_map(path_2)
    if size_1 is None or size_2 is None or abs(size_1 - size_2) > 1e-3 * size_1:
        raise CryorestoreError(f"pixel sizes: found {size_1} in {path_1} and {size_2} in {path_2}, expected the same; reconstruct both again")
    return torch.from_numpy(first), torch.from_numpy(second), size_1


def apply_mask(volume: Tensor, *, mask: str, mask_radius: float, mask_edge: float, pixel_size: float) -> Tensor:
    """Multiply with the named mask; radius and edge in angstrom.

    Raises
    ------
    CryorestoreError
        If the name is unknown.
    """
    if mask == "none":
        return volume
    if mask != "soft_sphere":
        raise CryorestoreError(f"fsc mask: found {mask!r}, expected none or soft_sphere; change it in the configuration")
    return volume * soft_sphere(volume.shape[-1], mask_radius / pixel_size, mask_edge / pixel_size)


def _write_curve(
    first: Tensor,
    second: Tensor,
    pixel_size: float,
    curve: str | Path,
    plot: str | Path,
    figures: str | Path,
    thresholds: Sequence[float],
    mask: str,
    mask_radius: float,
    mask_edge: float,
    label: str,
) -> None:
    masked = [apply_mask(volume, mask=mask, mask_radius=mask_radius, mask_edge=mask_edge, pixel_size=pixel_size) for volume in (first, second)]
    result = fourier_shell_correlation(*masked, pixel_size=pixel_size)
    with atomic_path(curve) as temporary:
        rows = ["shell,spatial_frequency,resolution,fsc"]
        for shell, (frequency, value) in enumerate(zip(result.spatial_frequency.tolist(), result.correlation.tolist(), strict=True)):
            rows.append(f"{shell},{frequency:.6f},{f'{1 / frequency:.4f}' if frequency else 'inf'},{value:.6f}")
        temporary.write_text("\n".join(rows) + "\n", encoding="utf-8")
    plot_fsc({label: (result.spatial_frequency.numpy(), result.correlation.numpy())}, plot, thresholds=thresholds, pixel_size=pixel_size)
    content: dict[str, Any] = {
        "pixel_size": pixel_size,
        "box_size": first.shape[-1],
        "mask": mask,
        "mask_radius": mask_radius if mask != "none" else None,
        "resolutions": {f"{threshold:g}": result.resolution(threshold) for threshold in thresholds},
    }
    write_json(figures, content)
