"""What 10^5, 10^6 and 10^7 particles would take, from what each step of a small run took, and the page that says so.

usage: python benchmarks/scale/estimate.py --measure empiar-10146 "make demo-real"   keeps the times of results/empiar-10146 as measured.json
       python benchmarks/scale/estimate.py                                          writes estimate.json and docs/scale.md from measured.json

A step's time is taken to grow with the particles of its job and the pixels of their box, or with the voxels of the map, or with the pixels alone
(see GROWTH), in proportion, its start-up time of some seconds included: so the figures of large runs are rather too high.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryorestore.config import load_configuration
from cryorestore.disk import bytes_text, disk_use
from cryorestore.files import write_json
from cryorestore.summary import read_benchmarks

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs/scale.md"
PARTICLES = (10**5, 10**6, 10**7)
BOX_SIZE = 128  # px, of the estimate
GPU_STEPS = ("train_diffusion", "train_postprocess", "restore_particles", "control_noise_only")
Growth = Callable[[float, float], float]
IMAGES: Growth = lambda particles, box: particles * box**2  # noqa: E731
PIXELS: Growth = lambda _, box: box**2  # noqa: E731
VOXELS: Growth = lambda _, box: box**3  # noqa: E731
ROWS: Growth = lambda particles, _: particles  # noqa: E731
NOTHING: Growth = lambda _, __: 1.0  # noqa: E731
GROWTH: dict[str, tuple[Growth, str]] = {
    "extract_particles": (IMAGES, "particles x pixels"),
    "normalize_particles": (IMAGES, "particles x pixels"),
    "split_particles": (ROWS, "particles"),
    "reconstruct_map": (IMAGES, "particles x pixels"),
    "make_training_pairs": (PIXELS, "pixels; the number of pairs is configured"),
    "train_diffusion": (PIXELS, "pixels; the number of steps is configured"),
    "train_postprocess": (PIXELS, "pixels; the number of steps is configured"),
    "restore_particles": (IMAGES, "particles x pixels"),
    "join_particles": (ROWS, "particles"),
    "control_noise_only": (PIXELS, "pixels; the number of images is configured"),
    "evaluate_restoration": (IMAGES, "particles x pixels"),
    "compute_fsc": (VOXELS, "voxels"),
    "compute_truth_fsc": (VOXELS, "voxels"),
    "make_fsc_mask": (VOXELS, "voxels"),
    "preflight": (NOTHING, "nothing: it samples"),
    "write_summary": (NOTHING, "nothing"),
    "write_report": (VOXELS, "voxels"),
}
CHAIN = (
    *("extract_particles", "normalize_particles", "preflight", "split_particles", "reconstruct_map", "make_training_pairs", "train_diffusion"),
    *("train_postprocess", "restore_particles", "reconstruct_map", "compute_fsc", "evaluate_restoration", "write_summary", "write_report"),
)
"""The longest way through one data set; halves and methods stand side by side, of each step the longest job counts."""


def main() -> None:
    """Keep a run's times, or write the estimate and its page."""
    if sys.argv[1:2] == ["--measure"]:
        write_json(HERE / "measured.json", measured(*sys.argv[2:4]))
        return
    run = json.loads((HERE / "measured.json").read_text(encoding="utf-8"))
    found = estimate(run) | {"planned": planned_jobs(run)}
    write_json(HERE / "estimate.json", found)
    PAGE.write_text(page(run, found), encoding="utf-8")


def measured(dataset: str, command: str) -> dict[str, Any]:
    """Seconds and GPUs of every job of a finished run, with its size."""
    methods = json.loads((ROOT / f"results/{dataset}/methods.json").read_text(encoding="utf-8"))
    first = next(iter(methods.values()))
    paths = [path for path in sorted(ROOT.glob("benchmarks/*/*.tsv")) if path.stem.partition("_")[0] == dataset]
    jobs = [
        {"step": step["step"], "job": step["job"], "seconds": step["seconds"], "gpus": step["gpus"]}
        for step in read_benchmarks([path for path in paths if path.parent.name in (*GROWTH, "simulate_micrographs")])
    ]
    size = {name: first[name] for name in ("particles", "box_size", "pixel_size")}
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    return {"command": command, "machine": machine, "commit": first["commit"], "dataset": dataset, "methods": sorted(methods), **size, "jobs": jobs}


def estimate(run: dict[str, Any]) -> dict[str, Any]:
    """Jobs, bytes, hours and critical path of each number of particles, for a data set of micrographs and one method."""
    method = run["methods"][0]
    jobs = [job for job in run["jobs"] if job["step"] in GROWTH and ("restored." not in job["job"] or f"restored.{method}" in job["job"])]
    settings = load_configuration({"datasets": ["demo"], "denoisers": [method]}).settings["demo"]
    settings = {**settings, "input": {**settings["input"], "kind": "micrographs"}}
    rows = []
    for particles in PARTICLES:
        hours: dict[str, list[float]] = {}
        for job in jobs:
            growth = GROWTH[job["step"]][0]
            factor = growth(particles, BOX_SIZE) / growth(run["particles"], run["box_size"])
            hours.setdefault(job["step"], []).append(job["seconds"] * factor / 3600)
        use = disk_use(settings, particles=particles, box_size=BOX_SIZE, keep_intermediates=False)
        rows.append(
            {
                "particles": particles,
                "jobs": len(jobs),
                "bytes": use.total,
                "temporary_bytes": use.temporary,
                "hours": sum(map(sum, hours.values())),
                "gpu_step_hours": sum(sum(hours.get(step, [])) for step in GPU_STEPS),
                "critical_path_hours": sum(max(hours.get(step, [0.0])) for step in CHAIN),
                "hours_by_step": {step: sum(each) for step, each in sorted(hours.items())},
            }
        )
    measured_on_gpu = any(job["gpus"] for job in run["jobs"])
    return {"box_size": BOX_SIZE, "method": method, "measured_on_gpu": measured_on_gpu, "rows": rows}


