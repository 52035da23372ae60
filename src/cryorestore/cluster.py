"""What can be known about a SLURM cluster before the first job is submitted."""

import shutil
import subprocess

from cryorestore.errors import CryorestoreError

LONGEST_BETWEEN_POLLS = 180
"""Seconds: the executor plugin asks for the jobs' states at least this often."""
PATIENCE = 30.0
USE_SQUEUE = "set `slurm-status-command: squeue` in the profile (docs/hpc.md, Without accounting)"


def check_status_query(command: str | None, *, patience: float = PATIENCE) -> list[str]:
    """Whether the states of finished jobs can be had with `command`, sacct or squeue; without them Snakemake would wait for ever.

    Parameters
    ----------
    command
        The profile's `slurm-status-command`; None takes sacct, as the plugin does where there is one.
    patience
        Seconds to wait for an answer.

    Returns
    -------
    What may go wrong though the run can start; a database that refuses for a moment is one of these.

    Raises
    ------
    CryorestoreError
        If there is no accounting to ask, or it does not answer.
    """
    if command == "squeue":
        return _squeue_doubts()
    if shutil.which("sacct") is None:
        raise CryorestoreError(f"the profile asks sacct for the states of jobs, and there is no such program here; {USE_SQUEUE}")
    try:
        asked = _run("sacct", "-X", "--noheader", "--parsable2", "--format=JobIdRaw,State", patience=patience)
    except subprocess.TimeoutExpired:
        raise CryorestoreError(f"sacct did not answer within {patience:.0f} s: the states of jobs cannot be had from it; {USE_SQUEUE}") from None
    said = asked.stderr.strip()
    if "storage is disabled" in said.lower() or _has_no_accounting():
        found = said or "AccountingStorageType names no database"
        raise CryorestoreError(f"the states of jobs cannot be had from sacct, for this cluster keeps no accounts ({found}); {USE_SQUEUE}")
    if asked.returncode != 0:
        return [f"sacct refused just now ({said}); it is asked again while the jobs run. If it goes on refusing, {USE_SQUEUE}"]
    if not asked.stdout.strip():
        return [f"sacct knows no job of yours of today. If finished jobs keep being shown as running, {USE_SQUEUE}"]
    return []


def _squeue_doubts() -> list[str]:
    seconds = _configured("MinJobAge").split()
    if seconds and seconds[0].isdigit() and int(seconds[0]) <= LONGEST_BETWEEN_POLLS:
        return [
            f"squeue forgets a job {seconds[0]} s after its end (MinJobAge), and is asked every {LONGEST_BETWEEN_POLLS} s at least: "
            "the end of a job may be missed. Where there is accounting, set `slurm-status-command: sacct` in the profile"
        ]
    return []


def _has_no_accounting() -> bool:
    return _configured("AccountingStorageType") in ("(null)", "accounting_storage/none")


def _configured(name: str) -> str:
    """A value of SLURM's configuration; empty where it cannot be had."""
    try:
        lines = _run("scontrol", "show", "config", patience=PATIENCE).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next((line.split("=", 1)[1].strip() for line in lines if line.split("=")[0].strip() == name and "=" in line), "")


def _run(*arguments: str, patience: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=patience, check=False)
