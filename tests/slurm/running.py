"""Snakemake on the small chain, locally or on the test cluster, in the background; and what the cluster runs of it."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from slurm.cluster import command, environment

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "profiles/local"
FAST_POLLS = Path(__file__).with_name("fast_polls.py")
CONFIGURATION = ["--configfile", str(ROOT / "config/test/tiny.yaml"), str(Path(__file__).with_name("chain.yaml"))]
QUICK = ["--latency-wait", "10", "--max-status-checks-per-second", "5", "--slurm-init-seconds-before-status-checks", "1"]
ENVIRONMENT = {**environment(), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Job:
    """A job of SLURM's queue; `rule` is the plugin's comment, rule and wildcards."""

    number: str
    state: str
    rule: str
    name: str


class Snakemake:
    """One Snakemake in a session of its own; what it says goes to `log`."""

    def __init__(self, folder: Path, *arguments: str, profile: Path, log: Path) -> None:
        program = ["-m", "snakemake"] if profile == LOCAL else [str(FAST_POLLS)]
        line = [sys.executable, *program, "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder), "--nocolor"]
        line += ["--profile", str(profile), *arguments]
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(line, stdout=out, stderr=subprocess.STDOUT, env=ENVIRONMENT, start_new_session=True)

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    @property
    def run_id(self) -> str | None:
        """The name that all jobs of this run have in SLURM's queue."""
        found = re.search(r"SLURM run ID: (\S+)", self.log.read_text())
        return found[1] if found else None

    def wait(self, seconds: float) -> int:
        """Its exit code; whatever it has not done by then is killed."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill -9 of Snakemake and of the processes that it started itself; SLURM's jobs go on."""
        if self.is_running:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def __enter__(self) -> "Snakemake":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def tail(self, characters: int = 3000) -> str:
        return self.log.read_text()[-characters:]


def run_to_end(folder: Path, *arguments: str, profile: Path, seconds: float) -> str:
    """Run Snakemake and return what it said; fail with its last words where it fails."""
    run = Snakemake(folder, *arguments, profile=profile, log=folder.with_name(f"{folder.name}.{time.monotonic_ns()}.log"))
    assert run.wait(seconds) == 0, run.tail()
    return run.log.read_text()


def queue() -> list[Job]:
    """The jobs that wait or run now."""
    lines = command("squeue", "-h", "-o", "%i|%T|%k|%j", check=False).splitlines()
    return [Job(*line.split("|")[:4]) for line in lines if line.count("|") == 3]


def running(rule: str = "") -> list[Job]:
    """The running jobs of this project whose rule and wildcards contain `rule`."""
    return [job for job in queue() if job.state == "RUNNING" and job.name.startswith("cryorestore_") and rule in job.rule]


def script_processes(job: Job) -> list[int]:
    """The processes of a job that run a rule's script: what computes, and not the Snakemake around it."""
    return [pid for pid in scripts() if f"SLURM_JOB_ID={job.number}\0".encode() in _proc(pid, "environ")]


def scripts() -> dict[int, str]:
    """The processes on this machine that run a script of Snakemake's, and its rule."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        words = _proc(int(path.name), "cmdline").decode(errors="replace").split("\0")
        script = next((word for word in words[1:3] if "/.snakemake/scripts/" in word), None)
        if script:
            found[int(path.name)] = Path(script).name.split(".")[-2]
    return found


def _proc(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
