"""What Snakemake's own log of a run says: what was planned, which jobs began, ended well, or failed."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryorestore.errors import CryorestoreError

FINISHED, FAILED, RUNNING = "finished", "failed", "running"
_TIME = re.compile(r"^\[(\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4})\]$")
_BEGIN = re.compile(r"^ *(?:local)?(?:rule|checkpoint) (\w+):$")
_FIELD = re.compile(r"^ +(log|jobid|benchmark|wildcards|output): (.*)$")
_FINISHED = re.compile(r"^Finished jobid: (\d+)")
_FAILED = re.compile(r"^Error in rule (\w+)")
_COUNT = re.compile(r"^(\w+) +(\d+)$")
_HOST, _RUN_ID, _BEGUN = re.compile(r"^  Host: (\S+)"), re.compile(r"SLURM run ID: (\S+)"), re.compile(r"^  Date: (\S+ \S+)")


@dataclass
class RunJob:
    """One job of a run, as last seen; times without a time zone, as Snakemake writes them."""

    number: str
    rule: str
    log: str = ""
    benchmark: str = ""
    wildcards: str = ""
    output: str = ""
    began: datetime | None = None
    ended: datetime | None = None
    state: str = RUNNING

    @property
    def dataset(self) -> str:
        """The data set; empty for what belongs to all."""
        found = re.search(r"dataset=([^,]+)", self.wildcards)
        return found[1] if found else ""

    @property
    def name(self) -> str:
        """The values of the wildcards, in their order."""
        return ", ".join(part.partition("=")[2] for part in self.wildcards.split(", ") if part)


@dataclass
class RunLog:
    """A run: planned jobs by rule, jobs by number, when and where it began, its name in SLURM's queue, and whether it is over."""

    path: Path
    began: datetime | None = None
    host: str = ""
    run_id: str | None = None
    planned: dict[str, int] = field(default_factory=dict)
    jobs: dict[str, RunJob] = field(default_factory=dict)
    is_over: bool = False

    def of_state(self, state: str) -> list[RunJob]:
        """Jobs of a state, in the order in which they began."""
        return [job for job in self.jobs.values() if job.state == state]

    @property
    def results(self) -> Path | None:
        """The folder that the outputs of all jobs are in, each in that of its data set; None before a job with an output has begun."""
        possible = [_folders_above(job) for job in self.jobs.values() if job.dataset and job.output]
        return max(set.intersection(*possible), key=lambda folder: len(folder.parts), default=None) if possible else None

    @property
    def total(self) -> int:
        """All planned jobs."""
        return sum(self.planned.values())


def _folders_above(job: RunJob) -> set[Path]:
    """Of a job's first output, the folders that hold one named like its data set."""
    parents = Path(job.output.split(", ")[0]).parents
    return {folder.parent for folder in parents if folder.name == job.dataset}


def latest_run(folder: Path) -> RunLog:
    """The newest run that had jobs to do in a folder; runs with nothing to do are passed over, and dry runs leave no log.

    Raises
    ------
    CryorestoreError
        If there is none.
    """
    logs = sorted((folder / ".snakemake/log").glob("*.snakemake.log"), reverse=True)
    for path in logs:
        if "\nJob stats:" in path.read_text(encoding="utf-8", errors="replace"):
            return read_run_log(path)
    found = f"{len(logs)} logs without a job" if logs else "no log"
    raise CryorestoreError(f"{folder / '.snakemake/log'}: found {found}, expected a run; say with --folder where snakemake was started")


def read_run_log(path: Path) -> RunLog:
    """Read a log of Snakemake 9, of local or SLURM jobs."""
    run = RunLog(path)
    now: datetime | None = None
    job: RunJob | None = None
    failing = False
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    run.planned = dict(_planned(lines))
    for line in lines:
        job, failing = _read_line(run, line, now, job, failing)
        if found := _TIME.match(line):
            now = datetime.strptime(found[1], "%a %b %d %H:%M:%S %Y")
    return run


def _read_line(run: RunLog, line: str, now: datetime | None, job: RunJob | None, failing: bool) -> tuple[RunJob | None, bool]:
    """Take in one line; returns the job whose block it is in, and whether that block tells of a failure."""
    if begun := _BEGUN.match(line):
        run.began = datetime.fromisoformat(begun[1])
    elif host := _HOST.match(line):
        run.host = host[1]
    elif run_id := _RUN_ID.search(line):
        run.run_id = run_id[1]
    elif line.startswith("Complete log"):
        run.is_over = True
    elif ended := _FINISHED.match(line):
        if ended[1] in run.jobs:
            run.jobs[ended[1]].state, run.jobs[ended[1]].ended = FINISHED, now
    elif begin := _BEGIN.match(line):
        return RunJob("", begin[1], began=now), False
    elif failed := _FAILED.match(line):
        return RunJob("", failed[1]), True
    elif job is not None and (known := _FIELD.match(line)):
        _enter(run, job, known[1], known[2], failing, now)
    return job, failing


def _enter(run: RunLog, job: RunJob, name: str, value: str, failing: bool, now: datetime | None) -> None:
    if failing:
        if name == "jobid" and value in run.jobs:
            run.jobs[value].state, run.jobs[value].ended = FAILED, now
    elif name == "jobid":
        job.number = value
        run.jobs.pop(value, None)
        run.jobs[value] = job
    else:
        setattr(job, name, value.removesuffix(" (check log file(s) for error details)"))


def _planned(lines: list[str]) -> Iterator[tuple[str, int]]:
    """The counts under `Job stats:`, which stand between a ruler and the total."""
    if "Job stats:" not in lines:
        return
    for line in lines[lines.index("Job stats:") + 3 :]:
        found = _COUNT.match(line)
        if found is None or found[1] == "total":
            return
        yield found[1], int(found[2])
