"""Maps for the report's 3D view: small, in 16 bits, with a level for each share of the box that a surface may enclose."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryorestore.resolution.filters import low_pass_coefficients

Volume = NDArray[np.float32]

LARGEST_BOX = 64
"""Voxels a side of an embedded map: larger ones are Fourier-cropped"""
SHARES = tuple(float(share) for share in np.round(np.geomspace(0.0005, 0.2, 53), 6))
"""Of the box inside the surface, for the level's slider"""
FIRST_SHARE_SIGMAS = 3.0
COLORS = ("#b4bcc6", "#3fb5a8", "#e79a5b", "#7fa6f0", "#c58ad6")


def isosurface_maps(volumes: Mapping[str, Volume], *, pixel_size: float, resolution: float | None) -> dict[str, Any]:
    """Maps as the page's script reads them.

    All maps are contoured at the level that encloses the same share of the box: their grey scales cannot be compared, their volumes can.

    Parameters
    ----------
    volumes
        Maps by label, axes z, y, x, of one box.
    pixel_size
        Angstrom per voxel.
    resolution
        What every map is low-passed to, angstrom: a surface of noise beyond it says nothing. None leaves them.

    Returns
    -------
    dict
        `maps`: `label`, `color`, `values` (base64 of int16, little-endian, axes x, y, z) and `levels`, one for each of `shares`;
        `start`: the share shown first, where the last map exceeds three standard deviations; `box_size`, `voxel_size` (angstrom).
    """
    box_size = next(iter(volumes.values())).shape[-1]
    small = min(box_size, LARGEST_BOX)
    maps = []
    for (label, volume), color in zip(volumes.items(), COLORS, strict=False):
        cropped = small_map(volume, small, pixel_size=pixel_size, resolution=resolution)
        scale = 32000 / max(float(np.abs(cropped).max()), 1e-30)
        values = np.round(cropped.T * scale).astype("<i2")
        levels = np.quantile(values, [1 - share for share in SHARES])
        text = base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
        maps.append({"label": label, "color": color, "values": text, "levels": [float(level) for level in levels]})
    share = float((cropped > cropped.mean() + FIRST_SHARE_SIGMAS * cropped.std()).mean())
    start = int(np.argmin(np.abs(np.log(SHARES) - np.log(max(share, SHARES[0])))))
    return {"maps": maps, "shares": list(SHARES), "start": start, "box_size": small, "voxel_size": pixel_size * box_size / small}


def small_map(volume: Volume, box_size: int, *, pixel_size: float, resolution: float | None) -> Volume:
    """Low-pass a map (z, y, x) to `resolution` (angstrom; None leaves it) and rescale it to a smaller even box; grey values stay.

    Centre stays at box // 2: both boxes are even, so keeping the corners of the transform is enough.
    """
    full = volume.shape[-1]
    transform = torch.fft.rfftn(torch.from_numpy(volume))
    if resolution is not None:
        transform = low_pass_coefficients(transform, resolution=resolution, pixel_size=pixel_size)
    if full > box_size:
        kept = torch.arange(-(box_size // 2), box_size // 2).roll(box_size // 2)
        transform = transform[kept][:, kept][:, :, : box_size // 2 + 1] * (box_size / full) ** 3
    size = min(full, box_size)
    small: Volume = torch.fft.irfftn(transform, s=(size, size, size)).numpy()
    return small
