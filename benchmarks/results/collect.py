"""Keep a run's figures, and make docs/results.md from all that are kept.

usage: python benchmarks/results/collect.py demo "make demo"      keeps results/demo as benchmarks/results/demo.json
       python benchmarks/results/collect.py --controls "make demo-full"   keeps what every control of results/demo found
       python benchmarks/results/collect.py --clone LOG           keeps what `make demo`, `make demo`, `make test` printed in a fresh clone
       python benchmarks/results/collect.py --page                writes docs/results.md
"""

import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/results.md"
TITLES = {"demo": "The demo (simulated, PDB 7PBL)", "empiar-10146": "Experimental apoferritin (EMPIAR-10146)"}
REMARKS = {
    "demo": "`ours` is no better than `map-bayes` on true particles here: with one map a half the posterior mean leaves the network nothing to learn "
    "but when to say nothing, which shows on noise (above).",
    "empiar-10146": "Symmetry O. There is no truth: what restoration is worth here is to be seen, not counted. The restored particles lose their "
    "neighbours, and look as regular as the map that restored them: do not read texture.",
}
KEPT = ("psnr", "nmse", "ssim", "frc05", "slope", "paired_psnr_restored_minus_wiener", "scored_particles", "network_evaluations")


def main() -> None:
    """Keep one run, or write the page."""
    if sys.argv[1:] == ["--page"]:
        PAGE.write_text(page(), encoding="utf-8")
    elif sys.argv[1] == "--controls":
        write(HERE / "controls.json", controls_found("demo", sys.argv[2]))
    elif sys.argv[1] == "--clone":
        write(HERE / "fresh_clone.json", clone_runs(Path(sys.argv[2]).read_text(encoding="utf-8")))
    else:
        name, command = sys.argv[1:]
        write(HERE / f"{name}.json", collected(name, command))


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with sorted keys."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def clone_runs(log: str) -> dict[str, Any]:
    """Seconds and memory of each target, and pytest's closing line."""
    found = re.findall(r"^make (\S+): exit (\d+), (\d+) s, peak so far ([\d.]+) GiB", log, re.MULTILINE)
    runs = [{"target": target, "exit": int(code), "seconds": int(seconds), "peak_gib": float(peak)} for target, code, seconds, peak in found]
    closing = re.findall(r"=+ (.*passed.*) =+", log)
    return {"machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU", "runs": runs, "pytest": closing[0] if closing else None}


def collected(name: str, command: str) -> dict[str, Any]:
    """Summary, scores and wall time of results/NAME."""
    results = Path("results") / name
    methods = json.loads((results / "methods.json").read_text())
    for method in methods:
        evaluation = json.loads((results / f"evaluation/{method}.json").read_text())
        methods[method]["scores"] = {key: evaluation.get(key) for key in KEPT}
        evidence = evaluation.get("evidence") or {}
        methods[method]["scores"]["evidence"] = {key: value for key, value in evidence.items() if isinstance(value, float)}
        control = json.loads((results / f"control.noise_only.{method}/control.json").read_text())
        methods[method]["ungated_noise_fsc_mean"] = control["details"]["ungated_fsc_mean"]
    return {"command": command, "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU", "seconds_wall": elapsed(name), "methods": methods}


def controls_found(name: str, command: str) -> dict[str, Any]:
    """Verdicts of every control of results/NAME."""
    found: dict[str, Any] = {}
    for path in sorted((Path("results") / name).glob("control.*/control.json")):
        control = json.loads(path.read_text())
        found.setdefault(control["name"], {})[control["method"]] = {key: control[key] for key in ("verdict", "score", "threshold", "text")}
    summary = json.loads((Path("results") / name / "summary.json").read_text())
    run = {"command": command, "commit": summary["commit"], "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU"}
    return {**run, "seconds_wall": elapsed(name), "controls": found}


def elapsed(name: str) -> int | None:
    """Seconds that Snakemake's last whole run of this data set took, from its log."""
    for log in sorted(Path(".snakemake/log").glob("*.log"), reverse=True):
        text = log.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"Elapsed time: (?:(\d+) days?, )?(\d+):(\d\d):(\d\d)", text)
        if found and f"benchmarks/restore_particles/{name}_ours_half1.tsv" in text:
            return int(found[2]) * 3600 + int(found[3]) * 60 + int(found[4])
    return None


def page() -> str:
    """The text of docs/results.md."""
    parts = [
        "# Results",
        "<!-- made by benchmarks/results/collect.py --page; do not edit -->",
        "Figures of this version, each with the command that made it. They are kept as JSON in `benchmarks/results/` and `benchmarks/samplers/`, "
        "copied from the runs' `methods.json`, `evaluation/` and the `control.json` of their controls; this page is made from those files.",
        "One run of one seed is one run of one seed: intervals are over particles, not over trainings. "
        "The resolution is that of the raw particles; what restored maps agree on among themselves is self-consistency ([validity](validity.md)).",
    ]
    for name, title in TITLES.items():
        file = HERE / f"{name}.json"
        if file.is_file():
            parts += [f"## {title}", *run_section(json.loads(file.read_text())), REMARKS[name]]
    clone = HERE / "fresh_clone.json"
    if clone.is_file():
        parts += ["## A fresh clone", *clone_section(json.loads(clone.read_text()))]
    controls = HERE / "controls.json"
    if controls.is_file():
        parts += ["## Controls on the demo", *control_section(json.loads(controls.read_text()))]
    samplers = HERE.parent / "samplers/results.json"
    if samplers.is_file():
        parts += ["## Samplers", *sampler_section(json.loads(samplers.read_text()))]
    return "\n\n".join(parts) + "\n"


