"""Rows of the report's tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryorestore.files import read_json
from cryorestore.report.verdict import interval_text
from cryorestore.summary import SELF_CONSISTENCY, resolution_text

DIGITS = {"psnr": 2, "nmse": 4, "ssim": 3}


def method_rows(
    methods: Mapping[str, Mapping[str, Any]], evaluations: Mapping[str, Mapping[str, Any]], *, has_true_map: bool
) -> list[dict[str, str]]:
    """One row for raw particles, one for the Wiener filter (both of the first method's evaluation), then one a method."""
    first = next(iter(evaluations.values()))
    figures = next(iter(methods.values()))
    rows = [_row("raw", first, "raw", "0", resolution_text(figures["truth_resolution_raw_05"]) if has_true_map else "–", "–")]
    rows.append(_row("Wiener filter, round mask", first, "wiener", "0", "–", "–"))
    for name, evaluation in evaluations.items():
        summary = methods[name]
        to_truth = resolution_text(summary["truth_resolution_restored_05"]) if has_true_map else "–"
        consistency = "withheld" if summary[SELF_CONSISTENCY] is None else resolution_text(summary[SELF_CONSISTENCY])
        rows.append(_row(name, evaluation, "restored", str(evaluation["network_evaluations"]), to_truth, consistency))
    return rows


def _row(label: str, evaluation: Mapping[str, Any], version: str, evaluations: str, to_truth: str, consistency: str) -> dict[str, str]:
    row = {"method": label}
    for score, digits in DIGITS.items():
        row[score] = "–" if evaluation[score] is None else interval_text(evaluation[score][version], digits)
    row["frc05"] = "–" if evaluation["frc05"] is None else resolution_text(evaluation["frc05"][version])
    slope = None if evaluation["slope"] is None else evaluation["slope"][version]
    row["slope"] = "–" if slope is None else f"{slope:.3f}"
    return row | {"evaluations": evaluations, "truth": to_truth, "consistency": consistency}


def fusion_rows(figures: Sequence[str | Path]) -> list[dict[str, str]]:
    """One row a half: how many particles the fused map is made of, and how far their poses went from the given ones."""
    rows = []
    for half, content in enumerate(map(read_json, figures), start=1):
        rows.append(
            {
                "half": str(half),
                "particles": f"{content['accepted']} of {content['particles']}",
                "turned": f"{content['turned_rms_degrees']:.2f}",
                "moved": f"{content['moved_rms_angstrom']:.2f}",
                "width": f"{content['width']:g}",
                "reference": f"{content['reference_resolution']:.2f}",
            }
        )
    return rows


def timing_rows(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Jobs, seconds and peak memory (GiB) of each step, longest first."""
    by_step: dict[str, dict[str, Any]] = {}
    for step in steps:
        row = by_step.setdefault(step["step"], {"step": step["step"], "jobs": 0, "seconds": 0.0, "memory_gib": 0.0})
        row["jobs"] += 1
        row["seconds"] += step["seconds"]
        row["memory_gib"] = max(row["memory_gib"], step["memory_gib"])
    return sorted(by_step.values(), key=lambda row: (-row["seconds"], row["step"]))


def parameter_tables(provenance: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Name, parameters, seed, version, commit, packages and input fingerprints of every step in the provenance files."""
    tables = []
    for path in provenance:
        for step, entry in read_json(path).items():
            inputs = [(file, digest) for files in entry["inputs"].values() for file, digest in files.items()]
            tables.append(
                {
                    "step": step,
                    "path": str(path),
                    "parameters": [(name, _value_text(value)) for name, value in entry["parameters"].items()],
                    "seed": entry["seed"],
                    "version": entry["version"],
                    "commit": entry["commit"],
                    "packages": ", ".join(f"{name} {version}" for name, version in entry["packages"].items() if version),
                    "inputs": inputs,
                }
            )
    return tables


def _value_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)
