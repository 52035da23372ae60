"""Write docs/benchmark.md and its figures from the measured cells: python benchmarks/restoration/page.py [--check].

--check writes nothing and fails where the page is not what the cells say.
"""

import argparse
import base64
import json
import zlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import scipy.stats
from numpy.typing import NDArray
from simulation import BOX, PIXEL, SNR_STRUCTURAL
from targets import target_table

mpl.use("Agg")
import matplotlib.pyplot as plt

from cryorestore.config import load_configuration
from cryorestore.files import atomic_path

ROOT = Path(__file__).parents[2]
CELLS = Path(__file__).with_name("cells")
CONFORMERS = Path(__file__).with_name("conformers")
SIZES = Path(__file__).with_name("sizes.json")
PAGE = ROOT / "docs/benchmark.md"
FIGURES = ROOT / "docs/benchmark"
TEXT = Path(__file__).with_name("page.md")
"""What is said beside the tables, by hand; `<!-- tables -->` and `<!-- figures -->` are replaced."""
COLUMNS = ("NMSE", "PSNR (dB)", "SSIM", "FRC 0.5 (Å)", "slope", "structural residual", "evaluations", "particles/s", "training (s)")
MAPS = {"none": "no map", "true": "true map", "own": "own map"}
GROUP = ("molecule", "structure", "snr", "count", "half")
MAIN = {"snr": 0.05, "structure": "none", "seed": 1, "molecule": "demo"}


