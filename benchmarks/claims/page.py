"""Write docs/claims.md and its figure from the measured cells: python benchmarks/claims/page.py [--check].

--check writes nothing and fails where the page is not what the cells say.
"""

import argparse
import json
from collections.abc import Iterable

import matplotlib as mpl
import numpy as np
from measure import CELLS, HERE, TOTAL, UNTRAINED, claim_cells

mpl.use("Agg")
import matplotlib.pyplot as plt

from cryorestore.files import atomic_path

ROOT = HERE.parents[1]
PAGE, FIGURE = ROOT / "docs/claims.md", ROOT / "docs/benchmark/claims.svg"
TEXT = HERE / "page.md"
Found = dict[str, dict]
MISSING = "Not measured yet."


def main() -> None:
    """Write page and figure, or compare the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(CELLS.glob("*.json"))}
    text = page_text(found)
    if parser.parse_args().check:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{PAGE}: found another page than the cells make; run python benchmarks/claims/page.py")
        return
    with atomic_path(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    if courses(found)["sr3"]:
        draw(found)


def page_text(found: Found) -> str:
    """The page: `<!-- a -->` and the like are replaced."""
    text = TEXT.read_text(encoding="utf-8")
    for name, part in {"a": epochs, "b": equal_quality, "c": switching, "d": frames, "e": maps, "f": spread, "g": conformers}.items():
        text = text.replace(f"<!-- {name} -->", part(found) or MISSING)
    return text.replace("<!-- figure -->", "![PSNR against training](benchmark/claims.svg)" if courses(found)["sr3"] else MISSING)


def cells_of(claim: str, found: Found) -> list[dict]:
    """The cells of a claim that are there, each once, in order."""
    names = dict.fromkeys(cell.name for cell in claim_cells(TOTAL)[claim])
    return [found[name] for name in names if name in found]


def table(head: Iterable[str], rows: list[list[str]]) -> str:
    """A table; nothing without rows."""
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join(lines) if rows else ""


def psnr(cell: dict) -> float:
    """Mean PSNR, dB."""
    return float(cell["scores"]["psnr"]["mean"])


def seconds(cell: dict) -> str:
    """Processor seconds of all its trainings, – where one was interrupted."""
    spent = list(cell["training"].values())
    return f"{sum(spent):.0f}" if spent and None not in spent else "–"


def interval(score: dict, digits: int = 2) -> str:
    """Mean and interval over particles."""
    low, high = score["ci95"]
    return f"{score['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def total_steps(cell: dict) -> int:
    """The whole time of a cell, in steps of the diffusion network: what its lane was given."""
    settings = cell["settings"]
    first = settings["length"]["first"]
    shares = [total for total in (TOTAL // 8, TOTAL // 4, TOTAL // 2, TOTAL) if total // 2 == first]
    return shares[0] if settings["lane"] == "sr3+post" else first


def courses(found: Found) -> dict[str, list[dict]]:
    """By lane, its cells in order of the whole time; the second network's at half of it."""
    result: dict[str, list[dict]] = {}
    for lane in ("sr3", "sr3+post", "unet"):
        names = dict.fromkeys(cell.name for cell in claim_cells(TOTAL)["b"] if cell.lane == lane)
        result[lane] = sorted((found[name] for name in names if name in found), key=total_steps)
    return result


def epochs(found: Found) -> str:
    """Claim (a)."""
    cells = cells_of("a", found)
    rows = []
    for cell in cells:
        steps, scores = cell["settings"]["length"]["first"], cell["scores"]
        curve, learned = scores["frc"], 0.9 * cell["settings"]["pairs"]
        rings = [f"{np.mean(curve[low:high]):.3f}" for low, high in ((1, 5), (5, 9), (9, 17))]
        rows.append([str(steps), f"{steps * 32 / learned:.1f}", seconds(cell), interval(scores["psnr"]), f"{scores['nmse']['mean']:.3f}", *rings])
    text = table(["steps", "epochs", "processor s", "PSNR (dB)", "NMSE", "mean FRC, shells 1-4", "5-8", "9-16"], rows)
    if len(cells) < 6:
        return text
    values = [psnr(cell) for cell in cells]
    share = (values[2] - values[0]) / (values[-1] - values[0])
    return f"{text}\n\nOf the gain from the shortest to the longest training, {100 * share:.0f} % is there after a quarter of the longest."


