"""What a run is doing: done, running and failed jobs, losses, and when it will be over; from files, and from SLURM's queue where there is one."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cryorestore.bulk import last_error
from cryorestore.errors import CryorestoreError
from cryorestore.status.estimate import Estimate, estimate_end
from cryorestore.status.losses import Losses, all_losses, last_progress
from cryorestore.status.queue import QueuedJob, is_at_work, queued_jobs
from cryorestore.status.run_log import FAILED, FINISHED, RUNNING, RunJob, RunLog, latest_run
from cryorestore.summary import read_benchmarks

_LOSS_COLUMNS = ("data set", "method", "half", "network", "state", "step", "training loss", "validation loss", "best")


@dataclass(frozen=True)
class Status:
    """Everything that is told of a run; `state` is `running`, `finished`, `failed`, `stopped` or, where its Snakemake cannot be seen, `not known`.

    `results` is where the results are looked for; it need not be there.
    """

    state: str
    run: RunLog
    progress: Mapping[str, str]
    estimate: Estimate
    queue: list[QueuedJob]
    doubt: str
    losses: list[Losses]
    results: Path


def status(*, folder: Path = Path(), results: Path | None = None, as_json: bool = False) -> None:
    """Say what a run is doing: done, running and failed jobs, losses, and when it will be over.

    Parameters
    ----------
    folder
        Where snakemake was started.
    results
        Folder of the results, if not where the jobs of the run write them.
    as_json
        Print one JSON object instead of tables.

    Raises
    ------
    CryorestoreError
        If nothing was run there, or `results` is no folder.
    """
    if results is not None and not results.is_dir():
        raise CryorestoreError(f"--results {results}: found no folder, expected that of the results; leave it out to ask the run where they are")
    now = datetime.now()
    found = read_status(folder, results, now=now)
    if as_json:
        print(json.dumps(_as_json(found, now), indent=1))
    else:
        print_status(found, Console(), now=now)


def read_status(folder: Path, results: Path | None, *, now: datetime) -> Status:
    """Read the newest run in a folder; see `status`."""
    run = latest_run(folder)
    results = results or folder / (run.results or "results")
    told = {job.number: last_progress(folder / job.log) for job in run.of_state(RUNNING) if job.log}
    left = {number: seconds for number, (_, seconds) in told.items() if seconds is not None}
    measured: dict[str, list[float]] = defaultdict(list)
    whole = [path for path in sorted((folder / "benchmarks").glob("*/*.tsv")) if path.read_text(encoding="utf-8").count("\n") > 1]
    for step in read_benchmarks(whole):
        measured[step["step"]].append(step["seconds"])
    state = _state(run, folder)
    queue, doubt = queued_jobs(run.run_id) if state in ("running", "not known") else ([], "")
    estimate = estimate_end(run, measured, left, now=now) if state in ("running", "not known") else Estimate(None, [])
    progress = {number: text for number, (text, _) in told.items()}
    return Status(state, run, progress, estimate, queue, doubt, all_losses(results), results)


def print_status(found: Status, console: Console, *, now: datetime) -> None:
    """Print a status as short tables."""
    for line in _summary_lines(found, now):
        console.out(line, highlight=False)
    if not found.results.is_dir():
        console.out(f"no losses can be told: {found.results} is not there; say with --results where the results are", highlight=False)
    run = found.run
    if found.state in ("running", "not known"):
        rows = [[job.rule, job.name, _span(job, now), found.progress.get(job.number, "")] for job in run.of_state(RUNNING)]
        _print_table(console, "running", ("step", "of", "for", "progress"), rows)
    failed = [[job.rule, job.name, job.log, last_error(run_folder(run) / job.log) if job.log else ""] for job in run.of_state(FAILED)]
    _print_table(console, "failed", ("step", "of", "log", "message"), failed)
    _print_table(console, "SLURM", ("job", "state", "of", "for", "limit", "where or why"), [list(asdict(job).values()) for job in found.queue])
    if found.doubt:
        console.out(found.doubt, highlight=False)
    _print_table(console, "data sets", ("data set", "jobs done in this run"), [[name, str(count)] for name, count in _by_dataset(run).items()])
    _print_table(console, "losses", _LOSS_COLUMNS, [_loss_row(losses) for losses in found.losses])


def run_folder(run: RunLog) -> Path:
    """The folder that a run's paths start from."""
    return run.path.parents[2]