def main() -> None:
    """Write page and figures, or compare the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(CELLS.glob("*.json"))]
    chosen = [cell for cell in cells if all(cell["settings"][name] == value for name, value in MAIN.items())]
    figures = {"montage.png": montage_figure, "frc.svg": frc_figure, "evaluations.svg": evaluations_figure} if chosen else {}
    text = page_text(cells, list(figures))
    if parser.parse_args().check:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{PAGE}: found another page than the cells make; run python benchmarks/restoration/page.py")
        return
    with atomic_path(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    for name, draw in figures.items():
        save(draw(chosen), name)


def page_text(cells: list[dict], figures: list[str]) -> str:
    """The page."""
    conformers = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(CONFORMERS.glob("*.json"))]
    parts = [target_table(cells, conformers), *(table(group, cells) for group in groups(cells))]
    parts += [limit_table(cells), calibration_table(cells), samples_table(cells), conformer_table(conformers), size_table(), absent(cells)]
    text = TEXT.read_text(encoding="utf-8").replace("<!-- tables -->", "\n".join(part for part in parts if part).rstrip())
    return text.replace("<!-- figures -->", "\n\n".join(f"![{name.partition('.')[0]}](benchmark/{name})" for name in figures))


def groups(cells: list[dict]) -> list[tuple[Any, ...]]:
    """Molecule, structural noise, SNR, scored particles and particles of a half: one table each, the embedded molecule's and the main SNR's first."""
    found = {tuple(cell["settings"][name] for name in GROUP) for cell in cells}
    return sorted(found, key=lambda group: (group[0] != "demo", group[1] != "none", group[1], group[2] != MAIN["snr"], -group[2], group[3]))


def table(group: tuple[Any, ...], cells: list[dict]) -> str:
    """One table, its rows in order of NMSE."""
    molecule, structure, snr, count, half = group
    rows = defaultdict(list)
    for cell in cells:
        if tuple(cell["settings"][name] for name in GROUP) == group:
            rows[cell["name"], cell["settings"]["map"]].append(cell)
    noise = "white noise" if structure == "none" else f"structural noise: {structure} (SNR {SNR_STRUCTURAL} before the CTF), and white noise"
    name = "7PBL" if molecule == "demo" else f"{molecule.upper()}, which no network has seen"
    head = [f"### {name}, SNR {snr:g}, {noise}", "", f"{count} scored particles a seed; own maps from {half:,} particles a half.", ""]
    head += ["| lane | map | seeds | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (3 + len(COLUMNS))]
    order = sorted(rows.items(), key=lambda item: np.mean([cell["scores"]["nmse"]["mean"] for cell in item[1]]))
    return "\n".join([*head, *(row(*key, found) for key, found in order), ""])


def row(lane: str, kind: str, cells: list[dict]) -> str:
    """One row: means over seeds with their 95 % interval (t; of one seed the bootstrap interval over particles)."""
    scores = [cell["scores"] for cell in cells]
    texts = [interval(scores, name, digits) for name, digits in (("nmse", 4), ("psnr", 2), ("ssim", 3))]
    texts += [mean([score["frc05"] for score in scores], "{:.2f}", "never crosses"), mean([score["slope"] for score in scores], "{:.3f}")]
    texts += [mean([score["structural_residual"] for score in scores], "{:.3f}"), str(cells[0]["evaluations"])]
    texts += [mean([cell.get("particles_a_second") for cell in cells], "{:.3g}")]
    texts.append(mean([training_seconds(cell) for cell in cells], "{:.0f}"))
    few = f" ({scores[0]['particles']} particles)" if scores[0]["particles"] < cells[0]["settings"]["count"] else ""
    return f"| `{lane}`{few} | {MAPS[kind]} | {len(cells)} | " + " | ".join(texts) + " |"


def training_seconds(cell: dict) -> float | None:
    """Processor seconds of all trainings of a lane; None where it has none, or where one was interrupted."""
    seconds = [stage["seconds"] for stage in cell.get("training", {}).values()]
    return None if not seconds or None in seconds else sum(seconds)


def interval(scores: list[dict], name: str, digits: int) -> str:
    """Mean and interval of a score."""
    values = [score[name]["mean"] for score in scores]
    if len(values) == 1:
        low, high = scores[0][name]["ci95"]
        return f"{values[0]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.{digits}f} ± {half:.{digits}f}"


def mean(values: Iterable[float | None], form: str, absent: str = "–") -> str:
    """Mean of the values that are there."""
    present = [value for value in values if value is not None]
    return form.format(np.mean(present)) if present else absent


def limit_table(cells: list[dict]) -> str:
    """How the limit converged."""
    lines = ["### The limit: predicted and actual error of the posterior of the true map", ""]
    lines += ["| SNR | structural noise | seed | draws of rotations | actual NMSE | predicted NMSE | rotations that count (median) | within 15 % |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    found = [cell for cell in cells if cell["name"] == "limit"]
    for cell in sorted(found, key=lambda cell: (cell["settings"]["structure"], -cell["settings"]["snr"], cell["settings"]["seed"])):
        for stage in cell["stages"]:
            within = "yes" if abs(stage["predicted"] / stage["actual"] - 1) < 0.15 else "no"
            figures = f"{stage['actual']:.4f} | {stage['predicted']:.4f} | {stage['effective_rotations']:.0f} | {within}"
            settings, draws = cell["settings"], " + ".join(map(str, stage["draws"]))
            lines.append(f"| {settings['snr']:g} | {settings['structure']} | {settings['seed']} | {draws} | {figures} |")
    return "\n".join([*lines, ""]) if found else ""


def calibration_table(cells: list[dict]) -> str:
    """Whether the posterior's deviations tell the errors."""
    lines = ["### Uncertainty: what the posterior's deviation says of the error of each pixel", ""]
    lines += [
        "| lane | map | particles | seeds | pixels within the 90 % interval | predicted over actual squared error |",
        "|---|---|---|---|---|---|",
    ]
    found = defaultdict(list)
    for cell in cells:
        if "calibration" in cell:
            settings = cell["settings"]
            where = settings["molecule"] != "demo", settings["structure"] != "none", settings["structure"], -settings["snr"], settings["molecule"]
            found[cell["name"], settings["map"], *where].append(cell["calibration"])
    for (lane, kind, _, _, structure, snr, molecule), figures in sorted(found.items()):
        coverage, ratio = (np.mean([figure[name] for figure in figures]) for name in ("coverage_90", "predicted_over_actual"))
        noise = ("" if structure == "none" else f", {structure}") + ("" if molecule == "demo" else f", {molecule.upper()}")
        lines.append(f"| `{lane}` | {MAPS[kind]} | SNR {-snr:g}{noise} | {len(figures)} | {coverage:.3f} | {ratio:.2f} |")
    return "\n".join([*lines, ""]) if found else ""


SHOWN_SHELLS = (4, 8, 12, 16, 20, 24)


def samples_table(cells: list[dict]) -> str:
    """What draws from the diffusion tell of their error."""
    found = [cell for cell in cells if "samples" in cell]
    if not found:
        return ""
    first = found[0]["samples"]
    sets = f"{first['draws']} draws of {first['steps']} evaluations for each of {first['images']} particles, one seed"
    lines = [f"### Uncertainty: draws from the diffusion of `ours`, {sets}", ""]
    lines += [
        "Of the mean of the draws: by their spread alone, and with the map's error added, of which draws know nothing. Shells: with the map's error."
    ]
    lines += ["A perfect draw has twice the error of the posterior mean.", ""]
    head = [
        "map",
        "SNR",
        "NMSE of one draw",
        "of their mean",
        "90 % interval, spread alone",
        "with the map's error",
        "predicted over actual, spread alone",
    ]
    head += ["with the map's error", *(f"shell {shell}" for shell in SHOWN_SHELLS)]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for cell in sorted(found, key=lambda cell: (cell["settings"]["map"], -cell["settings"]["snr"])):
        told, settings = cell["samples"], cell["settings"]
        row = [MAPS[settings["map"]], f"{settings['snr']:g}", f"{told['nmse_of_one']:.4f}", f"{told['nmse']:.4f}"]
        row += [f"{told[part]['coverage_90']:.3f}" for part in ("alone", "with_map")]
        row += [f"{told[part]['predicted_over_actual']:.2f}" for part in ("alone", "with_map")]
        shells = told["shells"]
        row += [f"{shells['with_map'][shell - 1] / shells['actual'][shell - 1]:.2f}" for shell in SHOWN_SHELLS]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join([*lines, ""])


