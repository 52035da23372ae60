"""Kill -9 at random moments of the small chain, run it to its end again, and compare every result with an undisturbed run's bytes.

usage: python benchmarks/soak/soak.py [--kills N] [--seed N] [--folder results/soak]
Every kill has a run of its own from the start; its moment is drawn from the undisturbed run's duration. By turns one step's process is killed, or
Snakemake with all its steps. Each is entered into benchmarks/soak/results.json at once; started again, it goes on after the last one. It ends with
code 1 at the first result that differs, and leaves that run's folder.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from cryorestore.files import read_json, write_json  # noqa: E402
from cryorestore.provenance import code_commit  # noqa: E402
from results_bytes import differences, fingerprints  # noqa: E402
from slurm.running import CONFIGURATION, LOCAL, Snakemake, run_to_end, scripts  # noqa: E402

FIGURES = Path(__file__).with_name("results.json")
LONGEST = 3600.0


def main() -> int:
    """Make the kills that are missing; the exit code."""
    arguments = _arguments()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    reference = _reference(arguments.folder)
    kills: list[dict[str, Any]] = read_json(FIGURES)["kills"] if FIGURES.exists() else []
    for number in range(len(kills), arguments.kills):
        kills.append(_kill(arguments.folder / "run", number, arguments.seed, reference))
        write_json(FIGURES, _figures(kills, reference, arguments.seed))
        print(json.dumps(kills[-1]), flush=True)
        if kills[-1]["different"]:
            return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("results/soak"))
    return parser.parse_args()


def _reference(folder: Path) -> dict[str, Any]:
    """Fingerprints and duration of an undisturbed run of this commit, made once."""
    path, commit = folder / "reference.json", code_commit()
    if path.exists() and read_json(path)["commit"] == commit:
        return read_json(path)
    shutil.rmtree(folder / "reference", ignore_errors=True)
    begin = time.monotonic()
    run_to_end(folder / "reference", *CONFIGURATION, profile=LOCAL, seconds=LONGEST)
    reference = {"commit": commit, "seconds": time.monotonic() - begin, "results": fingerprints(folder / "reference/results")}
    write_json(path, reference)
    return reference


def _kill(folder: Path, number: int, seed: int, reference: dict[str, Any]) -> dict[str, Any]:
    """One run, one kill, the run to its end, and what differs."""
    draw = random.Random(f"{seed} {number}")
    moment, whole = draw.uniform(0, reference["seconds"]), number % 2 == 1
    shutil.rmtree(folder, ignore_errors=True)
    begin = time.monotonic()
    with Snakemake(folder, *CONFIGURATION, profile=LOCAL, log=folder.with_name("killed.log")) as run:
        steps: dict[int, str] = {}
        while run.is_running and (time.monotonic() - begin < moment or (not steps and not whole)):
            time.sleep(0.05)
            steps = _steps(run.process.pid)
        after = time.monotonic() - begin
        if whole:
            run.kill()
        elif steps:
            os.kill(draw.choice(sorted(steps)), signal.SIGKILL)
            run.wait(LONGEST)
        for pid in _steps(run.process.pid):
            os.kill(pid, signal.SIGKILL)
    run_to_end(folder, *CONFIGURATION, "--unlock", profile=LOCAL, seconds=LONGEST)
    run_to_end(folder, *CONFIGURATION, profile=LOCAL, seconds=LONGEST)
    return {
        "after_seconds": round(after, 2),
        "killed": "Snakemake and its steps" if whole else "a step",
        "running": sorted(steps.values()),
        "results": len(reference["results"]),
        "different": differences(fingerprints(folder / "results"), reference["results"]),
        "seconds": round(time.monotonic() - begin, 1),
    }


def _steps(session: int) -> dict[int, str]:
    """The rules whose scripts run in a session, by process."""
    return {pid: rule for pid, rule in scripts().items() if _session(pid) == session}


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _figures(kills: list[dict[str, Any]], reference: dict[str, Any], seed: int) -> dict[str, Any]:
    hit = collections.Counter(rule for kill in kills for rule in set(kill["running"]))
    return {
        "command": "python benchmarks/soak/soak.py",
        "commit": reference["commit"],
        "seed": seed,
        "undisturbed_seconds": round(reference["seconds"], 1),
        "kills_made": len(kills),
        "runs_that_differ": sum(bool(kill["different"]) for kill in kills),
        "running_when_killed": dict(sorted(hit.items())),
        "kills": kills,
    }


if __name__ == "__main__":
    sys.exit(main())