def run_section(run: dict[str, Any]) -> list[str]:
    """Sentences and tables of one run."""
    methods = run["methods"]
    first = next(iter(methods.values()))
    minutes = f"{run['seconds_wall'] / 60:.1f} minutes" if run["seconds_wall"] else "not measured"
    rows = [
        "| method | PSNR (dB) | NMSE | SSIM | FRC 0.5 (Å) | slope | evaluations | map to truth, FSC 0.5 (Å) | noise-only control | "
        "restored half-maps agree to (Å) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    scored = (first["scores"] or {}).get("psnr") is not None
    if scored:
        for label, key in (("raw", "raw"), ("Wiener, round mask", "wiener")):
            truth = number(first["truth_resolution_raw_05"]) if key == "raw" else "–"
            rows.append(score_row(label, first["scores"], key, ["0", truth, "–", "–"]))
    for name, method in methods.items():
        control = method["controls"]["noise_only"]
        last = [
            str(method["network_evaluations"]),
            number(method["truth_resolution_restored_05"]),
            f"{control['verdict']}, {100 * control['score']:.2f} % accepted",
            number(method["self_consistency_restored_0143"]),
        ]
        rows.append(score_row(f"`{name}`", method["scores"], "restored", last))
    texts = [
        f"Command: `{run['command']}` ({run['machine']}; {minutes} after installation, "
        f"largest step {first['peak_memory_gib']:.2f} GiB; commit {first['commit'][:12]}).",
        f"{first['particles']} particles, box {first['box_size']} px, {first['pixel_size']:g} Å/px. "
        f"Raw half-maps cross FSC 0.143 at {number(first['resolution_raw_0143'])} Å.",
        "\n".join(rows),
    ]
    if scored:
        gain = first["scores"]["paired_psnr_restored_minus_wiener"]
        texts.append(
            f"Scores are over {first['scores']['scored_particles']} held-out true particles. Restored minus Wiener, paired: "
            f"{gain['mean']:+.2f} dB [{gain['ci95'][0]:+.2f}, {gain['ci95'][1]:+.2f}]."
        )
    ungated = ", ".join(f"`{name}` {method['ungated_noise_fsc_mean']:.2f}" for name, method in methods.items())
    texts.append(f"What gating prevents: half-map FSC of maps from restored pure noise, mean over shells 3 to Nyquist, nothing left out: {ungated}.")
    return texts


def score_row(label: str, scores: dict[str, Any], key: str, last: list[str]) -> str:
    """One row of a table of methods."""
    cells = [spread(scores.get("psnr"), key, 2), spread(scores.get("nmse"), key, 3), spread(scores.get("ssim"), key, 3)]
    cells += [number((scores.get("frc05") or {}).get(key)), number((scores.get("slope") or {}).get(key), 3)]
    return "| " + " | ".join([label, *cells, *last]) + " |"


def clone_section(clone: dict[str, Any]) -> list[str]:
    """What the README's commands took in a fresh clone with an empty home."""
    rows = ["| command | exit code | seconds | largest process so far (GiB) |", "|---|---|---|---|"]
    rows += [f"| `make {run['target']}` | {run['exit']} | {run['seconds']} | {run['peak_gib']:.2f} |" for run in clone["runs"]]
    return [
        f"The README's commands, one after the other, in a fresh clone with no environment and an empty home "
        f"({clone['machine']}); the first makes the environments, too.",
        "\n".join(rows),
        f"pytest's closing line: {clone['pytest']}.",
    ]


def control_section(found: dict[str, Any]) -> list[str]:
    """What every control found, in its own words."""
    rows = ["| control | method | verdict | score | threshold | what was found |", "|---|---|---|---|---|---|"]
    for name, methods in found["controls"].items():
        for method, control in methods.items():
            cells = [f"`{name}`", f"`{method}`", control["verdict"], number(control["score"], 3), number(control["threshold"], 3), control["text"]]
            rows.append("| " + " | ".join(cells) + " |")
    return [
        f"Command: `{found['command']}` ({found['machine']}; {found['seconds_wall'] / 60:.1f} minutes after installation; "
        f"commit {found['commit'][:12]}); one seed. [Validity](validity.md#controls) says what each score is and what it gates.",
        "\n".join(rows),
    ]


def sampler_section(run: dict[str, Any]) -> list[str]:
    """The table of samplers."""
    rows = ["| sampler | network evaluations | PSNR (dB) | NMSE | seconds a particle, posterior included |", "|---|---|---|---|---|"]
    for name, row in run["rows"].items():
        cells = [name, str(row["evaluations"]), interval(row["psnr"], 2), interval(row["nmse"], 3), f"{row['seconds_a_particle']:.3f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return [
        f"Command: `{run['command']}` on the networks of `make demo` (commit {run['commit'][:12]}), "
        "the diffusion network of `ours` alone, without post-processing.",
        "\n".join(rows),
    ]


def spread(score: dict[str, Any] | None, key: str, digits: int) -> str:
    """Mean and interval, or a dash."""
    return "–" if not score or not score.get(key) else interval(score[key], digits)


def interval(score: dict[str, Any], digits: int) -> str:
    """Mean [low, high]."""
    low, high = score["ci95"]
    return f"{score['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    main()
