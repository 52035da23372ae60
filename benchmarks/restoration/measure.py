"""Restoration quality of every lane, cell by cell: a lane on one map, one SNR, one structural noise, one structure, one seed.

usage: python benchmarks/restoration/measure.py [--quick] [--list] [--most N] [--lanes NAME ...] [--snr X ...] [--maps NAME ...] [--seeds N ...]
       [--structures NAME ...] [--molecules NAME ...] [--peer-python PYTHON] [--work FOLDER]

Every cell is a JSON under cells/, written as soon as it is measured, with a key made of the code that it runs and of its settings; only cells that
are missing or stale are measured, the most telling ones first (SNR 0.05, white noise, seed 1). Several of these processes share the work: a cell, a
map, a set of pairs or a network is made by one, and the others go on elsewhere or wait for it. Lanes are the methods of config/config.yaml by their
names, run by the functions of the pipeline. A lane whose program or weights are missing is noted with its reason.
--list says which cells there are, in their order, and which are to be measured. --most N stops after N cells.
--quick measures small sets at SNR 0.05 into results/bench-restoration-quick, at most four minutes on a quiet machine, and checks the order.
"""

import argparse
import base64
import json
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from halves import FILES, MODULES, Half, Scale, model_path
from keys import key_of, lock
from lanes import ABSENT, LINES, METHODS, depends_on, is_slow, is_trained, looks_at_map, restore_with
from limit import STRUCTURES as LIMIT_STRUCTURES
from scoring import score
from simulation import STRUCTURES
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.files import read_json, write_json
from cryorestore.molecule import DEMO_MOLECULE
from cryorestore.provenance import code_commit

CELLS = Path(__file__).with_name("cells")
WORK = Path("results/bench-restoration")
QUICK = Path("results/bench-restoration-quick")
MAIN_SNR = 0.05
TIERS = ((MAIN_SNR, "none"), (0.1, "none"), (0.02, "none"), (0.01, "none"), *((MAIN_SNR, name) for name in STRUCTURES if name != "none"))
HELD_OUT = "5fn5"
"""Gamma secretase, 130 angstrom, no symmetry: a structure of the data's folder that no network has seen."""
SEEDS = (1, 2, 3)
FULL_SCALE = Scale(count=256, half=3000, pairs=8190, seconds=300.0, tiers=TIERS)
QUICK_SCALE = Scale(count=64, half=1000, pairs=512, seconds=0.0, tiers=TIERS[:1], steps=60)
QUICK_LANES = ("raw", "low-pass", "wiener", "wiener-masked", "cwf", "projection", "true-pose", "map-bayes", "unet", "ours")
EXAMPLES = 4
"""Images that cells of the main tier keep for the montage."""


@dataclass(frozen=True)
class Cell:
    """What is measured at once; `kind` is the map: true, own, or none for lanes without one."""

    lane: str
    kind: str
    snr: float
    structure: str
    seed: int
    molecule: str = DEMO_MOLECULE

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.molecule}_{self.structure}_snr{self.snr:g}_{self.kind}_{self.lane}_seed{self.seed}"

    @property
    def is_main(self) -> bool:
        """Whether it belongs to the table that is looked at first."""
        return (self.snr, self.structure, self.seed, self.molecule) == (MAIN_SNR, "none", 1, DEMO_MOLECULE)


def main() -> None:
    """Measure what is missing, print a line a cell."""
    options = parse()
    torch.set_num_threads(1)
    folder, scale = (QUICK / "cells", QUICK_SCALE) if options.quick else (CELLS, FULL_SCALE)
    chosen = [cell for cell in (quick_cells() if options.quick else all_cells()) if is_wanted(cell, options)]
    left = options.most
    for cell in chosen:
        half = Half(options.work, scale, cell.snr, cell.structure, cell.seed, cell.molecule)
        settings, key = settings_and_key(cell, half)
        if options.list:
            print(f"{state(folder, cell, key):8}{cell.name}")
            continue
        if left == 0:
            break
        left -= measured(folder, cell, half, settings, key, options)
    if options.quick and not options.list:
        check_order({(cell.lane, cell.kind): read_json(folder / f"{cell.name}.json") for cell in chosen})


