"""The sharpened map of raw half-maps: Guinier B-factor, FSC weights and low-pass, as in relion_postprocess (Rosenthal and Henderson 2003)."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path, files_together, read_json, write_json
from cryorestore.fourier import radial_shells_3d
from cryorestore.fsc import read_pair
from cryorestore.io.mrc import write_map
from cryorestore.io.star import Cells, StarBlock, write_star
from cryorestore.logs import get_logger
from cryorestore.resolution.curve_files import pairs_block
from cryorestore.resolution.filters import low_pass_coefficients, squared_radius
from cryorestore.resolution.pictures import guinier_figure, write_figure

_LEAST_FSC = 1e-4
"""The weights end at the first shell with less"""
_LEAST_POINTS = 5
"""Shells of a fit; a line through fewer says more of the noise than of the map"""
_EMPTY = -99.0
"""What RELION writes for the logarithm of nothing"""

Column = NDArray[np.float64]


@dataclass(frozen=True)
class GuinierFit:
    """ln(amplitude) = intercept + slope / resolution^2; the B-factor is 4 slopes (angstrom^2)."""

    slope: float
    intercept: float
    r_squared: float
    points: int


@files_together()
def sharpen_map(
    *,
    half_map_1: str | Path,
    half_map_2: str | Path,
    curve: str | Path,
    figures: str | Path,
    map: str | Path,
    guinier: str | Path,
    plot: str | Path,
    star: str | Path,
    sharpening: str | Path,
    bfactor: float | None = None,
    fit_from: float = 10.0,
    fit_to: float | None = None,
    fsc_weighting: bool = True,
    lowpass: float | None = None,
) -> None:
    """Sharpen the mean of two raw half-maps and write it with its Guinier plot.

    Parameters
    ----------
    half_map_1, half_map_2
        Half-maps of the raw particles.
    curve, figures
        Their FSC, as `write_fsc` writes it (CSV and JSON): the headline curve gives weights and resolution.
    map
        Output: the sharpened map, not masked.
    guinier, plot, star, sharpening
        Outputs: ln(amplitude) of each shell before and after (CSV, SVG, RELION's `data_guinier`), and what was applied (JSON).
    bfactor
        Angstrom^2, negative sharpens; None fits it.
    fit_from, fit_to
        Resolutions between which the line is fitted, angstrom; `fit_to` None is as far as the FSC is positive.
    fsc_weighting
        Multiply each shell by sqrt(2 FSC / (1 + FSC)).
    lowpass
        Angstrom; None is the headline resolution at 0.143, and nothing where the curve never falls below that.
    """
    first, second, pixel_size = read_pair(half_map_1, half_map_2)
    coefficients = torch.fft.rfftn(0.5 * (first + second), norm="forward")
    amplitudes = {"ln_amplitude": shell_amplitudes(coefficients)}
    if fsc_weighting:
        coefficients = coefficients * _spread(fsc_weights(_read_curve(curve, first.shape[-1])), first.shape[-1])
        amplitudes["ln_amplitude_weighted"] = shell_amplitudes(coefficients)
    squared = (torch.arange(first.shape[-1] // 2 + 1).double() / (first.shape[-1] * pixel_size)).square().numpy()
    fit = None if bfactor is not None else fit_guinier(squared, list(amplitudes.values())[-1], fit_from=fit_from, fit_to=fit_to)
    applied = bfactor if bfactor is not None else 4 * fit.slope if fit is not None else 0.0
    coefficients = apply_bfactor(coefficients, bfactor=applied, pixel_size=pixel_size)
    amplitudes["ln_amplitude_sharpened"] = shell_amplitudes(coefficients)
    resolution = lowpass or read_json(figures)["resolutions"].get("0.143")
    if resolution is not None:
        coefficients = low_pass_coefficients(coefficients, resolution=resolution, pixel_size=pixel_size)
    write_map(map, torch.fft.irfftn(coefficients, s=first.shape, norm="forward").numpy(), pixel_size=pixel_size)
    line = None if fit is None else (fit.slope, fit.intercept)
    _write_guinier(guinier, squared, amplitudes)
    write_figure(guinier_figure(squared, {name.replace("_", " "): values for name, values in amplitudes.items()}, line=line), svg=plot)
    content = _content(applied, bfactor, fit, fit_from=fit_from, fit_to=fit_to, resolution=resolution, pixel_size=pixel_size)
    _write_guinier_star(star, squared, amplitudes, applied, fit, half_maps=(str(half_map_1), str(half_map_2)))
    write_json(sharpening, content)
    get_logger().info("sharpened with a B-factor of %.1f angstrom^2 (%s)", applied, content["bfactor_from"])


def fsc_weights(correlation: Float[Tensor, "shells"]) -> Float[Tensor, "shells"]:
    """sqrt(2 FSC / (1 + FSC)) up to the first shell below 0.0001, zero from there on; 1 in shell 0, the mean, whose correlation may be -1."""
    below = torch.nonzero(correlation[1:] < _LEAST_FSC).flatten()
    end = int(below[0]) + 1 if below.numel() else len(correlation)
    weights = (2 * correlation[1:end] / (1 + correlation[1:end])).sqrt()
    return torch.cat([torch.ones(1), weights, torch.zeros(len(correlation) - end)])


def shell_amplitudes(coefficients: Complex[Tensor, "box box half"]) -> Column:
    """Logarithm of the mean amplitude in each shell 0 .. box // 2 of an rfftn divided by the number of voxels; NaN where there is none."""
    box_size = coefficients.shape[0]
    shells = radial_shells_3d(box_size).flatten()
    sums = torch.zeros(box_size // 2 + 2, dtype=torch.float64).index_add_(0, shells, coefficients.abs().double().flatten())
    mean = (sums / torch.bincount(shells, minlength=len(sums)))[:-1].numpy()
    logarithm: Column = np.log(mean, out=np.full(len(mean), np.nan), where=mean > 0)
    return logarithm


def fit_guinier(squared_frequency: Column, ln_amplitude: Column, *, fit_from: float, fit_to: float | None) -> GuinierFit | None:
    """Fit a line to ln(amplitude) against 1/resolution^2 between two resolutions (angstrom); None where fewer than 5 shells lie there."""
    inside = np.isfinite(ln_amplitude) & (squared_frequency >= 1 / fit_from**2)
    if fit_to is not None:
        inside &= squared_frequency <= 1 / fit_to**2
    if inside.sum() < _LEAST_POINTS:
        return None
    x, y = squared_frequency[inside], ln_amplitude[inside]
    slope, intercept = np.polyfit(x, y, 1)
    return GuinierFit(float(slope), float(intercept), float(np.corrcoef(x, y)[0, 1] ** 2), int(inside.sum()))


def apply_bfactor(coefficients: Complex[Tensor, "box box half"], *, bfactor: float, pixel_size: float) -> Complex[Tensor, "box box half"]:
    """Multiply by exp(-B / 4 / resolution^2) up to Nyquist and by nothing beyond; B in angstrom^2."""
    box_size = coefficients.shape[0]
    radius = squared_radius(box_size)
    factors = torch.exp(-bfactor / 4 * radius.double() / (box_size * pixel_size) ** 2).float()
    return coefficients * torch.where(radius <= (box_size // 2) ** 2, factors, 0.0)


def _spread(per_shell: Tensor, box_size: int) -> Tensor:
    return torch.cat([per_shell, torch.zeros(1)])[radial_shells_3d(box_size)]


def _read_curve(path: str | Path, box_size: int) -> Tensor:
    with Path(path).open(newline="", encoding="utf-8") as stream:
        values = torch.tensor([float(row["fsc"]) for row in csv.DictReader(stream)])
    if len(values) != box_size // 2 + 1:
        raise CryorestoreError(f"{path}: found {len(values)} shells, expected {box_size // 2 + 1} for a box of {box_size} px; compute the FSC again")
    return values


def _write_guinier(path: str | Path, squared: Column, amplitudes: dict[str, Column]) -> None:
    rows = [",".join(["shell", "squared_frequency", *amplitudes])]
    for shell, values in enumerate(zip(squared, *amplitudes.values(), strict=True)):
        cells = ["" if np.isnan(value) else f"{value:.6f}" for value in values[1:]]
        rows.append(",".join([str(shell), f"{values[0]:.8f}", *cells]))
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(rows) + "\n", encoding="utf-8")


def _write_guinier_star(
    path: str | Path, squared: Column, amplitudes: dict[str, Column], bfactor: float, fit: GuinierFit | None, *, half_maps: tuple[str, str]
) -> None:
    general = {"rlnBfactorUsedForSharpening": f"{bfactor:.6f}", "rlnUnfilteredMapHalf1": half_maps[0], "rlnUnfilteredMapHalf2": half_maps[1]}
    if fit is not None:
        general["rlnFittedSlopeGuinierPlot"] = f"{fit.slope:.6f}"
        general["rlnFittedInterceptGuinierPlot"] = f"{fit.intercept:.6f}"
        general["rlnCorrelationFitGuinierPlot"] = f"{fit.r_squared:.6f}"
    names = {
        "ln_amplitude": "rlnLogAmplitudesOriginal",
        "ln_amplitude_weighted": "rlnLogAmplitudesWeighted",
        "ln_amplitude_sharpened": "rlnLogAmplitudesSharpened",
    }
    table: dict[str, Cells] = {
        "rlnResolutionSquared": [f"{value:.8f}" for value in squared],
        **{names[name]: np.nan_to_num(values, nan=_EMPTY) for name, values in amplitudes.items()},
    }
    if fit is not None:
        table["rlnLogAmplitudesIntercept"] = np.full(len(squared), fit.intercept)
    write_star(path, {"general": pairs_block(general), "guinier": StarBlock.from_columns(table)})


def _content(
    applied: float, given: float | None, fit: GuinierFit | None, *, fit_from: float, fit_to: float | None, resolution: float | None, pixel_size: float
) -> dict[str, Any]:
    if given is not None:
        origin = "given"
    elif fit is not None:
        origin = "fitted"
    else:
        origin = (
            f"none: fewer than {_LEAST_POINTS} shells with signal beyond sharpen.fit_from = {fit_from:g} angstrom, so nothing was fitted or applied"
        )
    return {
        "bfactor": applied,
        "bfactor_from": origin,
        "fit": None if fit is None else vars(fit),
        "fit_from": fit_from,
        "fit_to": fit_to,
        "lowpass": resolution,
        "pixel_size": pixel_size,
    }
