"""The one flat object that says what a run found, one a method, and the last lines on the terminal."""

import ast
import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cryorestore import __version__
from cryorestore.controls.result import SELF_CONSISTENCY as SELF_CONSISTENCY  # written so for those who import it from here
from cryorestore.errors import CryorestoreError
from cryorestore.files import read_json, write_json
from cryorestore.provenance import code_commit

SELF_CONSISTENCY_NOTE = (
    "Half-map FSC of restored particles measures self-consistency, not resolution: the headline resolution is that of the raw particles."
)


def write_summary(
    *,
    evaluations: Sequence[str | Path],
    controls: Sequence[str | Path],
    raw_fsc: str | Path,
    restored_fscs: Sequence[str | Path],
    benchmarks: Sequence[str | Path],
    summary: str | Path,
    methods: str | Path,
    raw_truth_fsc: str | Path | None = None,
    restored_truth_fscs: Sequence[str | Path] = (),
    fused_fscs: Sequence[str | Path] = (),
    fused_truth_fscs: Sequence[str | Path] = (),
    backend_check: str | Path | None = None,
    dataset: str,
    denoisers: Sequence[str],
) -> None:
    """Write the summary of the first method, and of all methods by name.

    Parameters
    ----------
    evaluations, restored_fscs, restored_truth_fscs
        JSON files, one a method, in the order of `denoisers`; the last may be empty (no truth).
    controls
        JSON of every control of every method, in any order; may be empty (nothing was checked).
    raw_fsc, raw_truth_fsc
        JSON of the raw half-maps' FSC, and of their mean to the true map.
    fused_fscs, fused_truth_fscs
        JSON of the fused stacks' FSC, likewise, each in the folder that is called as the stack; empty without fusion.
    backend_check
        JSON of the agreement with another backend's map, where that was asked for.
    benchmarks
        Snakemake's TSV files of all steps, for time and memory.
    summary, methods
        Outputs (JSON). Resolutions are in angstrom; null = never falls below the threshold, or withheld (`self_consistency_reason` says why).
    dataset, denoisers
        Names.

    Raises
    ------
    CryorestoreError
        If the lists of files do not fit the methods, or a control is of another method.
    """
    needed = {"evaluations": evaluations, "restored_fscs": restored_fscs}
    optional = {"restored_truth_fscs": restored_truth_fscs} if restored_truth_fscs else {}
    for name, paths in (needed | optional).items():
        if len(paths) != len(denoisers):
            raise CryorestoreError(f"{name}: found {len(paths)} files, expected one for each of {', '.join(denoisers)}; give them in that order")
    raw = read_json(raw_fsc)
    steps = read_benchmarks(benchmarks)
    common = {
        "dataset": dataset,
        "box_size": raw["box_size"],
        "pixel_size": raw["pixel_size"],
        "resolution_raw_0143": raw["resolutions"].get("0.143"),
        "truth_resolution_raw_05": None if raw_truth_fsc is None else read_json(raw_truth_fsc)["resolutions"].get("0.5"),
        "fused": _fused(fused_fscs, fused_truth_fscs),
        "backend_agreement": None if backend_check is None else read_json(backend_check)["agreement"],
        "seconds_total": sum(step["seconds"] for step in steps),
        "gpu_hours": gpu_hours(steps),
        "peak_memory_gib": max((step["memory_gib"] for step in steps), default=0.0),
        "version": __version__,
        "commit": code_commit(),
    }
    checked = _by_method(controls, denoisers)
    every: dict[str, dict[str, Any]] = {}
    for position, method in enumerate(denoisers):
        truth_fsc = read_json(restored_truth_fscs[position])["resolutions"].get("0.5") if restored_truth_fscs else None
        every[method] = common | {"method": method, "truth_resolution_restored_05": truth_fsc}
        every[method] |= _scores(read_json(evaluations[position])) | _self_consistency(read_json(restored_fscs[position]), checked[method])
    write_json(summary, every[denoisers[0]])
    write_json(methods, every)