def conformer_table(cells: list[dict]) -> str:
    """NMSE of three conformers under three sets of maps, mean over seeds."""
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


def size_table() -> str:
    """What a particle costs by box."""
    if not SIZES.exists():
        return ""
    lines = ["### Processor seconds a particle and memory, by box (one core, whole band, `python benchmarks/restoration/sizes.py`)", ""]
    lines += ["| box (px) | pixel size (Å) | `map-bayes` (s) | `ours` (s) | particles at once | memory (GiB) |", "|---|---|---|---|---|---|"]
    for row in json.loads(SIZES.read_text(encoding="utf-8"))["rows"]:
        figures = f"{row['map-bayes']:.3f} | {row['ours']:.3f} | {row['at_once']} | {row['memory_gib']:.2f}"
        lines.append(f"| {row['box_size']} | {row['pixel_size']:g} | {figures} |")
    return "\n".join([*lines, ""])


def absent(cells: list[dict]) -> str:
    """Lanes without a cell."""
    methods = load_configuration({"datasets": ["demo"]}).settings["demo"]["methods"]
    names = [f"`{name}`" for name in methods if name not in {cell["name"] for cell in cells}]
    reason = "`topaz` and `bm3d` need a program that is not installed by default ([method](method.md#lanes)); the others are not measured yet"
    return f"Without a cell: {', '.join(names)}. {reason}.\n" if names and cells else ""


def by_error(cells: list[dict]) -> list[dict]:
    """Cells in order of their NMSE."""
    return sorted(cells, key=lambda cell: cell["scores"]["nmse"]["mean"])


def montage_figure(cells: list[dict]) -> plt.Figure:
    """The same particles by every lane, on one grey scale."""
    shown = [(f"{cell['name']}, {MAPS[cell['settings']['map']]}", unpacked(cell["examples"])) for cell in by_error(cells)]
    shown = [("clean", unpacked(cell["clean"])) for cell in cells if "clean" in cell] + shown
    columns = 2
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(9, 1.35 * rows), squeeze=False)
    for place in axes.flat:
        place.axis("off")
    for place, (name, images) in zip(axes.T.flat, shown, strict=False):
        place.imshow(np.concatenate(images, axis=1), cmap="gray", vmin=0, vmax=255)
        place.set_title(name, fontsize=7, pad=2)
    figure.tight_layout(pad=0.4)
    return figure


def unpacked(text: str) -> NDArray[np.uint8]:
    """What measure.py packed."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(-1, BOX, BOX)


def frc_figure(cells: list[dict]) -> plt.Figure:
    """Mean FRC curves of all lanes at SNR 0.05, white noise, first seed."""
    figure, axes = plt.subplots(figsize=(9, 5.5))
    styles = [(color, style) for style in ("-", "--", ":") for color in plt.rcParams["axes.prop_cycle"].by_key()["color"]]
    for cell, (color, style) in zip(by_error(cells), styles, strict=False):
        curve = np.array(cell["scores"]["frc"])
        frequency = np.arange(len(curve)) / (2 * (len(curve) - 1) * PIXEL)
        axes.plot(frequency, curve, style, color=color, label=f"{cell['name']}, {MAPS[cell['settings']['map']]}", linewidth=1)
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="FRC to the clean image", ylim=(-0.1, 1.02), title="SNR 0.05, white noise, seed 1")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def evaluations_figure(cells: list[dict]) -> plt.Figure:
    """PSNR against network evaluations at SNR 0.05."""
    figure, axes = plt.subplots(figsize=(9, 5))
    for cell in cells:
        if cell["name"] != "raw":
            place = max(cell["evaluations"], 0.5), cell["scores"]["psnr"]["mean"]
            axes.semilogx(*place, "o", markersize=4)
            axes.annotate(f"{cell['name']}, {MAPS[cell['settings']['map']]}", place, fontsize=6, xytext=(4, 0), textcoords="offset points")
    axes.set(xlabel="network evaluations a particle (0.5: none)", ylabel="PSNR (dB)", title="SNR 0.05, white noise, seed 1")
    return figure


def save(figure: plt.Figure, name: str) -> None:
    """Write a figure, the same bytes for the same cells."""
    plt.rcParams["svg.hashsalt"] = "cryorestore"
    stamps = {"Date": None} if name.endswith("svg") else {"Software": None}
    with atomic_path(FIGURES / name) as temporary:
        figure.savefig(temporary, bbox_inches="tight", metadata=stamps, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main()
