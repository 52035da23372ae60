"""Write docs/general_benchmark.md from the measured cells, and the model card's figures: python benchmarks/general/page.py [--check].

--check writes nothing and fails where the page is not what the cells say.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from particles import NOISES

from cryorestore.files import atomic_path, read_json, write_json
from cryorestore.general.weights import shipped_weights
from cryorestore.metrics import mean_interval

HERE = Path(__file__).parent
CELLS, LEARNING, EXPERIMENTAL = HERE / "cells", HERE / "learning.json", HERE / "experimental.json"
PAGE = HERE.parents[1] / "docs/general_benchmark.md"
TEXT = HERE / "page.md"
"""What is said beside the tables, by hand; `<!-- NAME -->` is replaced with a table."""
LANES = ("raw", "low-pass", "wiener", "wiener-masked", "cwf", "bm3d", "topaz", "general", "general-no-ctf")
OURS, RIVAL = "general", "wiener-masked"
SNRS = (0.1, 0.05, 0.02, 0.01)
WANTED = {0.1: 1.0, 0.05: 0.8, 0.02: 0.6}
"""dB over the masked Wiener filter"""
MOST_EMPTY = 0.05
MOST_TEMPLATE = 0.1
COVERAGE = (0.87, 0.93)
LICENCE = "BSD-3-Clause, as the program; the structures that it learned from are PDB entries (CC0-1.0)"
LIMITS = (
    "Trained on simulated particles of 64 PDB entries at 64 px; nothing of it is learned from experimental images.",
    "A restored particle is a posterior mean: low-passed and shrunken where the data say little. Detail beyond what raw data show is the prior's.",
    "Weights are the same for both halves of a data set: half-map FSC of restored particles says nothing.",
    "Particles whose diameter is outside 35 to 75 % of 64 px of the working sampling, more than 6 px off-centre, or dark on white were not trained.",
)
Cells = dict[tuple[str, str, float], dict[str, Any]]


def main() -> None:
    """Write the page and the card, or compare the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    cells = read_cells()
    card = read_json(shipped_weights().with_suffix(".json"))
    text = page(cells, card)
    if parser.parse_args().check:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{PAGE}: found another page than the cells make; run python benchmarks/general/page.py")
        return
    with atomic_path(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_json(shipped_weights().with_suffix(".json"), {**card, **card_text(cells)})


def read_cells() -> Cells:
    """By lane, noise and SNR."""
    found = [read_json(path) for path in sorted(CELLS.glob("*_snr*.json"))]
    return {(cell["settings"]["lane"], cell["settings"]["noise"], cell["settings"]["snr"]): cell for cell in found}


def page(cells: Cells, card: dict[str, Any]) -> str:
    """The text with its tables."""
    text = TEXT.read_text(encoding="utf-8")
    empty = read_json(CELLS / "empty_boxes.json")
    tables = {
        "targets": targets_table(cells, empty),
        "plain": quality_table(cells, "plain"),
        "structural": quality_table(cells, "structural"),
        "crowded": quality_table(cells, "crowded"),
        "gains": gains_table(cells),
        "structures": structures_table(cells),
        "empty": empty_table(cells, empty),
        "time": time_table(card),
        "learning": learning_table(),
        "experimental": experimental_table(),
        "training": training_text(card),
    }
    for name, table in tables.items():
        text = text.replace(f"<!-- {name} -->", table)
    return text


def values(cells: Cells, lane: str, noise: str, snr: float, name: str) -> list[float]:
    """One a structure."""
    return [row[name] for row in cells[lane, noise, snr]["rows"]]


def gains(cells: Cells, over: str, noise: str, snr: float) -> np.ndarray:
    """PSNR (dB) of the general restorer less another lane's, one a structure."""
    return np.array(values(cells, OURS, noise, snr, "psnr")) - np.array(values(cells, over, noise, snr, "psnr"))


def quality_table(cells: Cells, noise: str) -> str:
    """A row a lane, a column an SNR."""
    rows = []
    for lane in LANES:
        own = [cells.get((lane, noise, snr)) for snr in SNRS]
        if not any(own):
            rows.append([lane, *(["not measured: its program is missing here"] + [""] * (len(SNRS) - 1) + [""] * 3)])
            continue
        columns = [f"{mean(values(cells, lane, noise, snr, 'psnr')):.2f} ({mean(values(cells, lane, noise, snr, 'nmse')):.3f})" for snr in SNRS]
        crossing = [0.0 if value is None else value for value in values(cells, lane, noise, SNRS[1], "frc05_nyquist")]
        slope = mean(values(cells, lane, noise, SNRS[1], "slope"))
        residual = [mean(values(cells, lane, noise, SNRS[1], "structural_residual"))] if noise != "plain" else []
        rows.append([lane, *columns, f"{mean(crossing):.3f}", f"{slope:.2f}", *(f"{value:.3f}" for value in residual)])
    heads = ["lane", *(f"SNR {snr:g}" for snr in SNRS), f"FRC 0.5 at {SNRS[1]:g} (of Nyquist)", f"slope at {SNRS[1]:g}"]
    return table([*heads, *(["structural residual"] if noise != "plain" else [])], rows)


def gains_table(cells: Cells) -> str:
    """Paired differences, over the structures."""
    rows = []
    for noise in NOISES:
        for over in (RIVAL, "wiener"):
            for snr in SNRS:
                found = gains(cells, over, noise, snr)
                interval = mean_interval(found, seed=1)
                low, high = interval["ci95"]
                figures = [
                    f"{interval['mean']:+.2f}",
                    f"{low:+.2f} to {high:+.2f}",
                    f"{int((found > 0).sum())} of {len(found)}",
                    f"{found.min():+.2f}",
                ]
                rows.append([noise, over, f"{snr:g}", *figures])
    return table(["noise", "over", "SNR", "mean gain (dB)", "95 % interval", "structures above", "worst structure (dB)"], rows)


def structures_table(cells: Cells) -> str:
    """Plain noise, gain over the masked Wiener filter."""
    names = [row["structure"] for row in cells[OURS, "plain", SNRS[0]]["rows"]]
    columns = {snr: gains(cells, RIVAL, "plain", snr) for snr in SNRS}
    errors = {snr: values(cells, OURS, "plain", snr, "nmse") for snr in SNRS}
    rows = [[name, *(f"{columns[snr][place]:+.2f} ({errors[snr][place]:.3f})" for snr in SNRS)] for place, name in enumerate(names)]
    return table(["structure", *(f"SNR {snr:g}" for snr in SNRS)], rows)


def empty_table(cells: Cells, empty: dict[str, Any]) -> str:
    """What comes out of empty boxes, and how well the evidence and a box's variance tell them from particles."""
    rows = []
    for noise in NOISES:
        for snr in SNRS:
            cell = cells[OURS, noise, snr]["rows"]
            telling = [f"{area(cell, empty, name):.3f}" for name in ("evidence", "raw_variance")]
            covered, predicted, speed = (mean(row[name] for row in cell) for name in ("coverage_90", "predicted_over_actual", "particles_a_second"))
            share = f"{100 * empty_share(cells, empty, noise, snr):.1f} %"
            rows.append([noise, f"{snr:g}", share, *telling, f"{covered:.3f}", f"{predicted:.2f}", f"{speed:.0f}"])
    heads = ["noise", "SNR", "power of empty boxes", "AUC of the evidence", "AUC of the variance", "coverage of 90 % intervals"]
    return table([*heads, "predicted over actual variance", "particles/s, one core"], rows)


def empty_share(cells: Cells, empty: dict[str, Any], noise: str, snr: float) -> float:
    """Restored power of empty boxes over that of particles."""
    return float(empty["restored_power"] / mean(values(cells, OURS, noise, snr, "restored_power")))


def area(rows: list[dict[str, Any]], empty: dict[str, Any], name: str) -> float:
    """Under the receiver's operating curve, particles of all structures against empty boxes."""
    particles = np.concatenate([row[name] for row in rows])
    statistic = scipy.stats.mannwhitneyu(particles, empty[name]).statistic
    return float(statistic / (len(particles) * len(empty[name])))


def targets_table(cells: Cells, empty: dict[str, Any]) -> str:
    """What was aimed at, what was reached, worked out from the cells."""
    rows = []
    for snr, wanted in WANTED.items():
        found = gains(cells, RIVAL, "plain", snr)
        rows.append([f"gain over masked Wiener at SNR {snr:g}", f"{wanted:+.1f} dB", f"{found.mean():+.2f} dB", said(found.mean() >= wanted)])
    over = gains(cells, "wiener", "plain", 0.1).mean()
    rows.append(["gain over plain Wiener at SNR 0.1", "+2.5 dB", f"{over:+.2f} dB", said(over >= 2.5)])
    every = np.stack([gains(cells, RIVAL, "plain", snr) for snr in WANTED])
    above = int((every > 0).all(0).sum())
    rows.append([f"structures above masked Wiener at all of these SNRs, of {every.shape[1]}", "9", str(above), said(above >= 9)])
    rows.append(["worst structure and SNR", "-0.1 dB", f"{every.min():+.2f} dB", said(every.min() >= -0.1)])
    covered = [mean(values(cells, OURS, "plain", snr, "coverage_90")) for snr in SNRS]
    inside = all(COVERAGE[0] <= value <= COVERAGE[1] for value in covered)
    rows.append(["coverage of 90 % intervals, SNR 0.1 to 0.01", "0.87 to 0.93", f"{min(covered):.3f} to {max(covered):.3f}", said(inside)])
    shares = {snr: empty_share(cells, empty, "plain", snr) for snr in SNRS}
    shown = ", ".join(f"{100 * share:.1f} % at {snr:g}" for snr, share in shares.items())
    rows.append(["power of restored empty boxes over that of particles", "5 %", shown, said(max(shares.values()) <= MOST_EMPTY)])
    most = empty["template_correlation"]["max_absolute"]
    rows.append(["correlation of each restored empty box with the mean of the others", "0.1", f"{most:.2f} at most", said(most <= MOST_TEMPLATE)])
    speed = mean(row["particles_a_second"] for snr in SNRS for row in cells[OURS, "plain", snr]["rows"])
    rows.append(["particles a second, 64 px", "400 on two cores", f"{speed:.0f} on one", said(2 * speed >= 400)])
    frames = read_json(EXPERIMENTAL)["radius"]
    shown = ", ".join(f"{figures['gain']['mean']:+.3f} inside {radius} px" for radius, figures in frames.items())
    least = min(figures["gain"]["mean"] for figures in frames.values())
    rows.append(["correlation of experimental single frames, less that of the best filter", "0", shown, said(least >= 0)])
    if ("topaz", "plain", 0.1) in cells:
        rival = gains(cells, "topaz", "plain", 0.1).mean()
        rows.append(["gain over Topaz at SNR 0.1", "+2 dB", f"{rival:+.2f} dB", said(rival >= 2)])
    return table(["target", "wanted", "measured", "reached"], rows)


def time_table(card: dict[str, Any]) -> str:
    """The training's course on the watched particles."""
    chosen = [row for place, row in enumerate(card["curve"]) if place % 3 == 0 or place == len(card["curve"]) - 1]
    names = [name for name in card["curve"][0] if name.startswith("psnr_")]
    rows = [
        [f"{row['seconds'] / 60:.0f}", f"{row['images']:.0f}", *(f"{row[name]:.2f} ({row[name] - card['baseline'][name]:+.2f})" for name in names)]
        for row in chosen
    ]
    return table(["minutes", "images", *(f"SNR {name.removeprefix('psnr_')}" for name in names)], rows)


def experimental_table() -> str:
    """Single frames against the rest of their exposures."""
    found = read_json(EXPERIMENTAL)
    lanes = ("raw", "low-pass", "wiener", "general")
    rows = []
    for radius, figures in found["radius"].items():
        low, high = figures["gain"]["ci95"]
        gain = f"{figures['gain']['mean']:+.3f} ({low:+.3f} to {high:+.3f})"
        rows.append([radius, *(f"{figures[lane]:.3f}" for lane in lanes), figures["best_filter"], gain])
    heads = ["radius (px)", *lanes, "best filter", "general less the best filter (95 %)"]
    return f"{found['particles']} boxes; median evidence {found['evidence_median']:.1f}.\n\n" + table(heads, rows)


def learning_table() -> str:
    """Structures against quality."""
    if not LEARNING.exists():
        return "Not measured yet: `python benchmarks/general/learning.py`."
    runs = read_json(LEARNING)["runs"]
    names = list(runs[0]["baseline"])
    rows = []
    for run in runs:
        last = run["curve"][-1]
        gains_here = (f"{last[name]:.2f} ({last[name] - run['baseline'][name]:+.2f})" for name in names)
        rows.append([str(len(run["structures"])), f"{run['images']}", *gains_here])
    return table(["structures", "images", *(f"SNR {name.removeprefix('psnr_')}" for name in names)], rows)


def training_text(card: dict[str, Any]) -> str:
    """What the shipped weights are."""
    parameters = card["parameters"]
    return (
        f"The shipped weights saw {card['images']:,} images of {len(parameters['structures'])} structures in {card['seconds'] / 60:.0f} minutes "
        f"on one core that other work shared; seed {parameters['seed']}, {parameters['steps']} steps of {parameters['batch_size']} images."
    )


def card_text(cells: Cells) -> dict[str, Any]:
    """What the model card says beside how it was trained."""
    rows = {snr: gains(cells, RIVAL, "plain", snr) for snr in SNRS}
    names = [row["structure"] for row in cells[OURS, "plain", SNRS[0]]["rows"]]
    figures = {
        name: {f"{snr:g}": {"nmse": values(cells, OURS, "plain", snr, "nmse")[place], "gain_db": float(rows[snr][place])} for snr in SNRS}
        for place, name in enumerate(names)
    }
    return {"licence": LICENCE, "limits": list(LIMITS), "command": "make train-general", "figures_over_masked_wiener": figures}


def mean(numbers: Iterable[float]) -> float:
    """Of some numbers."""
    return float(np.mean(list(numbers)))


def said(reached: Any) -> str:
    """Yes or no."""
    return "yes" if reached else "**no**"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
