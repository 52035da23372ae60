"""Whether the cells reach what was set out to be reached: each target beside what was measured."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Values = dict[tuple[str, str, float], dict[int, dict[str, Any]]]
"""(lane, map, SNR) -> seed -> cell, of the embedded molecule in white noise."""


@dataclass(frozen=True)
class Target:
    """A figure that is to be at most or at least a value."""

    text: str
    value: float | None
    wanted: float
    at_most: bool
    digits: int = 2

    def row(self) -> str:
        """As a row of a table; a figure that is not measured says so."""
        sign = "at most" if self.at_most else "at least"
        wanted = f"{sign} {self.wanted:g}"
        if self.value is None:
            return f"| {self.text} | {wanted} | not measured | – |"
        return f"| {self.text} | {wanted} | {self.value:.{self.digits}f} | {self._verdict(self.value)} |"

    def _verdict(self, value: float) -> str:
        """Reached, or by how much it was missed: by what factor an upper bound, by how much a lower one."""
        if value <= self.wanted if self.at_most else value >= self.wanted:
            return "reached"
        return f"missed by a factor of {value / self.wanted:.2f}" if self.at_most else f"missed by {self.wanted - value:.2f}"


def target_table(cells: list[dict], conformers: list[dict]) -> str:
    """The table; values are means over the seeds that both sides of a comparison have."""
    found: Values = defaultdict(dict)
    for cell in cells:
        settings = cell["settings"]
        if (settings["molecule"], settings["structure"]) == ("demo", "none"):
            found[cell["name"], settings["map"], settings["snr"]][settings["seed"]] = cell
    targets = [*to_the_limit(found), *above_the_learned(found), *of_a_mean(found), *of_conformers(conformers)]
    lines = ["### Targets", "", "| figure | wanted | measured | |", "|---|---|---|---|"]
    return "\n".join([*lines, *(target.row() for target in targets), ""]) if cells else ""


def to_the_limit(found: Values) -> list[Target]:
    """Errors of `ours` over those that cannot be avoided."""
    targets = []
    for snr in (0.1, 0.05, 0.02):
        ratio = compared(found, [("ours", "true", snr), ("limit", "true", snr)], lambda ours, limit: nmse(ours) / nmse(limit))
        targets.append(Target(f"true map, SNR {snr:g}: NMSE of `ours` over the limit's", ratio, 1.25, at_most=True))
    for snr in (0.1, 0.05, 0.02):
        wanted = [("ours", "own", snr), ("true-pose", "own", snr), ("limit", "true", snr)]
        ratio = compared(found, wanted, lambda ours, pose, limit: nmse(ours) / (nmse(pose) + nmse(limit)))
        targets.append(
            Target(f"own map, SNR {snr:g}: NMSE of `ours` over that of the map at the true pose plus the limit's", ratio, 1.15, at_most=True)
        )
    return targets


def above_the_learned(found: Values) -> list[Target]:
    """PSNR above the other networks at equal training time, and speed."""
    targets = []
    for kind, text, wanted in (("true", "true map", 8.0), ("own", "own map", 6.0)):
        for other in ("unet", "sr3", "sr3+post"):
            pair = [("ours", kind, 0.05), (other, "none", 0.05)]
            gain = compared(found, pair, lambda ours, lane: ours["scores"]["psnr"]["mean"] - lane["scores"]["psnr"]["mean"])
            targets.append(Target(f"{text}, SNR 0.05: PSNR of `ours` above `{other}` (dB)", gain, wanted, at_most=False))
    pair = [("ours", "own", 0.05), ("sr3", "none", 0.05)]
    faster = compared(found, pair, lambda ours, sr3: ours["particles_a_second"] / sr3["particles_a_second"])
    return [*targets, Target("particles a second of `ours` over those of `sr3` with 2,000 steps", faster, 100, at_most=False, digits=1)]


def of_a_mean(found: Values) -> list[Target]:
    """The grey scale."""
    targets = []
    for kind, text in (("true", "true map"), ("own", "own map")):
        off = compared(found, [("ours", kind, 0.05)], lambda ours: abs(ours["scores"]["slope"] - 1))
        targets.append(Target(f"{text}, SNR 0.05: slope of clean on `ours`, off one by", off, 0.05, at_most=True, digits=3))
    return targets


def of_conformers(cells: list[dict]) -> list[Target]:
    """What several maps in the likelihood bring."""
    values = [cell["nmse"]["minority"]["one map a conformer"]["mean"] / cell["nmse"]["minority"]["average map"]["mean"] for cell in cells]
    text = "minority conformer, SNR 0.05: NMSE with a map for each conformer over that with the average map"
    unmeasured = "conformer, SNR 0.05: NMSE of `ours` over that of `map-bayes`, both with the average map"
    learned = [Target(f"{name} {unmeasured}", None, wanted, at_most=True) for name, wanted in (("minority", 0.8), ("unseen", 0.9))]
    return [Target(text, float(np.mean(values)) if values else None, 0.4, at_most=True), *learned]


def compared(found: Values, names: list[tuple[str, str, float]], figure: Callable[..., float]) -> float | None:
    """Mean of a figure over the seeds that all of the cells named have; None where there is none."""
    seeds = set.intersection(*(set(found.get(name, {})) for name in names))
    return float(np.mean([figure(*(found[name][seed] for name in names)) for seed in sorted(seeds)])) if seeds else None


def nmse(cell: dict[str, Any]) -> float:
    """Mean NMSE of a cell."""
    return float(cell["scores"]["nmse"]["mean"])
