"""Power spectra of particles, and projections of each half's own reference at the montage's poses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryorestore import plots
from cryorestore.ctf import ctf_2d
from cryorestore.files import read_json
from cryorestore.fourier import radial_average, to_fourier
from cryorestore.particles import ParticleTable
from cryorestore.pose_tensors import pose_tensors
from cryorestore.project import FourierVolume
from cryorestore.reference import Reference
from cryorestore.report.pictures import Picture, Series, svg_uri

PARTICLES = 200
"""Of each half, whose spectra are averaged"""


def power_picture(raw_stars: Sequence[str | Path], restored_stars: Sequence[str | Path], noise_jsons: Sequence[str | Path]) -> Picture | None:
    """Mean power spectra of raw and restored particles of each half, and the noise that was estimated; None where there is no particle.

    Parameters
    ----------
    raw_stars, restored_stars, noise_jsons
        One a half; the restored particles are those of the method that the report shows.
    """
    curves: dict[str, tuple[Series, Series]] = {}
    colors = dict(zip(("raw", "restored", "noise"), plots.LINES, strict=False))
    counted, pixel_size = 0, 1.0
    for half, (raw, restored, noise) in enumerate(zip(raw_stars, restored_stars, noise_jsons, strict=True), start=1):
        tables = {"raw": ParticleTable.read(raw), "restored": ParticleTable.read(restored)}
        if not len(tables["raw"]):
            continue
        rows = np.unique(np.linspace(0, len(tables["raw"]) - 1, PARTICLES).astype(np.int64))
        counted, pixel_size, box_size = counted + len(rows), tables["raw"].pixel_size, tables["raw"].box_size
        frequency = np.arange(box_size // 2 + 1) / (box_size * pixel_size)
        for name, table in tables.items():
            power = radial_average(to_fourier(torch.from_numpy(table.load_images(rows))).abs().square()).mean(0)
            curves[f"{name}, half {half}"] = (frequency[1:], power.double().numpy()[1:])
        curves[f"noise, half {half}"] = (frequency[1:], np.asarray(read_json(noise)["noise_power"], float)[1:])
    if not curves:
        return None
    styles = {label: (colors[label.partition(",")[0]][0], "-" if label.endswith("1") else "--") for label in curves}
    return Picture(
        "Power spectra",
        svg_uri(plots.power_figure(curves, pixel_size=pixel_size, styles=styles)),
        f"Radial mean of the power of {counted} particles, raw and restored, of each half, beside the power of the noise.",
        f"Mean over {counted} particles spread evenly over both halves; noise as each half's own background tells it. "
        "Restored power that falls early is resolution that the method does not vouch for.",
        [*map(str, raw_stars), *map(str, restored_stars), *map(str, noise_jsons)],
    )


def reference_projections(
    names: Sequence[str], half_stars: Sequence[str | Path], reference_maps: Sequence[str | Path], noise_jsons: Sequence[str | Path]
) -> NDArray[np.float32] | None:
    """What each half's own reference map predicts for some particles: projected at their poses, with their CTFs.

    Parameters
    ----------
    names
        `rlnImageName` of the particles, as in the half's table.
    half_stars, reference_maps, noise_jsons
        One a half.

    Returns
    -------
    NDArray
        Images (n, box, box) in the grey scale of the particles; None where one of them is in neither table or has no pose.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for star, reference_map, noise in zip(half_stars, reference_maps, noise_jsons, strict=True):
        table = ParticleTable.read(star)
        places = {name: row for row, name in enumerate(table.particles.column("rlnImageName"))}
        rows = np.array([places[name] for name in names if name in places], np.int64)
        chosen = table.take(rows)
        if len(rows) and chosen.has_poses.all():
            images = _project(chosen, Reference.read(reference_map, noise))
            found |= dict(zip((name for name in names if name in places), images, strict=True))
    return np.stack([found[name] for name in names]) if names and all(name in found for name in names) else None


def _project(table: ParticleTable, reference: Reference) -> NDArray[np.float32]:
    slicer = FourierVolume(reference.volume, max_shell=reference.max_shell)
    coefficients = slicer.coefficients
    ctf = ctf_2d(table.ctf_parameters(), box_size=table.box_size, pixel_size=table.pixel_size)
    rotations, shifts = pose_tensors(table)
    slices = slicer.slices(rotations)
    images: NDArray[np.float32] = coefficients.to_images(slices * coefficients.select(ctf) * coefficients.shift_phases(shifts)).numpy()
    return images


def other_methods(names: Sequence[str], montages: Mapping[str, str | Path]) -> dict[str, NDArray[Any]]:
    """What the other methods made of the same particles, by method; a method whose montage shows others is left out."""
    others = {}
    for method, path in montages.items():
        with np.load(path, allow_pickle=False) as archive:
            if [str(name) for name in archive["image_names"]] == list(names):
                others[method] = archive["restored"]
    return others