def _state(run: RunLog, folder: Path) -> str:
    if len(run.of_state(FINISHED)) == run.total:
        return "finished"
    if run.is_over:
        return "failed" if run.of_state(FAILED) else "stopped"
    at_work = is_at_work(folder, run.host)
    return "not known" if at_work is None else "running" if at_work else "stopped"


def _summary_lines(found: Status, now: datetime) -> list[str]:
    run, finished, failed = found.run, len(found.run.of_state(FINISHED)), len(found.run.of_state(FAILED))
    began = f"{run.began:%Y-%m-%d %H:%M:%S}" if run.began else "at a time that its log does not tell"
    lines = [f"run began {began} on {run.host}: {found.state}; {finished} of {run.total} jobs done, {failed} failed ({run.path})"]
    if found.state == "stopped":
        lines.append("its Snakemake ended before the run was over: start it again to go on; what is finished is kept")
    if found.state == "not known":
        lines.append(f"whether its Snakemake still runs can be seen on {run.host} alone")
    if found.estimate.seconds is not None:
        end, left = now + timedelta(seconds=found.estimate.seconds), timedelta(seconds=round(found.estimate.seconds))
        missing = f", without {', '.join(found.estimate.unknown)}, of which no job has ended yet" if found.estimate.unknown else ""
        lines.append(f"over at about {end:%Y-%m-%d %H:%M} ({left} left), by what jobs of the same kind took{missing}")
    elif found.estimate.unknown:
        lines.append(f"its end cannot be estimated: no job of {', '.join(found.estimate.unknown)} has ended yet")
    return lines


def _print_table(console: Console, title: str, columns: tuple[str, ...], rows: list[list[str]]) -> None:
    if not rows:
        return
    if console.is_terminal:
        table = Table(*columns, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    console.out(f"\n{title}: {', '.join(columns)}", highlight=False)
    for row in rows:
        console.out("  " + " | ".join(row), highlight=False)


def _span(job: RunJob, now: datetime) -> str:
    return "" if job.began is None else str(timedelta(seconds=max(0, round((now - job.began).total_seconds()))))


def _by_dataset(run: RunLog) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for job in run.jobs.values():
        if job.dataset:
            counts[job.dataset] += job.state == FINISHED
    return dict(counts)


def _loss_row(losses: Losses) -> list[str]:
    figures = (losses.training_loss, losses.validation_loss, losses.best_validation_loss)
    state = "finished" if losses.is_finished else "not finished"
    told = [losses.dataset, losses.method, losses.half, losses.network, state, str(losses.step)]
    return [*told, *("–" if figure is None else f"{figure:.5g}" for figure in figures)]


def _as_json(found: Status, now: datetime) -> dict[str, Any]:
    run = found.run
    jobs = [{**asdict(job), "began": str(job.began), "ended": None if job.ended is None else str(job.ended)} for job in run.jobs.values()]
    seconds = found.estimate.seconds
    return {
        "state": found.state,
        "began": None if run.began is None else str(run.began),
        "log": str(run.path),
        "results": str(found.results),
        "jobs_planned": run.total,
        "jobs_finished": len(run.of_state(FINISHED)),
        "jobs": jobs,
        "progress": dict(found.progress),
        "seconds_left": seconds,
        "end": None if seconds is None else str(now + timedelta(seconds=round(seconds))),
        "not_estimated": found.estimate.unknown,
        "queue": [asdict(job) for job in found.queue],
        "queue_doubt": found.doubt,
        "losses": [asdict(losses) for losses in found.losses],
    }
