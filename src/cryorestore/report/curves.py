"""FSC curves of the report: halves, truth and controls in one figure, the curves under a mask, and the table of what they cross."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryorestore import plots
from cryorestore.fsc import FscCurve
from cryorestore.report.controls import Control
from cryorestore.report.pictures import Picture, Series, read_columns, svg_uri
from cryorestore.summary import SELF_CONSISTENCY, resolution_text

MASKED = {
    "fsc_unmasked": "no mask",
    "fsc_masked": "under the mask",
    "fsc_randomised": "phases randomised, under the mask",
    "fsc_corrected": "corrected",
}
HALVES, TRUTH, CONTROL = "-", "--", ":"
THRESHOLDS = (0.5, 0.143)
FUSED = "raw particles at poses that their own half's map makes likely; the headline stays with the given poses"
CONTROL_COLORS = ("#a3201d", "#7c3aed", "#0369a1", "#4d7c0f")


@dataclass(frozen=True)
class CurveFiles:
    """CSV files of FSC curves by stack: `raw`, one a method, then the fused stacks; `truth` is empty where there is no true map."""

    halves: Mapping[str, str | Path]
    truth: Mapping[str, str | Path]

    @property
    def sources(self) -> list[str]:
        """All files."""
        return [str(path) for path in (*self.halves.values(), *self.truth.values())]


def combined_picture(files: CurveFiles, controls: Sequence[Control], summary: Mapping[str, Any]) -> Picture:
    """Half-map, truth and control curves in one figure: one colour a stack, one kind of line a kind of curve."""
    colors = dict(zip(files.halves, (color for color, _ in plots.LINES), strict=False))
    curves: dict[str, tuple[Series, Series]] = {}
    styles: dict[str, tuple[str, str]] = {}
    for stack, path in files.halves.items():
        label = f"{stack} half-maps" if _is_of_raw_particles(stack) else f"{stack}: self-consistency"
        curves[label], styles[label] = _curve(path), (colors.get(stack, plots.LINES[-1][0]), HALVES)
    for stack, path in files.truth.items():
        label = f"{stack} to the truth"
        curves[label], styles[label] = _curve(path), (colors.get(stack, plots.LINES[-1][0]), TRUTH)
    shown = [control for control in controls if control.method == summary["method"] and control.curves]
    own = {name: curve for control in shown for name, curve in control.curves.items()}
    for (name, curve), color in zip(own.items(), cycle(CONTROL_COLORS), strict=False):
        label = f"control {name}"
        curves[label], styles[label] = (curve[0][1:], curve[1][1:]), (color, CONTROL)
    size = (plots.WIDE[0], plots.WIDE[1] + 0.22 * max(0, len(curves) - 4) / 2)
    figure = plots.correlation_figure(
        curves, thresholds=THRESHOLDS, pixel_size=summary["pixel_size"], ylabel="Fourier shell correlation", styles=styles, size=size
    )
    crossing = resolution_text(summary["resolution_raw_0143"])
    fused = "Fused: raw particles too, at poses that their own half's map makes likely. " if any(map(_is_fused, files.halves)) else ""
    truth = ""
    if files.truth:
        pair = (resolution_text(summary[f"truth_resolution_{name}_05"]) for name in ("raw", "restored"))
        truth = " Against the true map, 0.5 is crossed at {} (raw) and {} (restored).".format(*pair)
    return Picture(
        "Half-maps, truth and controls",
        svg_uri(figure),
        f"Fourier shell correlation of {len(curves)} pairs of maps. The raw half-maps cross 0.143 at {crossing}.{truth}",
        f"Solid: half-maps against each other; raw particles cross 0.143 at {crossing}, and this is the resolution. Solid curves of restored "
        f"particles show self-consistency: what the method believes, and no resolution. {fused}Dashed: mean of both halves against the truth.{truth} "
        f"Dotted: controls of {summary['method']}; those of other methods have their own pictures.",
        [*files.sources, *dict.fromkeys(control.source for control in shown)],
        wide=True,
    )


def masked_picture(path: str | Path, pixel_size: float) -> Picture | None:
    """The raw half-maps without a mask, under it, with randomised phases, and corrected; None where no mask was used."""
    frequency, *series = read_columns(path, ("spatial_frequency", *MASKED))
    curves = {label: (frequency, values) for label, values in zip(MASKED.values(), series, strict=True) if np.isfinite(values).any()}
    if len(curves) < 2:
        return None
    told = ", ".join(f"{label} {resolution_text(_crossing(frequency, values, 0.143))}" for label, (_, values) in curves.items())
    figure = plots.correlation_figure(curves, thresholds=(0.143,), pixel_size=pixel_size, ylabel="FSC of the raw half-maps")
    return Picture(
        "Raw half-maps and the mask",
        svg_uri(figure),
        f"FSC of the raw half-maps with and without the mask; crossings of 0.143: {told}.",
        f"Crossing 0.143: {told}. Where randomised phases correlate, the mask does it; the corrected curve takes that out.",
        [str(path)],
    )


def resolution_rows(files: CurveFiles, controls: Sequence[Control], methods: Mapping[str, Mapping[str, Any]], *, method: str) -> list[dict[str, Any]]:
    """Crossings of every curve, of the controls of `method` alone, each with what it is worth; `good` is True, False or None (neither)."""
    rows = [_row("raw half-maps", files.halves["raw"], "fsc", "the resolution of this data set", good=True)]
    rows += [
        _row(f"raw half-maps, {label}", files.halves["raw"], column, "a part of the headline curve")
        for column, label in MASKED.items()
        if column != "fsc_randomised" and _is_there(files.halves["raw"], column) and _is_there(files.halves["raw"], "fsc_masked")
    ]
    for name, path in files.halves.items():
        if name == "raw":
            continue
        if _is_fused(name):
            rows.append(_row(f"{name} half-maps", path, "fsc", FUSED))
            continue
        held = methods[name][SELF_CONSISTENCY] is None and methods[name]["self_consistency_reason"]
        if held:
            rows.append({"curve": f"{name} half-maps", "crossings": ["withheld"] * len(THRESHOLDS), "verdict": held, "good": False})
        else:
            rows.append(_row(f"{name} half-maps", path, "fsc", "self-consistency, no resolution; its controls passed"))
    rows += [_row(f"{name} to the true map", path, "fsc", "measured against the truth; its 0.5 counts") for name, path in files.truth.items()]
    for control in controls:
        for label, (frequency, values) in control.curves.items() if control.method == method else ():
            crossings = [resolution_text(_crossing(frequency, values, threshold)) for threshold in THRESHOLDS]
            verdict = f"control {control.title}, {control.outcome}: shown for contrast, no resolution"
            rows.append({"curve": f"{control.method}: {label}", "crossings": crossings, "verdict": verdict, "good": None})
    return rows


def _is_fused(stack: str) -> bool:
    return stack.startswith("fused.")


def _is_of_raw_particles(stack: str) -> bool:
    return stack == "raw" or _is_fused(stack)


def _row(label: str, path: str | Path, column: str, verdict: str, *, good: bool | None = None) -> dict[str, Any]:
    frequency, values = read_columns(path, ("spatial_frequency", column))
    crossings = [resolution_text(_crossing(frequency, values, threshold)) for threshold in THRESHOLDS]
    return {"curve": label, "crossings": crossings, "verdict": verdict, "good": good}


def _is_there(path: str | Path, column: str) -> bool:
    return bool(np.isfinite(read_columns(path, (column,))[0]).any())


def _crossing(frequency: Series, values: Series, threshold: float) -> float | None:
    return FscCurve(torch.from_numpy(frequency), torch.from_numpy(values)).resolution(threshold)


def _curve(path: str | Path) -> tuple[Series, Series]:
    frequency, correlation = read_columns(path, ("spatial_frequency", "fsc"))
    return frequency, correlation
