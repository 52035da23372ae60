"""What SLURM costs: seconds that a job which does nothing takes from its turn to the next one's, and the jobs that a data set submits.

usage (as root): python benchmarks/slurm/measure.py [CHAINED] [SIDE_BY_SIDE] > benchmarks/slurm/results.json
It starts the cluster of tests/slurm, whose queue is empty: a real one's waiting times come on top. `as shipped` is profiles/slurm, `fast polls` the
same with a look at the queue every second, as the tests do it. Jobs are counted in dry-runs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from cryorestore.provenance import code_commit  # noqa: E402
from slurm.cluster import Cluster, environment  # noqa: E402
from slurm.profiles import SHIPPED, changed_profile, planned_jobs  # noqa: E402
from slurm.running import FAST_POLLS, QUICK  # noqa: E402

EMPTY_RULES = """
rule all:
    input: expand("{kind}.{number}", kind=config["kind"], number=config["count"])

rule nothing:
    input: lambda wildcards: f"{wildcards.kind}.{int(wildcards.number) - 1}" if wildcards.kind == "chained" and wildcards.number != "1" else []
    output: "{kind}.{number}"
    resources: mem_mb=200, runtime=5
    shell: "touch {output}"
"""
DATA_SETS = {"tiny": ["--configfile", "config/test/tiny.yaml"], "demo": ["--config", "datasets=[demo]"]}


def main() -> None:
    """Print one JSON object."""
    chained, side_by_side = (int(word) for word in (sys.argv[1:] or ("5", "20")))
    with tempfile.TemporaryDirectory() as place:
        jobs = {name: counted(Path(place), arguments) for name, arguments in DATA_SETS.items()}
        cluster = Cluster()
        cluster.start()
        try:
            seconds = {
                f"{name}, {kind}": per_job(Path(place), program, quick, kind, count)
                for name, program, quick in (("as shipped", ["-m", "snakemake"], []), ("fast polls", [str(FAST_POLLS)], QUICK))
                for kind, count in (("chained", chained), ("side by side", side_by_side))
            }
        finally:
            cluster.stop()
    report = {
        "command": "python benchmarks/slurm/measure.py",
        "commit": code_commit(),
        "processors": os.cpu_count(),
        "jobs": {"chained": chained, "side by side": side_by_side},
        "seconds_per_job": seconds,
        "jobs_per_data_set": jobs,
    }
    print(json.dumps(report, indent=1))


def per_job(place: Path, program: list[str], quick: list[str], kind: str, count: int) -> float:
    """Wall-clock seconds a job of a run of empty jobs, Snakemake's own start among them."""
    folder = Path(tempfile.mkdtemp(dir=place))
    (folder / "Snakefile").write_text(EMPTY_RULES)
    profile = changed_profile(folder / "profile", {"set-resources": None, "groups": None})
    numbers = [count] if kind == "chained" else list(range(1, count + 1))
    line = [sys.executable, *program, "--directory", str(folder), "--snakefile", str(folder / "Snakefile"), "--profile", str(profile), *quick]
    begin = time.monotonic()
    subprocess.run([*line, "--config", f"kind={kind.replace(' ', '_')}", f"count={numbers}"], env=environment(), check=True, stdout=sys.stderr)
    return round((time.monotonic() - begin) / count, 2)


def counted(place: Path, arguments: list[str]) -> dict[str, int]:
    """Jobs of a data set, and what is submitted of them with the shipped profile's groups."""
    line = [sys.executable, "-m", "snakemake", "--nocolor", "--dry-run", "--directory", str(place / "dry"), "--snakefile", str(ROOT / "Snakefile")]
    done = subprocess.run([*line, "--profile", str(SHIPPED.parent), *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    jobs, submitted = planned_jobs(done.stdout + done.stderr)
    return {"jobs": jobs, "submitted": submitted}


if __name__ == "__main__":
    main()
