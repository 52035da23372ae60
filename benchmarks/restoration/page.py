"""Write docs/benchmark.md and its figures from the measured cells: python benchmarks/restoration/page.py."""

import json
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl
import numpy as np
import scipy.stats
from simulation import PIXEL, SNR_STRUCTURAL

mpl.use("Agg")
import matplotlib.pyplot as plt

from cryorestore.files import atomic_path

ROOT = Path(__file__).parents[2]
CELLS = Path(__file__).with_name("cells")
CONFORMERS = Path(__file__).with_name("conformers")
PAGE = ROOT / "docs/benchmark.md"
FIGURES = ROOT / "docs/benchmark"
TEXT = Path(__file__).with_name("page.md")
"""What is said beside the tables, by hand; `<!-- tables -->` is replaced."""
COLUMNS = ("NMSE", "PSNR (dB)", "SSIM", "FRC 0.5 (Å)", "slope", "structural residual", "evaluations", "s a particle", "training (s)")
MAPS = {"none": "no map", "true": "true map", "own": "own map"}


def main() -> None:
    """Write page and figures."""
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(CELLS.glob("*.json"))]
    measured = [cell for cell in cells if "scores" in cell]
    parts = [table(group, cells) for group in groups(measured)]
    names = [frc_figure(measured), evaluations_figure(measured)]
    figures = "\n\n".join(f"![{name.partition('.')[0].replace('_', ' ')}](benchmark/{name})" for name in names if name)
    text = TEXT.read_text(encoding="utf-8").replace(
        "<!-- tables -->", "\n".join([*parts, limit_table(measured), calibration_table(measured), conformer_table(), missing(cells)])
    )
    with atomic_path(PAGE) as temporary:
        temporary.write_text(text.replace("<!-- figures -->", figures), encoding="utf-8")


def groups(cells: list[dict]) -> list[tuple[str, str, float, int, int]]:
    """Molecule, structural noise, SNR, scored particles and particles of a half: one table each, highest SNR first."""
    names = ("molecule", "structure", "snr", "count", "half")
    found = {tuple(cell["settings"][name] for name in names) for cell in cells}
    return sorted(found, key=lambda group: (group[0] != "demo", group[1] != "none", group[1], -group[2], group[3]))