def equal_quality(found: Found) -> str:
    """Claim (b)."""
    lanes = courses(found)
    times = sorted({total_steps(cell) for cells in lanes.values() for cell in cells})
    by_time = {lane: {total_steps(cell): cell for cell in cells} for lane, cells in lanes.items()}
    rows = [[str(at), *(f"{psnr(cells[at]):.2f} ({seconds(cells[at])} s)" if at in cells else "–" for cells in by_time.values())] for at in times]
    text = table(["whole time (diffusion steps)", *(f"`{lane}`, PSNR (dB)" for lane in lanes)], rows)
    goals = [psnr(cell) for cell in lanes["sr3"] if total_steps(cell) == TOTAL]
    sentences = []
    for lane in ("sr3+post", "unet") if goals else ():
        reached = [total_steps(cell) for cell in lanes[lane] if psnr(cell) >= goals[0]]
        shortest = min((total_steps(cell) for cell in lanes[lane]), default=0)
        if reached:
            bound = "at least " if min(reached) == shortest else ""
            sentences.append(f"`{lane}` has the PSNR of `sr3` after the whole time in {bound}{TOTAL / min(reached):.0f} times less.")
        elif lanes[lane]:
            sentences.append(f"`{lane}` does not reach the PSNR of `sr3` after the whole time.")
    return "\n\n".join([text, " ".join(sentences)] if sentences else [text])


def switching(found: Found) -> str:
    """Claim (c)."""
    rows = []
    for cell in cells_of("c", found):
        length = cell["settings"]["length"]
        scores = cell["scores"]
        share = f"{100 * length['first'] / TOTAL:.1f} %"
        rows.append(
            [
                share,
                *(str(length[name]) for name in ("first", "pairs", "second")),
                seconds(cell),
                interval(scores["psnr"]),
                f"{scores['nmse']['mean']:.3f}",
            ]
        )
    return table(["switched after", "diffusion steps", "pairs restored", "steps of the second network", "processor s", "PSNR (dB)", "NMSE"], rows)


def spread(found: Found) -> str:
    """Claim (f)."""
    rows = []
    for lane in ("sr3+post", "gan"):
        cells = [cell for cell in cells_of("f", found) if cell["settings"]["lane"] == lane]
        values = [psnr(cell) for cell in cells]
        if len(values) > 1:
            rows.append(
                [f"`{lane}`", str(len(values)), f"{np.mean(values):.2f}", f"{np.std(values, ddof=1):.3f}", f"{min(values):.2f} to {max(values):.2f}"]
            )
    return table(["lane", "seeds", "PSNR (dB), mean", "standard deviation over seeds", "range"], rows)


def lane_name(cell: dict) -> str:
    """As it stands in tables."""
    return f"`{cell['settings']['lane']}`"


def frames(found: Found) -> str:
    """Claim (d)."""
    cells = [cell for cell in cells_of("d", found) if cell["frames"]]
    rows = [
        [lane_name(cell), interval(cell["scores"]["psnr"]), interval(cell["frames"]["correlation"], 4), str(cell["frames"]["boxes"])]
        for cell in cells
    ]
    return table(["lane", "simulated: PSNR (dB)", "experimental: correlation with the rest of the exposure", "boxes"], rows)


def maps(found: Found) -> str:
    """Claim (e)."""
    rows = []
    for cell in sorted(cells_of("e", found), key=lambda cell: cell["map"]["resolution_05"] or 0.0):
        curve, resolution = cell["map"]["fsc_to_truth"], cell["map"]["resolution_05"]
        crossing = "never crosses" if resolution is None else f"{resolution:.2f}"
        rows.append([lane_name(cell), crossing, *(f"{np.mean(curve[low:high]):.3f}" for low, high in ((1, 9), (9, 17), (17, 25)))])
    return table(["lane", "FSC to the truth 0.5 (Å)", "mean FSC, shells 1-8", "9-16", "17-24"], rows)


def conformers(found: Found) -> str:
    """Claim (g)."""
    cells = cells_of("g", found)
    kinds = list(cells[0]["conformers"]) if cells else []
    rows = []
    for cell in cells:
        values = [cell["conformers"][kind]["mean"] for kind in kinds]
        rows.append([lane_name(cell), *(f"{value:.3f}" for value in values), f"{max(values[1:]) / values[0]:.2f}"])
    return table(["lane", *(f"{kind}, NMSE" for kind in kinds), "turned over not turned, at worst"], rows)


def draw(found: Found) -> None:
    """PSNR against the whole time."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for (lane, cells), style in zip(courses(found).items(), ("o-", "s-", "^--"), strict=True):
        axes.semilogx([total_steps(cell) for cell in cells], [psnr(cell) for cell in cells], style, label=lane, markersize=4)
    for lane in UNTRAINED:
        if lane in ("wiener-masked", "map-bayes") and f"{lane}_0_seed1" in found:
            axes.axhline(psnr(found[f"{lane}_0_seed1"]), color="grey", linewidth=0.8)
            axes.annotate(lane, (TOTAL // 16, psnr(found[f"{lane}_0_seed1"])), fontsize=7, xytext=(0, 2), textcoords="offset points")
    axes.set(xlabel="whole time of training (steps of the diffusion network)", ylabel="PSNR (dB)")
    axes.legend(fontsize=8)
    plt.rcParams["svg.hashsalt"] = "cryorestore"
    FIGURE.parent.mkdir(exist_ok=True)
    with atomic_path(FIGURE) as temporary:
        figure.savefig(temporary, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
