"""The tables of docs/reconstruction.md, from the measured cells."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from cells import WINDOWED
from scipy import stats

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from made_pages import write_made_part  # noqa: E402

PAGE = ROOT / "docs/reconstruction.md"
BEGIN, END = "<!-- begin of what benchmarks/reconstruction/measure.py writes -->\n", "<!-- end -->\n"
STACKS = {"raw": "raw", "restored": "restored", "fused": "marginal", "mean_pose": "mean pose", "true_poses": "raw, true poses"}
BACKENDS = ("native", WINDOWED, "relion", "cryodrgn")
Cells = list[dict[str, Any]]


def write_page(results: dict[str, dict]) -> None:
    """Replace the measured part of the page."""
    write_made_part(PAGE, BEGIN, END, measured(results))


def measured(results: dict[str, dict]) -> str:
    """All tables, each with its heading; one without a cell is left out."""
    parts = {"stacks": stacks_tables, "backends": backends_table, "rates": rates_table}
    cells = [{**cell["settings"], **cell} for cell in results.values()]
    return "\n".join(make([cell for cell in cells if cell["kind"] == kind]) for kind, make in parts.items())


def stacks_tables(cells: Cells) -> str:
    """What the ways of using a half's particles come to."""
    areas, gains, poses = [], [], []
    for (count, given, junk), group in grouped(cells, "count", "poses", "junk"):
        start = [f"{count:,}", given, f"{junk:.0%}", str(len(group))]
        areas.append(start + [mean(figure(group, name, "area"), 4) for name in STACKS] + [mean(figure(group, name, "fsc05"), 2) for name in STACKS])
        gains.append(start + [interval(difference(group, name, "raw")) for name in ("fused", "mean_pose", "restored")])
        kinds = ("given_degrees", "mean_degrees", "given_px", "mean_px")
        errors = [mean([cell["figures"]["pose_errors"][kind] for cell in group], 2) for kind in kinds]
        shares = [share(cell["figures"][kind] for cell in group) for kind in ("accepted", "junk_accepted")]
        widths = ", ".join(sorted({f"{cell['figures']['width']:g}" for cell in group}))
        poses.append([*start, *errors, *shares, widths])
    if not cells:
        return ""
    columns = ["particles", "poses", "junk", "seeds"]
    names = list(STACKS.values())
    return "\n".join(
        [
            "### Ways of using a half's particles\n",
            "Area under the FSC to the truth, and where it crosses 0.5 (angstrom), means over seeds.\n",
            table([*columns, *(f"area, {name}" for name in names), *(f"0.5, {name}" for name in names)], areas),
            "Difference in area against raw particles at the given poses, same particles: mean and its 95 % interval (Student's t over seeds).\n",
            table([*columns, "marginal", "mean pose", "restored"], gains),
            "Rms error of the given poses and of the posterior's mean, what the evidence accepted, and the width that was chosen.\n",
            table([*columns, "given, degrees", "mean, degrees", "given, px", "mean, px", "particles kept", "junk kept", "width"], poses),
        ]
    )


def backends_table(cells: Cells) -> str:
    """Backends on the same particles."""
    rows, ahead = [], []
    for (box, count), group in grouped(cells, "box", "count"):
        names = [name for name in BACKENDS if all(name in cell["figures"] for cell in group)]
        start = [str(box), f"{count:,}", str(len(group))]
        keys = (("area", 4), ("tight_area", 4), ("fsc05", 2), ("tight_fsc05", 2))
        rows += [[*start, name, *(mean(figure(group, name, key), digits) for key, digits in keys)] for name in names]
        for own, others in (("native", ["relion", "cryodrgn"]), (WINDOWED, ["cryodrgn"])):
            others = [name for name in others if name in names]
            if others:
                gains = [
                    interval([cell["figures"][own][key] - max(cell["figures"][name][key] for name in others) for cell in group])
                    for key, _ in keys[:2]
                ]
                ahead.append([*start, own, " or ".join(others), *gains])
    if not rows:
        return ""
    columns = ["box, px", "particles", "seeds"]
    masks = ["area, sphere", "area, tight"]
    return "\n".join(
        [
            "### Backends\n",
            "In the soft sphere, which is wider than the particle, and in a tight mask made of the truth. cryoDRGN leaves its interpolation's window "
            "in the map, which weakens what is far from the centre, as a mask would: one line is the native map times this window.\n",
            table([*columns, "map", *masks, "0.5, sphere", "0.5, tight"], rows),
            "Difference in area against the better of the others, same particles: mean and its 95 % interval (Student's t over seeds).\n",
            table([*columns, "map", "less", *masks], ahead),
        ]
    )


def rates_table(cells: Cells) -> str:
    """Seconds and memory."""
    rows = []
    for cell in sorted(cells, key=lambda one: (one["box"], one["count"])):
        for name, run in cell["figures"].items():
            if isinstance(run, dict) and "particles_a_second" in run:
                figures = [f"{run['particles_a_second']:,.0f}", f"{run['seconds']:.1f}", f"{run['processor_seconds']:.1f}", f"{run['peak_mb']:,}"]
                rows.append([str(cell["box"]), f"{cell['count']:,}", name, *figures])
    if not rows:
        return ""
    what = (
        "The step `reconstruct_map`, its start included, on one core and thread: three maps (all, odd, even), but for the line that says one. "
        "Rates are by processor seconds; other work ran beside it, which the seconds show."
    )
    return f"### Cost\n\n{what}\n\n" + table(
        ["box, px", "particles", "backend", "particles a second", "seconds", "processor seconds", "peak, MB"], rows
    )


def grouped(cells: Cells, *keys: str) -> list[tuple[tuple, Cells]]:
    """Cells with the same values of these keys, in their order."""
    values = sorted({tuple(cell[key] for key in keys) for cell in cells})
    return [(value, [cell for cell in cells if tuple(cell[key] for key in keys) == value]) for value in values]


def figure(group: Cells, name: str, key: str) -> list[float]:
    """One figure of the cells that have it."""
    found = [cell["figures"][name][key] for cell in group if name in cell["figures"]]
    return [value for value in found if value is not None]


def difference(group: Cells, name: str, other: str) -> list[float]:
    """Differences in area, cell by cell."""
    return [cell["figures"][name]["area"] - cell["figures"][other]["area"] for cell in group if name in cell["figures"]]


def mean(values: list[float], digits: int) -> str:
    """Mean as text; a dash without values."""
    return f"{np.mean(values):.{digits}f}" if values else "-"


def interval(values: list[float]) -> str:
    """Mean and 95 % interval as text; the mean alone of fewer than three."""
    if len(values) < 3:
        return f"{np.mean(values):+.4f}" if values else "-"
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return f"{np.mean(values):+.4f} ({low:+.4f} to {high:+.4f})"


def share(pairs: Iterable[list[int]]) -> str:
    """Accepted of all, summed, as text."""
    taken, every = np.sum(list(pairs), axis=0)
    return f"{taken} of {every}"


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
