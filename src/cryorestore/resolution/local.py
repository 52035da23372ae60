"""Local resolution: the FSC of two half-maps in a soft sphere that moves over the map (Cardone et al. 2013)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.files import files_together, write_json
from cryorestore.fourier import radial_shells_3d
from cryorestore.fsc import read_pair
from cryorestore.io.mrc import write_map
from cryorestore.logs import get_logger, progress
from cryorestore.masks import soft_sphere
from cryorestore.resolution.masking import read_mask

_WINDOW_VOXELS = 1 << 21
"""Voxels of the windows that are transformed at once: about 150 MB with their transforms"""
_INSIDE = 0.5
_LEAST_WINDOW = 8


@files_together()
def map_local_resolution(
    *,
    half_map_1: str | Path,
    half_map_2: str | Path,
    map: str | Path,
    figures: str | Path,
    mask_file: str | Path | None = None,
    threshold: float = 0.5,
    radius: float = 25.0,
    edge: float = 25.0,
    sampling: float = 12.0,
    mask_radius: float,
    mask_edge: float,
    threads: int = 1,
) -> None:
    """Write the local resolution of two half-maps as a map, in angstrom, 0 outside of the mask.

    Parameters
    ----------
    half_map_1, half_map_2
        Half-maps of the raw particles.
    map, figures
        Outputs: the map, and its quantiles inside the mask (JSON).
    mask_file
        Where to look; None is the sphere of `mask_radius` and `mask_edge`.
    threshold
        Correlation at whose first crossing the resolution is read. A window has few coefficients a shell, so that 0.143 is crossed by chance.
    radius, edge
        Of the moving sphere: radius of its flat part, and width of its cosine edge, angstrom.
    sampling
        Distance between the sphere's places, angstrom; between them the spatial frequency is interpolated.
    mask_radius, mask_edge
        Sphere round the particle, angstrom.
    threads
        Of the arithmetic.

    Raises
    ------
    CryorestoreError
        If the moving sphere is too small to have shells, or larger than the box.
    """
    torch.set_num_threads(threads)
    first, second, pixel_size = read_pair(half_map_1, half_map_2)
    box_size = first.shape[-1]
    sphere = soft_sphere(box_size, mask_radius / pixel_size, mask_edge / pixel_size)
    inside = (sphere if mask_file is None else read_mask(mask_file, box_size=box_size)) > _INSIDE
    if not inside.any():
        raise CryorestoreError(f"{mask_file}: no voxel is above {_INSIDE}, expected a particle; give a mask that is 1 inside")
    window = _window(box_size, radius / pixel_size, edge / pixel_size)
    frequency = local_frequency(first, second, inside, window=window, step=max(1, round(sampling / pixel_size)), threshold=threshold)
    resolution = torch.where(inside, pixel_size / frequency, 0.0)
    write_map(map, resolution.numpy(), pixel_size=pixel_size)
    levels = {f"{share:g}": float(np.quantile(resolution[inside].numpy(), share)) for share in (0.05, 0.25, 0.5, 0.75, 0.95)}
    content = {"threshold": threshold, "radius": radius, "edge": edge, "sampling": sampling, "pixel_size": pixel_size}
    limits = {"finest": 2 * pixel_size, "coarsest": window.shape[-1] * pixel_size}
    write_json(
        figures,
        {**content, **limits, "window_box_size": window.shape[-1], "mask": None if mask_file is None else str(mask_file), "quantiles": levels},
    )
    get_logger().info("local resolution %.2f to %.2f angstrom (5 and 95 %% of the mask)", levels["0.05"], levels["0.95"])


def local_frequency(
    map_1: Float[Tensor, "box box box"],
    map_2: Float[Tensor, "box box box"],
    inside: Bool[Tensor, "box box box"],
    *,
    window: Float[Tensor, "small small small"],
    step: int,
    threshold: float,
) -> Float[Tensor, "box box box"]:
    """Spatial frequency (1/px) at which the local FSC first falls below `threshold`, for every voxel; between 1 / window and 1/2.

    Parameters
    ----------
    map_1, map_2
        Half-maps.
    inside
        Voxels that are asked for; elsewhere the nearest place's value stands.
    window
        Weights that are moved over the maps, in an even box.
    step
        Px between the window's places; windows may reach over the box's edge, where the maps are taken for 0.
    """
    box_size, small = map_1.shape[-1], window.shape[-1]
    count = -(-(box_size - 1) // step) + 1
    wanted = _near(inside, step, count)
    places = torch.nonzero(wanted)
    padding = [small // 2, small // 2] * 3
    padded = [torch.nn.functional.pad(volume, padding) for volume in (map_1, map_2)]
    shells = radial_shells_3d(small).flatten()
    at_places = torch.full((count,) * 3, torch.nan)
    for some in _batches(places, max(1, _WINDOW_VOXELS // small**3)):
        windows = [torch.stack([_cut(volume, place, small) for place in (some * step).clamp_max(box_size - 1)]) * window for volume in padded]
        at_places[tuple(some.T)] = _first_crossing(_correlations(windows[0], windows[1], shells), threshold) / small
    filled = _fill(at_places)
    size = step * (count - 1) + 1
    fine = torch.nn.functional.interpolate(filled[None, None], size=(size,) * 3, mode="trilinear", align_corners=True)[0, 0]
    between: Tensor = fine[:box_size, :box_size, :box_size]
    return between


def _window(box_size: int, radius_px: float, edge_px: float) -> Tensor:
    small = 2 * (int(radius_px + edge_px) + 1)
    if not _LEAST_WINDOW <= small <= box_size:
        raise CryorestoreError(
            f"local_resolution.radius + edge = {radius_px + edge_px:.3g} px: found a window of {small} px, "
            f"expected {_LEAST_WINDOW} to the box's {box_size}; change them"
        )
    return soft_sphere(small, radius_px, edge_px)


def _near(inside: Tensor, step: int, count: int) -> Tensor:
    """Places of the coarse grid that some voxel inside is interpolated from."""
    size = step * (count - 1) + 1
    padded = torch.nn.functional.pad(inside.float(), [0, size - inside.shape[-1]] * 3)
    pooled = torch.nn.functional.max_pool3d(padded[None, None], 2 * step - 1, stride=step, padding=step - 1)[0, 0]
    return pooled > 0


def _batches(places: Int[Tensor, "n 3"], size: int) -> Iterator[Tensor]:
    yield from progress(list(places.split(size)), description="local resolution")


def _cut(volume: Tensor, corner: Tensor, size: int) -> Tensor:
    z, y, x = (slice(start, start + size) for start in corner.tolist())
    return volume[z, y, x]


def _correlations(first: Tensor, second: Tensor, shells: Tensor) -> Tensor:
    """FSC of each pair of windows, shells 0 .. size // 2."""
    size = first.shape[-1]
    transforms = [torch.fft.rfftn(part, dim=(1, 2, 3)).flatten(1) for part in (first, second)]
    cross, power_1, power_2 = (
        torch.zeros(len(first), size // 2 + 2).index_add_(1, shells, term)[:, :-1]
        for term in ((transforms[0] * transforms[1].conj()).real, transforms[0].abs().square(), transforms[1].abs().square())
    )
    return cross / (power_1 * power_2).sqrt().clamp_min(1e-30)


def _first_crossing(correlation: Tensor, threshold: float) -> Tensor:
    """Shell, interpolated, where each curve first falls below `threshold` after shell 0; at least 1, and the last one where it never does."""
    below = correlation[:, 1:] < threshold
    right = torch.where(below.any(1), below.float().argmax(1) + 1, correlation.shape[1] - 1)
    left = right - 1
    high, low = correlation.gather(1, left[:, None])[:, 0], correlation.gather(1, right[:, None])[:, 0]
    part = ((high - threshold) / (high - low).clamp_min(1e-6)).clamp(0, 1)
    return torch.where(below.any(1), (left + part).clamp_min(1.0), right.float())


def _fill(values: Tensor) -> Tensor:
    """Give places that were not asked for the value of the nearest one that was."""
    missing = values.isnan().numpy()
    nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
    return values[tuple(torch.from_numpy(np.asarray(axis)).long() for axis in nearest)]
