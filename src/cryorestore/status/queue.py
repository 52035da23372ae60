"""What SLURM's queue says of a run, and whether a Snakemake is at work in a folder."""

import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_PATIENCE = 20.0
"""Seconds to wait for squeue"""


@dataclass(frozen=True)
class QueuedJob:
    """A job of SLURM's queue; `what` is rule and wildcards, `elapsed` and `limit` as squeue writes them."""

    number: str
    state: str
    what: str
    elapsed: str
    limit: str
    place: str


def queued_jobs(run_id: str | None) -> tuple[list[QueuedJob], str]:
    """The run's jobs in SLURM's queue, and what is to be said where it cannot be asked; neither for a run that is not SLURM's."""
    if run_id is None:
        return [], ""
    if shutil.which("squeue") is None:
        return [], "the run's jobs are SLURM's, and there is no squeue here: ask on the machine that submits"
    command = ["squeue", "--noheader", "--name", run_id, "--format", "%i|%T|%k|%M|%l|%R"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return [], f"squeue did not answer within {_PATIENCE:.0f} s"
    if asked.returncode != 0:
        return [], f"squeue: {asked.stderr.strip() or f'exit code {asked.returncode}'}"
    rows = [line.split("|", 5) for line in asked.stdout.splitlines()]
    return [QueuedJob(*row) for row in rows if len(row) == 6], ""


def is_at_work(folder: Path, host: str) -> bool | None:
    """Whether a Snakemake runs in a folder; None where that cannot be seen: on another machine, or without /proc."""
    processes = Path("/proc")
    if host != platform.node() or not (processes / "self").exists():
        return None
    return any(_is_snakemake_in(process, folder.resolve()) for process in processes.glob("[0-9]*"))


def _is_snakemake_in(process: Path, folder: Path) -> bool:
    try:
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        return any("snakemake" in word for word in words[:4]) and (process / "cwd").resolve(strict=True) == folder
    except OSError:
        return False