def read_benchmarks(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Step (its folder), job, seconds, GPUs asked for and peak memory (GiB; 0 where the job was too short to measure) of every benchmark file."""
    steps = []
    for path in map(Path, paths):
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        if not rows:
            raise CryorestoreError(f"{path}: found no row, expected Snakemake's benchmark of a job; run that step again")
        steps.append(
            {
                "step": path.parent.name,
                "job": path.stem,
                "seconds": sum(_number(row.get("s")) for row in rows),
                "memory_gib": max(_number(row.get("max_rss")) for row in rows) / 1024,
                "gpus": _gpus(rows[-1].get("resources")),
                "path": str(path),
            }
        )
    return steps


def gpu_hours(steps: Sequence[Mapping[str, Any]]) -> float | None:
    """Hours times GPUs that the jobs had asked for; None where their benchmarks do not tell (Snakemake without `benchmark-extended`)."""
    if not all(step["gpus"] is not None for step in steps):
        return None
    return float(sum(step["seconds"] * step["gpus"] for step in steps) / 3600)


def print_headline(summary: Mapping[str, Any], *, report: str | Path | None = None, console: Console | None = None) -> None:
    """Print the summary's headline figures and where the report is: a table on a terminal, plain lines elsewhere."""
    console = console or Console()
    lines = headline(summary)
    if console.is_terminal:
        table = Table(title=f"{summary['dataset']} ({summary['method']})", show_header=False, title_justify="left")
        for label, value in lines:
            table.add_row(label, value)
        console.print(table)
    else:
        for label, value in lines:
            console.out(f"{label}: {value}", highlight=False)
    if report is not None:
        console.out(f"report: {report}", highlight=False)


def headline(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and value of each headline figure. The self-consistency of restored half-maps is never one."""
    lines = [
        ("particles", f"{summary['particles']} of {summary['box_size']} px at {summary['pixel_size']:.4g} Å/px"),
        ("resolution, raw particles (FSC 0.143)", resolution_text(summary["resolution_raw_0143"])),
    ]
    if summary["psnr_restored"] is not None:
        figures = " / ".join(f"{summary[name]:.2f}" for name in ("psnr_raw", "psnr_wiener", "psnr_restored"))
        lines.append(("PSNR raw / Wiener / restored", f"{figures} dB, held-out particles"))
        lines.append(("FRC 0.5 raw / restored", f"{resolution_text(summary['frc05_raw'])} / {resolution_text(summary['frc05_restored'])}"))
    if summary["truth_resolution_raw_05"] is not None or summary["truth_resolution_restored_05"] is not None:
        pair = resolution_text(summary["truth_resolution_raw_05"]), resolution_text(summary["truth_resolution_restored_05"])
        lines.append(("map to truth (FSC 0.5), raw / restored", " / ".join(pair)))
    lines += [(f"control {name}", control_text(control)) for name, control in summary["controls"].items()]
    lines.append(("time, memory", f"{summary['seconds_total'] / 60:.1f} min of all steps, {summary['peak_memory_gib']:.2f} GiB at most in a step"))
    return lines


def resolution_text(resolution: float | None) -> str:
    """Resolution in angstrom as text; None means that the curve never falls below its threshold."""
    return "never crosses" if resolution is None else f"{resolution:.2f} Å"


def control_text(control: Mapping[str, Any]) -> str:
    """One line on a control: its verdict, and `control_value_text`."""
    verdict = str(control["verdict"])
    return f"{verdict.upper() if verdict == 'failed' else verdict} ({control_value_text(control)})"


def control_value_text(control: Mapping[str, Any]) -> str:
    """What a control measured, its score and its threshold."""
    score, threshold = ("none" if number is None else f"{number:.4g}" for number in (control["score"], control["threshold"]))
    return f"{control['score_text']}: {score}, threshold {threshold}"


def _scores(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    psnr, frc05 = evaluation["psnr"] or {}, evaluation["frc05"] or {}
    return {
        "particles": evaluation["particles_restored"],
        "network_evaluations": evaluation["network_evaluations"],
        **{f"psnr_{name}": psnr.get(name, {}).get("mean") for name in ("raw", "wiener", "restored")},
        **{f"frc05_{name}": frc05.get(name) for name in ("raw", "restored")},
    }


def _fused(fscs: Sequence[str | Path], truth_fscs: Sequence[str | Path]) -> dict[str, dict[str, float | None]]:
    """Resolutions (angstrom) of the fused stacks by name."""
    truth = {Path(path).parent.name: read_json(path)["resolutions"].get("0.5") for path in truth_fscs}
    halves = {Path(path).parent.name: read_json(path)["resolutions"].get("0.143") for path in fscs}
    return {stack: {"resolution_0143": found, "truth_resolution_05": truth.get(stack)} for stack, found in halves.items()}


def _by_method(controls: Sequence[str | Path], denoisers: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """The results of the controls by method and name."""
    found: dict[str, dict[str, dict[str, Any]]] = {method: {} for method in denoisers}
    for path in controls:
        result = read_json(path)
        if result["method"] not in found:
            raise CryorestoreError(f"{path}: found a control of {result['method']}, expected one of {', '.join(denoisers)}; give those of this run")
        found[result["method"]][result["name"]] = result
    return found


def _self_consistency(fsc: Mapping[str, Any], controls: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The restored half-maps' crossing, withheld unless a control that gates it passed and none failed."""
    gating = {name: control for name, control in controls.items() if control["gates"] == SELF_CONSISTENCY}
    failed = [f"control {name} failed: {control['text']}" for name, control in gating.items() if control["verdict"] == "failed"]
    value = fsc["resolutions"].get("0.143")
    if not any(control["verdict"] != "not judged" for control in gating.values()):
        reason: str | None = "withheld: no control was run that would vouch for it"
    elif failed:
        reason = "withheld: " + "; ".join(failed)
    else:
        reason = "the curve never falls below 0.143" if value is None else None
    return {
        SELF_CONSISTENCY: value if reason is None else None,
        "self_consistency_reason": reason,
        "controls": dict(controls),
        "failed_controls": [name for name, control in controls.items() if control["verdict"] == "failed"],
    }


def _gpus(resources: str | None) -> int | None:
    """GPUs in a job's resources, as `gpu` or as `gres` such as gpu:a100:2; None where the benchmark does not have them."""
    if resources is None:
        return None
    found: dict[str, Any] = ast.literal_eval(resources)
    gres = [part.split(":") for part in str(found.get("gres") or "").split(",")]
    return int(found.get("gpu") or 0) or sum(int(part[-1]) if part[-1].isdigit() else 1 for part in gres if part[0] == "gpu")


def _number(cell: str | None) -> float:
    try:
        value = float(cell or 0)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
