"""The mask of an FSC: a soft sphere, or the tight mask that RELION makes of a low-passed map. It is for curves only, never for training targets.

A mask made from both halves' mean would carry one half into what the other learns from. Training has the sphere under `mask`, which
is made from no data.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.files import files_together, write_json
from cryorestore.fsc import read_pair
from cryorestore.io.mrc import read_map, write_map
from cryorestore.logs import get_logger
from cryorestore.masks import soft_sphere
from cryorestore.resolution.filters import low_pass

_SIGMAS = 5.0
_SHARE_OF_TOP = 0.15
_TOP_QUANTILE = 0.999
_LEAST_VOXELS = 8


@files_together()
def make_fsc_mask(
    *,
    half_map_1: str | Path,
    half_map_2: str | Path,
    mask: str | Path,
    figures: str | Path,
    kind: str = "auto",
    lowpass: float = 15.0,
    threshold: float | None = None,
    extend: float = 3.0,
    edge: float = 6.0,
    mask_radius: float,
    mask_edge: float,
) -> None:
    """Write the mask under which the half-maps of every stack of a data set are correlated, and how it was made (JSON).

    Parameters
    ----------
    half_map_1, half_map_2
        Half-maps of the raw particles; their mean is what `auto` looks at.
    mask, figures
        Outputs: the mask, 0 to 1, and its threshold, volume and making.
    kind
        `auto`: low-pass, threshold, extend, soft edge; `sphere`: the soft sphere of `mask_radius` and `mask_edge`.
    lowpass
        Of `auto`: the mean map is filtered to this before the threshold, angstrom.
    threshold
        Of `auto`: grey value of the low-passed map at which the particle begins; None finds it (`automatic_threshold`).
    extend, edge
        Of `auto`: px by which the thresholded region grows, and width of its cosine edge.
    mask_radius, mask_edge
        Sphere round the particle, angstrom; outside of it `auto` takes the map for background.

    Raises
    ------
    CryorestoreError
        If the kind is unknown or the threshold leaves no particle.
    """
    first, second, pixel_size = read_pair(half_map_1, half_map_2)
    sphere = soft_sphere(first.shape[-1], mask_radius / pixel_size, mask_edge / pixel_size)
    content: dict[str, float | str | None] = {"kind": kind, "mask_radius": mask_radius, "mask_edge": mask_edge}
    if kind == "sphere":
        made = sphere
    elif kind == "auto":
        filtered = low_pass(0.5 * (first + second), resolution=lowpass, pixel_size=pixel_size)
        level = automatic_threshold(filtered, background=sphere == 0) if threshold is None else threshold
        made = tight_mask(filtered, threshold=level, extend_px=extend, edge_px=edge)
        content |= {"lowpass": lowpass, "threshold": level, "extend": extend, "edge": edge}
    else:
        raise CryorestoreError(f"fsc mask: found {kind!r}, expected sphere or auto; change fsc.mask in the configuration")
    share = float(made.mean())
    get_logger().info("mask for the FSC (%s): %.1f %% of the box", kind, 100 * share)
    write_map(mask, made.numpy(), pixel_size=pixel_size)
    write_json(figures, {**content, "pixel_size": pixel_size, "share_of_box": share, "volume_nm3": share * (first.shape[-1] * pixel_size / 10) ** 3})


def automatic_threshold(filtered: Float[Tensor, "box box box"], *, background: Tensor) -> float:
    """Grey value at which the particle begins: 5 sigmas above the background, or 0.15 of the way to the densest voxels if that is more.

    Parameters
    ----------
    filtered
        Low-passed map, white particle.
    background
        Truth values: voxels far from the particle. The second rule is for maps so good that the background is flat.
    """
    values = filtered[background] if int(background.sum()) >= filtered.shape[-1] else filtered.flatten()
    middle = float(np.median(values.numpy()))
    sigma = 1.4826 * float(np.median(np.abs(values.numpy() - middle)))
    top = float(np.quantile(filtered.numpy(), _TOP_QUANTILE))
    return max(middle + _SIGMAS * sigma, middle + _SHARE_OF_TOP * (top - middle))


def tight_mask(filtered: Float[Tensor, "box box box"], *, threshold: float, extend_px: float, edge_px: float) -> Float[Tensor, "box box box"]:
    """Threshold a low-passed map, extend the region and give it a cosine edge, as relion_mask_create does.

    Raises
    ------
    CryorestoreError
        If hardly any voxel reaches the threshold.
    """
    seed = filtered.numpy() >= threshold
    if seed.sum() < _LEAST_VOXELS:
        raise CryorestoreError(
            f"fsc.auto_mask.threshold = {threshold:.4g}: {int(seed.sum())} voxels of the low-passed map reach it, its maximum is "
            f"{float(filtered.max()):.4g}; expected a particle; lower it, or set fsc.mask to sphere"
        )
    extended = seed | (_distance(seed) < extend_px)
    distance = _distance(extended)
    soft = np.where(distance < edge_px, 0.5 + 0.5 * np.cos(np.pi * distance / max(edge_px, 1e-6)), 0.0)
    return torch.from_numpy(np.where(extended, 1.0, soft).astype(np.float32))


def read_mask(path: str | Path, *, box_size: int) -> Float[Tensor, "box box box"]:
    """Read a mask for maps of `box_size`.

    Raises
    ------
    CryorestoreError
        If its box is another one, its values leave 0 to 1 or it is empty.
    """
    values, _ = read_map(path)
    if values.shape != (box_size,) * 3:
        raise CryorestoreError(f"{path}: found a mask of {values.shape} voxels, expected the maps' {(box_size,) * 3}; resample it to their box")
    if values.min() < -1e-6 or values.max() > 1 + 1e-6 or values.max() == 0:
        raise CryorestoreError(f"{path}: found values {values.min():.4g} to {values.max():.4g}, expected 0 (solvent) to 1 (particle); scale the mask")
    return torch.from_numpy(values)


def _distance(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance of every voxel to the nearest one of the region, px."""
    distance: NDArray[np.float64] = distance_transform_edt(~region)
    return distance