def planned_jobs(run: dict[str, Any]) -> int:
    """Number of jobs of the measured run's data set that a dry-run plans, without the target."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--forceall", "--quiet", "rules", "--snakefile", str(ROOT / "Snakefile")]
    config = ["--config", f"datasets=[{run['dataset']}]", f"denoisers=[{','.join(run['methods'])}]"]
    done = subprocess.run([*command, *config], cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [line.split() for line in (done.stdout + done.stderr).split("Job stats:")[1].splitlines()]
    return next(int(row[1]) for row in rows if row[:1] == ["total"]) - 1


def page(run: dict[str, Any], found: dict[str, Any]) -> str:
    """The text of docs/scale.md."""
    seconds: dict[str, list[float]] = {}
    for job in run["jobs"]:
        seconds.setdefault(job["step"], []).append(job["seconds"])
    costs = [f"| `{step}` | {len(each)} | {max(each):.1f} | {GROWTH[step][1]} |" for step, each in seconds.items() if step in GROWTH]
    rows = [
        f"| {row['particles']:,} | {row['jobs']} | {bytes_text(row['bytes'])} | {bytes_text(row['temporary_bytes'])} | {row['hours']:.1f} | "
        f"{row['gpu_step_hours']:.1f} | {row['critical_path_hours']:.1f} |"
        for row in found["rows"]
    ]
    where = "a GPU" if found["measured_on_gpu"] else "a processor: **GPU hours were not measured**, and these are hours of processor"
    size = f"{run['particles']} particles of {run['box_size']} px; commit {run['commit'][:12]}"
    return "\n".join(
        [
            "# Scale",
            "",
            "<!-- made by benchmarks/scale/estimate.py; do not edit -->",
            "",
            "How a run grows with the number of particles. Nothing on this page was run at that size: every figure is worked out by",
            "`benchmarks/scale/estimate.py` from what each step took in one small run",
            f"(`{run['command']}`; {run['machine']}; {size}; kept as `benchmarks/scale/measured.json`).",
            "",
            f"## One data set, method `{found['method']}`, box {found['box_size']} px",
            "",
            "| particles | jobs | disk | of it temporary | hours of all jobs | of it steps that ask for a GPU | critical path (hours) |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"- The steps that ask for a GPU were measured on {where}.",
            "- Networks and training are those of the measured run. Larger networks and longer training come on top; they do not grow with the",
            "  particles.",
            "- The number of jobs grows neither with the particles nor with the micrographs: they travel in one job a step and half.",
            "- The critical path is the longest way through one data set when no job waits.",
            f"- A dry-run of the measured data set plans {found['planned']} jobs now; {len(run['jobs'])} were measured.",
            "- Disk is what `cryorestore check-disk` predicts ([data sets](datasets.md#many-data-sets)); temporary are the extracted stacks, with",
            "  `keep_intermediates: false`.",
            "- A job that runs longer than a queue allows is stopped and starts again from its beginning; only training resumes.",
            "",
            "## What each step took, and what its time is taken to grow with",
            "",
            "| step | jobs | longest job (s) | grows with |",
            "|---|---|---|---|",
            *costs,
            "",
            "The start of a step (imports, some seconds) is scaled with the rest, which makes the large figures too high rather than too low.",
            "",
            "## Planning",
            "",
            "Micrographs and picks are no inputs of jobs one by one: the micrographs stand in one table, and pick files in one parameter that",
            "changes with their names, sizes and times. A test (`tests/workflow/test_bulk.py`) plans 200 data sets of 2,000 micrographs each, with",
            "pick files, and demands at most 60 s of processor time beside other tests.",
            "",
            *queue(json.loads((ROOT / "benchmarks/slurm/results.json").read_text(encoding="utf-8"))),
        ]
    )


def queue(found: dict[str, Any]) -> list[str]:
    """What a job costs in a queue, and how many a data set submits."""
    seconds = [f"| {name} | {value:.1f} |" for name, value in found["seconds_per_job"].items()]
    counts = [f"| {name} | {each['jobs']} | {each['submitted']} |" for name, each in found["jobs_per_data_set"].items()]
    return [
        "## The queue",
        "",
        f"Command: `{found['command']}` ({found['processors']} cores; commit {found['commit'][:12]}),",
        "on the SLURM of the tests, which is empty: a real queue's waiting comes on top. A job that does nothing costs,",
        "with the profile as shipped and with a look at the queue every second:",
        "",
        "| jobs | seconds each |",
        "|---|---|",
        *seconds,
        "",
        "Short steps travel together in one job (`groups` in the profile), and a few run where Snakemake runs:",
        "",
        "| data set | jobs | of them submitted to SLURM, with groups |",
        "|---|---|---|",
        *counts,
        "",
    ]


if __name__ == "__main__":
    main()
