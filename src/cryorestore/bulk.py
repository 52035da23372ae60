"""What a run over many data sets came to: one row a data set, also of those that failed."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cryorestore.files import atomic_path, read_json, write_json

FIGURES = (
    *("method", "particles", "box_size", "pixel_size", "resolution_raw_0143", "self_consistency_restored_0143", "self_consistency_reason"),
    *("truth_resolution_raw_05", "truth_resolution_restored_05", "seconds_total", "gpu_hours"),
)
METHOD_FIGURES = (
    *("method", "psnr_raw", "psnr_wiener", "psnr_restored", "frc05_raw", "frc05_restored", "resolution_raw_0143"),
    *("truth_resolution_raw_05", "truth_resolution_restored_05", "self_consistency_restored_0143", "self_consistency_reason", "network_evaluations"),
)
COLUMNS = ("dataset", "status", *FIGURES, "controls_passed", "controls_failed", "failed_step", "log", "message")
MESSAGE_LENGTH = 300


def summarize_datasets(
    *,
    targets: Mapping[str, Sequence[str]],
    results: str | Path,
    logs: str | Path,
    benchmarks: str | Path,
    table: str | Path,
    summary: str | Path,
    page: str | Path,
    run_log: str | None = None,
) -> None:
    """Write the table of all data sets of a run.

    Parameters
    ----------
    targets
        Name of a data set -> the files that the run was to make of it. A data set is `finished` where all are there and no job failed after
        they were written, `failed` where a job did, and `not finished` otherwise.
    results, logs, benchmarks
        Folders: of all results, of logs and of benchmarks, the last two with one folder a step.
    table, summary, page
        Outputs: TSV, JSON and HTML. Resolutions are in angstrom, as in each data set's summary.json; a data set that did not finish has none.
    run_log
        Snakemake's own log, named for a data set of which no job that failed left a log of its own.
    """
    folders = {"results": Path(results), "logs": Path(logs), "benchmarks": Path(benchmarks)}
    rows = [dataset_row(name, files, run_log=run_log, **folders) for name, files in targets.items()]
    with atomic_path(table) as path, path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: "" if row[name] is None else row[name] for name in COLUMNS} for row in rows)
    counts = {status: sum(row["status"] == status for row in rows) for status in ("finished", "failed", "not finished")}
    write_json(summary, {"counts": counts, "datasets": rows})
    environment = Environment(loader=PackageLoader("cryorestore"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    with atomic_path(page) as path:
        path.write_text(environment.get_template("datasets.html.j2").render(rows=rows, counts=counts), encoding="utf-8")


def dataset_row(name: str, targets: Sequence[str], *, results: Path, logs: Path, benchmarks: Path, run_log: str | None = None) -> dict[str, Any]:
    """The row of one data set, with all of `COLUMNS`, and `methods`, the figures of each where it finished; see `summarize_datasets`."""
    files = [Path(target) for target in targets]
    complete = all(path.exists() for path in files)
    written = min((path.stat().st_mtime for path in files), default=0.0) if complete else 0.0
    failed = [log for log in unfinished_logs(name, logs=logs, benchmarks=benchmarks) if log.stat().st_mtime > written]
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"dataset": name, "status": "failed" if failed else "finished" if complete else "not finished"}
    row["methods"] = []
    if failed:
        return row | {"failed_step": failed[0].parent.name, "log": str(failed[0]), "message": last_error(failed[0])}
    return row | ({**_figures(results / name), "methods": _methods(results / name)} if complete else {"log": run_log})


def unfinished_logs(dataset: str, *, logs: Path, benchmarks: Path) -> list[Path]:
    """Logs of jobs that began and did not end well, oldest first: a job's benchmark is written when it has, after the last line of its log."""
    found = [log for log in logs.glob(f"*/{dataset}*.log") if log.stem.partition("_")[0] == dataset]
    unfinished = []
    for log in found:
        benchmark = benchmarks / log.parent.name / f"{log.stem}.tsv"
        if not benchmark.exists() or benchmark.stat().st_mtime < log.stat().st_mtime:
            unfinished.append(log)
    return sorted(unfinished, key=lambda log: (log.stat().st_mtime, str(log)))


def last_error(log: Path) -> str:
    """What the last line of a log at level ERROR says; a job that was killed has none."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.partition(" ERROR ")[2] for line in lines if " ERROR " in line]
    return errors[-1][:MESSAGE_LENGTH] if errors else "ended without a message: killed, out of memory or out of time"


def _figures(folder: Path) -> dict[str, Any]:
    """Figures of a finished data set: of its summary, or, where no method ran, of the raw half-maps."""
    if (folder / "summary.json").exists():
        summary = read_json(folder / "summary.json")
        controls = summary["controls"]
        passed = [name for name, control in controls.items() if control["verdict"] == "passed"]
        failed = ", ".join(sorted(summary["failed_controls"]))
        return {name: summary[name] for name in FIGURES} | {"controls_passed": f"{len(passed)} of {len(controls)}", "controls_failed": failed}
    if (folder / "raw/fsc.json").exists():
        raw = read_json(folder / "raw/fsc.json")
        return {"box_size": raw["box_size"], "pixel_size": raw["pixel_size"], "resolution_raw_0143": raw["resolutions"].get("0.143")}
    return {}


def _methods(folder: Path) -> list[dict[str, Any]]:
    """Figures of every method of a finished data set, the first of its configuration first, and which is `best` by PSNR; none where no method ran."""
    if not (folder / "methods.json").exists():
        return []
    every, first = read_json(folder / "methods.json"), read_json(folder / "summary.json")["method"]
    names = [first, *(name for name in every if name != first)]
    rows = [{figure: every[name].get(figure) for figure in METHOD_FIGURES} for name in names]
    scored = [row["psnr_restored"] for row in rows if row["psnr_restored"] is not None]
    return [row | {"best": len(scored) > 1 and row["psnr_restored"] == max(scored)} for row in rows]
