"""Kill -9 at random moments of the small chain, go on with it again and again to its end, and compare every result with an undisturbed run's bytes.

usage: python benchmarks/soak/soak.py [--kills N] [--seed N] [--folder results/soak]
A run is hit until it ends before the next kill: each time it goes on from where it was, until a moment that is drawn anew. By turns one step's
process is killed, or Snakemake with all its steps. Each run is entered into benchmarks/soak/results.json and docs/hpc.md when its results have been
compared; started again, the soak goes on after the last one. It ends with code 1 at the first run whose results differ, and leaves that run's folder.
"""

import argparse
import collections
import contextlib
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
from made_pages import write_made_part  # noqa: E402
from results_bytes import differences, fingerprints  # noqa: E402
from slurm.running import CONFIGURATION, LOCAL, Snakemake, run_to_end, scripts  # noqa: E402

FIGURES = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs/hpc.md"
BEGIN, END = "<!-- begin of what benchmarks/soak/soak.py writes -->\n", "<!-- end -->\n"
LONGEST = 3600.0
LONGEST_SHARE = 0.25
"""The longest time between two kills, as a share of an undisturbed run"""


def main() -> int:
    """Make the kills that are missing; the exit code."""
    arguments = _arguments()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    reference = _reference(arguments.folder)
    runs: list[dict[str, Any]] = read_json(FIGURES)["runs"] if FIGURES.exists() else []
    while sum(len(run["kills"]) for run in runs) < arguments.kills:
        runs.append(_run(arguments.folder / "run", len(runs), arguments.seed, reference))
        write_json(FIGURES, _figures(runs, reference, arguments.seed))
        write_page(read_json(FIGURES))
        print(json.dumps(runs[-1]), flush=True)
        if runs[-1]["different"]:
            return 1
    return 0


def write_page(figures: dict[str, Any]) -> None:
    """Put the figures into the page about clusters."""
    hit = ", ".join(f"`{rule}` {count}" for rule, count in figures["running_when_killed"].items())
    text = (
        "`make soak` kills one step, or Snakemake with all its steps, with `kill -9` at random moments of the small chain, and goes on again "
        f"and again until the chain ends: {figures['kills_made']} kills in {figures['runs_made']} runs (seed {figures['seed']}, "
        f"commit {figures['commit'][:12]}). Runs with a result that is not the undisturbed run's, byte by byte: {figures['runs_that_differ']}. "
        f"What ran when it was killed: {hit}.\n"
    )
    write_made_part(PAGE, BEGIN, END, text)


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


def _run(folder: Path, number: int, seed: int, reference: dict[str, Any]) -> dict[str, Any]:
    """One run, killed and taken up again to its end, and what differs."""
    draw = random.Random(f"{seed} {number}")
    shutil.rmtree(folder, ignore_errors=True)
    begin, kills = time.monotonic(), list[dict[str, Any]]()
    while True:
        kill = _until_killed(folder, draw.uniform(0, LONGEST_SHARE * reference["seconds"]), len(kills) % 2 == number % 2, draw)
        if kill is None:
            break
        kills.append(kill)
        run_to_end(folder, *CONFIGURATION, "--unlock", profile=LOCAL, seconds=LONGEST)
    run_to_end(folder, *CONFIGURATION, profile=LOCAL, seconds=LONGEST)
    return {
        "kills": kills,
        "results": len(reference["results"]),
        "different": differences(fingerprints(folder / "results"), reference["results"]),
        "seconds": round(time.monotonic() - begin, 1),
    }


def _until_killed(folder: Path, moment: float, whole: bool, draw: random.Random) -> dict[str, Any] | None:
    """Let the run go on until `moment` (s) and kill it or one of its steps; what was hit, None where the run ended before."""
    begin = time.monotonic()
    with Snakemake(folder, *CONFIGURATION, profile=LOCAL, log=folder.with_name("killed.log")) as run:
        steps: dict[int, str] = {}
        while run.is_running and (time.monotonic() - begin < moment or (not steps and not whole)):
            time.sleep(0.05)
            steps = _steps(run.process.pid)
        if not run.is_running:
            assert run.wait(LONGEST) == 0, run.tail()
            return None
        after = time.monotonic() - begin
        if whole:
            run.kill()
        else:
            _kill(draw.choice(sorted(steps)))
            if run.wait(LONGEST) == 0:
                return None
        for pid in _steps(run.process.pid):
            _kill(pid)
    return {"after_seconds": round(after, 2), "killed": "Snakemake and its steps" if whole else "a step", "running": sorted(steps.values())}


def _kill(pid: int) -> None:
    """Kill -9, unless it has ended by itself in this moment."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _steps(session: int) -> dict[int, str]:
    """The rules whose scripts run in a session, by process."""
    return {pid: rule for pid, rule in scripts().items() if _session(pid) == session}


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _figures(runs: list[dict[str, Any]], reference: dict[str, Any], seed: int) -> dict[str, Any]:
    kills = [kill for run in runs for kill in run["kills"]]
    hit = collections.Counter(rule for kill in kills for rule in set(kill["running"]))
    return {
        "command": "python benchmarks/soak/soak.py",
        "commit": reference["commit"],
        "seed": seed,
        "undisturbed_seconds": round(reference["seconds"], 1),
        "runs_made": len(runs),
        "kills_made": len(kills),
        "runs_that_differ": sum(bool(run["different"]) for run in runs),
        "running_when_killed": dict(sorted(hit.items())),
        "runs": runs,
    }


if __name__ == "__main__":
    sys.exit(main())