def parse() -> argparse.Namespace:
    """Options; the filters leave out cells and change nothing in the others."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--most", type=int, default=-1)
    parser.add_argument("--lanes", nargs="+", choices=(*METHODS, *LINES))
    parser.add_argument("--snr", type=float, nargs="+")
    parser.add_argument("--maps", nargs="+", choices=("true", "own", "none"))
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--structures", nargs="+", choices=STRUCTURES)
    parser.add_argument("--molecules", nargs="+", choices=(DEMO_MOLECULE, HELD_OUT))
    parser.add_argument("--peer-python", default=".venv-peers/bin/python")
    parser.add_argument("--work", type=Path, default=None)
    options = parser.parse_args()
    options.work = options.work or (QUICK if options.quick else WORK)
    return options


def is_wanted(cell: Cell, options: argparse.Namespace) -> bool:
    """Whether the filters let a cell pass."""
    filters = {"lane": options.lanes, "snr": options.snr, "kind": options.maps, "seed": options.seeds}
    filters |= {"structure": options.structures, "molecule": options.molecules}
    return all(allowed is None or getattr(cell, name) in allowed for name, allowed in filters.items())


def all_cells() -> list[Cell]:
    """Every cell, the most telling first: the main tier, the other SNRs, structural noise, the held-out structure; then the same with other seeds."""
    lanes = sorted((*METHODS, *LINES), key=lambda lane: (is_trained(lane), lane != "ours", is_slow(lane)))
    cells = []
    for seed in SEEDS:
        for snr, structure in TIERS:
            cells += [cell for lane in lanes for cell in cells_of(lane, snr, structure, seed)]
        if model_path(HELD_OUT).exists():
            cells += [Cell(lane, kind, MAIN_SNR, "none", seed, HELD_OUT) for lane in lanes for kind in held_out_kinds(lane)]
    return cells


def cells_of(lane: str, snr: float, structure: str, seed: int) -> list[Cell]:
    """The columns of a lane in one tier."""
    cells = [Cell(lane, kind, snr, structure, seed) for kind in kinds_of(lane)]
    if lane == "limit" and structure not in LIMIT_STRUCTURES:
        return []
    return [cell for cell in cells if cell.is_main] if is_slow(lane) else cells


def kinds_of(lane: str) -> tuple[str, ...]:
    """The maps that a lane is given."""
    special = {"limit": ("true",), "true-pose": ("own",)}
    return special.get(lane, ("true", "own") if looks_at_map(lane) else ("none",))


def held_out_kinds(lane: str) -> tuple[str, ...]:
    """As `kinds_of`, for a structure whose true map nobody has."""
    return () if lane == "limit" or is_slow(lane) else tuple(kind for kind in kinds_of(lane) if kind != "true")


def quick_cells() -> list[Cell]:
    """The cells of --quick."""
    return [cell for lane in QUICK_LANES for cell in cells_of(lane, *TIERS[0], seed=1)]


def settings_and_key(cell: Cell, half: Half) -> tuple[dict[str, Any], str]:
    """What a cell's JSON says of itself, and what it is known by."""
    settings = {name: getattr(cell, name) for name in ("snr", "structure", "seed", "molecule")} | {"map": cell.kind}
    settings |= {"count": half.scale.count, "half": half.scale.half}
    depends, modules, files = depends_on(cell.lane, half, cell.kind)
    return settings, key_of(settings | depends, (*MODULES, "metrics", *modules), (*FILES, "scoring.py", *files))


def state(folder: Path, cell: Cell, key: str) -> str:
    """Whether a cell is to be measured: `done`, `stale`, or `missing`."""
    path = folder / f"{cell.name}.json"
    return "missing" if not path.exists() else "done" if read_json(path)["key"] == key else "stale"


def measured(folder: Path, cell: Cell, half: Half, settings: dict[str, Any], key: str, options: argparse.Namespace) -> int:
    """Measure a cell unless it is done, its program is missing, or another process is at it; returns how many were measured, 0 or 1."""
    with lock(options.work / "locks" / cell.name, wait=False) as held:
        if not held or state(folder, cell, key) == "done":
            return 0
        begun = time.process_time()
        try:
            figures = run_cell(cell, half, options.peer_python)
        except CryorestoreError as error:
            if cell.lane not in ABSENT:
                raise
            print(f"{cell.name} left out: {error}", flush=True)
            return 0
        spent = round(time.process_time() - begun, 1)
        content = {"key": key, "name": cell.lane, "settings": settings, "commit": code_commit(), "processor_seconds": spent}
        write_json(folder / f"{cell.name}.json", content | figures)
    print(cell.name, {name: round(figures["scores"][name]["mean"], 4) for name in ("nmse", "psnr", "ssim")}, f"{spent} s", flush=True)
    return 1


def run_cell(cell: Cell, half: Half, peer_python: str) -> dict[str, Any]:
    """Restore and score."""
    restored, facts = restore_with(half, cell.lane, cell.kind, peer_python=peer_python)
    scored = half.scored.take(slice(0, len(restored)))
    examples = {"examples": packed(restored[:EXAMPLES], scored.clean[:EXAMPLES])} if cell.is_main else {}
    if cell.is_main and cell.lane == "raw":
        examples["clean"] = packed(scored.clean[:EXAMPLES], scored.clean[:EXAMPLES])
    return {"scores": score(restored, scored, seed=cell.seed)} | facts | examples


def packed(images: Tensor, clean: Tensor) -> str:
    """Images of one box as grey values, 64 to 191 from the least to the greatest value of the clean one, as text."""
    low, high = clean.amin((1, 2), keepdim=True), clean.amax((1, 2), keepdim=True)
    grey = (64 + 127 * (images - low) / (high - low)).clamp(0, 255).round().to(torch.uint8)
    return base64.b64encode(zlib.compress(grey.numpy().tobytes(), 9)).decode()


def check_order(found: dict[tuple[str, str], dict[str, Any]]) -> None:
    """What every run must show, however small: a posterior first, the plain projection behind it, the mask before no mask, raw last."""
    error = {name: cell["scores"]["nmse"]["mean"] for name, cell in found.items()}
    print(json.dumps({f"{lane}, {kind}": round(value, 4) for (lane, kind), value in sorted(error.items(), key=lambda item: item[1])}))
    for kind in ("true", "own"):
        first = min(error["map-bayes", kind], error["ours", kind])
        order = [first, error["projection", kind], error["wiener-masked", "none"], error["wiener", "none"], error["raw", "none"]]
        if order != sorted(order):
            raise SystemExit(f"map {kind}: found NMSE {order} of the best posterior, projection, wiener-masked, wiener, raw; expected it to rise")


if __name__ == "__main__":
    main()