def table(group: tuple[str, str, float, int, int], cells: list[dict]) -> str:
    """One table, its rows in order of NMSE."""
    molecule, structure, snr, count, half = group
    rows = defaultdict(list)
    for cell in cells:
        settings = cell["settings"]
        if tuple(settings[name] for name in ("molecule", "structure", "snr", "count", "half")) == group and "scores" in cell:
            rows[cell["name"], settings["map"]].append(cell)
    noise = "white noise" if structure == "none" else f"structural noise: {structure} (SNR {SNR_STRUCTURAL} before the CTF), and white noise"
    name = "7PBL" if molecule == "demo" else Path(molecule).name.partition(".")[0]
    head = [f"### {name}, SNR {snr:g}, {noise}", "", f"{count} scored particles a seed; own maps from {half:,} particles a half.", ""]
    head += ["| lane | map | seeds | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (3 + len(COLUMNS))]
    order = sorted(rows.items(), key=lambda item: np.mean([cell["scores"]["nmse"]["mean"] for cell in item[1]]))
    return "\n".join([*head, *(row(*key, found) for key, found in order), ""])


def row(lane: str, kind: str, cells: list[dict]) -> str:
    """One row: means over seeds with their 95 % interval (t; of one seed the bootstrap interval over particles)."""
    scores = [cell["scores"] for cell in cells]
    texts = [interval(scores, name, digits) for name, digits in (("nmse", 4), ("psnr", 2), ("ssim", 3))]
    residuals = [score["structural_residual"] for score in scores]
    texts += [mean([score["frc05"] for score in scores], "{:.2f}", "never crosses"), mean([score["slope"] for score in scores], "{:.3f}", "–")]
    texts += [mean(residuals, "{:.3f}", "–"), str(cells[0]["evaluations"]), mean([cell.get("seconds_a_particle") for cell in cells], "{:.4f}", "–")]
    texts.append(mean([cell.get("training", {}).get("training_seconds") for cell in cells], "{:.0f}", "–"))
    few = f" ({scores[0]['particles']} particles)" if scores[0]["particles"] < cells[0]["settings"]["count"] else ""
    return f"| `{lane}`{few} | {MAPS[kind]} | {len(cells)} | " + " | ".join(texts) + " |"


def interval(scores: list[dict], name: str, digits: int) -> str:
    """Mean and interval of a score."""
    values = [score[name]["mean"] for score in scores]
    if len(values) == 1:
        low, high = scores[0][name]["ci95"]
        return f"{values[0]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.{digits}f} ± {half:.{digits}f}"


def mean(values: list[float | None], form: str, absent: str) -> str:
    """Mean of the values that are there."""
    present = [value for value in values if value is not None]
    return form.format(np.mean(present)) if present else absent


def limit_table(cells: list[dict]) -> str:
    """How the limit converged."""
    lines = ["### The limit: predicted and actual error of the posterior of the true map", ""]
    lines += ["| SNR | seed | particles | draws of rotations | actual NMSE | predicted NMSE | rotations that count (median) | within 15 % |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for cell in sorted((cell for cell in cells if cell["name"] == "limit"), key=lambda cell: (-cell["settings"]["snr"], cell["settings"]["seed"])):
        for stage in cell["stages"]:
            within = "yes" if abs(stage["predicted"] / stage["actual"] - 1) < 0.15 else "no"
            figures = f"{stage['actual']:.4f} | {stage['predicted']:.4f} | {stage['effective_rotations']:.0f} | {within}"
            draws = " + ".join(map(str, stage["draws"]))
            lines.append(f"| {cell['settings']['snr']:g} | {cell['settings']['seed']} | {cell['scores']['particles']} | {draws} | {figures} |")
    return "\n".join([*lines, ""])


def calibration_table(cells: list[dict]) -> str:
    """Whether the posterior's deviations tell the errors."""
    lines = ["### Uncertainty: what the posterior's deviation says of the error of each pixel", ""]
    lines += ["| lane | map | SNR | seeds | pixels within the 90 % interval | predicted over actual squared error |", "|---|---|---|---|---|---|"]
    found = defaultdict(list)
    for cell in cells:
        if "calibration" in cell:
            found[cell["name"], cell["settings"]["map"], cell["settings"]["structure"], -cell["settings"]["snr"]].append(cell["calibration"])
    for (lane, kind, structure, snr), figures in sorted(found.items()):
        coverage, ratio = (np.mean([figure[name] for figure in figures]) for name in ("coverage_90", "predicted_over_actual"))
        noise = "" if structure == "none" else f", {structure}"
        lines.append(f"| `{lane}` | {MAPS[kind]} | {-snr:g}{noise} | {len(figures)} | {coverage:.3f} | {ratio:.2f} |")
    return "\n".join([*lines, ""])


def conformer_table() -> str:
    """NMSE of three conformers under three sets of maps, mean over seeds."""
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(CONFORMERS.glob("*.json"))]
    if not cells:
        return ""
    settings = cells[0]["settings"]
    sets = f"{settings['count']} particles of each kind, {len(cells)} seeds"
    head = f"### Conformers: NMSE of the pose posterior, SNR {settings['snr']:g}, true maps, {sets}"
    maps = ("average map", "one map a conformer", "its own map")
    lines = [head, "", "| particles | " + " | ".join(maps) + " |", "|---|---|---|---|"]
    for kind in ("majority", "minority", "unseen"):
        values = [f"{np.mean([cell['nmse'][kind][name]['mean'] for cell in cells]):.4f}" for name in maps]
        lines.append(f"| {kind} | " + " | ".join(values) + " |")
    return "\n".join([*lines, ""])


def missing(cells: list[dict]) -> str:
    """Lanes that could not run, with their reason."""
    reasons = {cell["name"]: cell["unavailable"] for cell in cells if "unavailable" in cell}
    return "\n".join(f"`{name}` was left out: {reason}" for name, reason in sorted(reasons.items()))


def frc_figure(cells: list[dict]) -> str | None:
    """Mean FRC curves of all lanes at SNR 0.05, white noise, first seed."""
    wanted = {"snr": 0.05, "structure": "none", "seed": 1, "molecule": "demo"}
    chosen = [cell for cell in cells if all(cell["settings"][name] == value for name, value in wanted.items())]
    if not chosen:
        return None
    figure, axes = plt.subplots(figsize=(8, 5))
    for cell in sorted(chosen, key=lambda cell: cell["scores"]["nmse"]["mean"]):
        curve = np.array(cell["scores"]["frc"])
        frequency = np.arange(len(curve)) / (2 * (len(curve) - 1) * PIXEL)
        axes.plot(frequency, curve, label=f"{cell['name']}, {MAPS[cell['settings']['map']]}", linewidth=1)
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="FRC to the clean image", ylim=(-0.1, 1.02), title="SNR 0.05, white noise")
    axes.legend(fontsize=7, ncols=2)
    return saved(figure, "frc.svg")


def evaluations_figure(cells: list[dict]) -> str | None:
    """PSNR against network evaluations at SNR 0.05."""
    chosen = [cell for cell in cells if cell["settings"]["snr"] == 0.05 and cell["settings"]["structure"] == "none" and cell["name"] != "limit"]
    if not chosen:
        return None
    figure, axes = plt.subplots(figsize=(8, 4))
    for cell in chosen:
        place = max(cell["evaluations"], 0.5), cell["scores"]["psnr"]["mean"]
        axes.semilogx(*place, "o", markersize=4)
        axes.annotate(f"{cell['name']}, {MAPS[cell['settings']['map']]}", place, fontsize=6, xytext=(4, 0), textcoords="offset points")
    axes.set(xlabel="network evaluations a particle (0.5: none)", ylabel="PSNR (dB)", title="SNR 0.05, white noise")
    return saved(figure, "evaluations.svg")


def saved(figure: plt.Figure, name: str) -> str:
    """Write a figure, the same bytes for the same cells."""
    plt.rcParams["svg.hashsalt"] = "cryorestore"
    with atomic_path(FIGURES / name) as temporary:
        figure.savefig(temporary, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return name


if __name__ == "__main__":
    main()
