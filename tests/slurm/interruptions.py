"""What befalls the jobs of a run on the test cluster: planned interruptions of its trainings, and others at random moments."""

import os
import random
import signal
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from slurm.cluster import command
from slurm.running import Job, running, script_processes

OWN_CLOCK_SECONDS = 33
"""A training of one minute stops itself after half of it"""


class Interruptions:
    """All of them, as generators that are advanced again and again while the run goes on; `done` has the names of what has happened."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.done: list[str] = []
        self.asked: dict[str, str] = {}
        self._hit: set[str] = set()
        self._plans = {"trainings": [self._cancelled(), self._out_of_time(), self._own_clock_then_preempted()], "any": [self._at_random(5)]}

    def advance(self) -> None:
        """Look once at the queue, and do what is due."""
        for job in running():
            if job.number not in self.asked:
                self.asked[job.number] = f"{job.rule} {command('scontrol', 'show', 'job', '-o', job.number, check=False)}"
        for kind, plans in self._plans.items():
            self._plans[kind] = [plan for plan in plans if next(plan, "ended") != "ended"]

    @property
    def trainings_are_over(self) -> bool:
        """Whether everything has happened that was planned for the trainings."""
        return not self._plans["trainings"]

    @property
    def is_over(self) -> bool:
        """Whether everything has happened."""
        return not any(self._plans.values())

    def _cancelled(self) -> Iterator[None]:
        """Cancel the diffusion training of half 1 at a random moment."""
        job = yield from self._training("train_diffusion", 1, "step 0:")
        yield from _pause(self.random.uniform(0, 1))
        command("scancel", job.number)
        self._note(job, "cancelled while it trained")

    def _out_of_time(self) -> Iterator[None]:
        """Let SLURM end the diffusion training of half 2, which believes to have a day: it sleeps until its limit of a minute wakes and ends it."""
        job = yield from self._training("train_diffusion", 2, "step 0:")
        _signal(job, signal.SIGSTOP)
        command("scontrol", "update", f"JobId={job.number}", "TimeLimit=1")
        yield from _until_gone(job)
        self._note(job, f"ended by SLURM at its limit: {_shown(job, 'JobState')}")

    def _own_clock_then_preempted(self) -> Iterator[None]:
        """Let the post-processing training of half 1 see its minute pass; when it goes on, send a job that has precedence."""
        job = yield from self._training("train_postprocess", 1, "step 0:")
        _signal(job, signal.SIGSTOP)
        yield from _pause(OWN_CLOCK_SECONDS)
        _signal(job, signal.SIGCONT)
        yield from _until_gone(job)
        self._note(job, "ended itself before its limit")
        job = yield from self._training("train_postprocess", 1, "goes on after step")
        _signal(job, signal.SIGSTOP)
        command("sbatch", "-p", "gpu", "--gres=gpu:2", "--mem=50", "-o", "/dev/null", "--wrap", "sleep 1")
        yield from _until_gone(job)
        told = Path(_shown(job, "StdOut")).read_text()
        self._note(job, "preempted, and saved" if "asked to end (SIGTERM)" in told else f"preempted: {told[-300:]}")

    def _at_random(self, count: int) -> Iterator[None]:
        """Hit a random job at random moments, each rule and wildcards once."""
        while count:
            yield from _pause(self.random.uniform(3, 15))
            victims = [job for job in running() if job.rule not in self._hit and not job.rule.startswith("rule_train")]
            if not victims:
                continue
            job, kind = self.random.choice(victims), self.random.choice([_cancel, _kill_script, _lose_node])
            self._hit.add(job.rule)
            kind(job)
            self._note(job, kind.__name__.strip("_"))
            count -= 1

    def _training(self, rule: str, half: int, sign: str) -> Generator[None, None, Job]:
        """Wait until the log of a half's training shows `sign` while its job runs; that job."""
        while True:
            for job in running(rule):
                logs = list((self.folder / "logs" / rule).glob(f"*_half{half}.log"))
                if _half_of(job) == half and logs and sign in logs[0].read_text() and script_processes(job):
                    return job
            yield

    def _note(self, job: Job, what: str) -> None:
        self.done.append(f"{job.rule} (job {job.number}): {what}")


def _half_of(job: Job) -> int:
    """The half that a job's wildcards name; the plugin joins them with underscores in its comment."""
    words = job.rule.split("_wildcards_")[-1].split("_")
    return next((int(word) for word in words if word in ("1", "2")), 0)


def _shown(job: Job, name: str) -> str:
    words = command("scontrol", "show", "job", "-o", job.number, check=False).split()
    return next((word.split("=", 1)[1] for word in words if word.startswith(f"{name}=")), "")


def _signal(job: Job, number: signal.Signals) -> None:
    for pid in script_processes(job):
        os.kill(pid, number)


def _cancel(job: Job) -> None:
    command("scancel", job.number)


def _kill_script(job: Job) -> None:
    _signal(job, signal.SIGKILL)


def _lose_node(job: Job) -> None:
    """Declare the job's node dead: its jobs go back to the queue, and others with them."""
    node = _shown(job, "NodeList")
    command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    while command("sinfo", "-h", "-n", node, "-o", "%T").split()[0] not in ("idle", "mixed", "allocated", "completing"):
        command("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
        time.sleep(0.2)


def _pause(seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


def _until_gone(job: Job) -> Iterator[None]:
    """Until the job has left its node, or runs anew."""
    start = _shown(job, "StartTime")
    while _shown(job, "JobState") in ("RUNNING", "COMPLETING") and _shown(job, "StartTime") == start:
        yield


def end_leftovers(run_id: str) -> None:
    """Cancel the jobs that a killed Snakemake left behind, as docs/hpc.md says, and wait until they are gone."""
    command("scancel", f"--name={run_id}")
    while command("squeue", "-h", f"--name={run_id}").strip():
        time.sleep(0.2)
