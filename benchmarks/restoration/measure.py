"""Restoration quality of every lane, cell by cell: a lane on one map, one SNR, one structural noise, one seed.

usage: python benchmarks/restoration/measure.py [--quick] [--lanes NAME ...] [--snr X ...] [--maps NAME ...] [--seeds N ...] [--structures NAME ...]
       [--peer-python PYTHON] [--steps N] [--work FOLDER]

Every cell is a JSON under cells/, written as soon as it is measured, with a key made of the code that it runs and of its settings; only cells that
are missing or stale are measured. A lane whose program is missing is noted with its reason. Lanes are the methods of config/config.yaml by their
names, run by the functions of the pipeline; `limit` is the posterior of the true map with ever more draws until it predicts its own error.
--quick measures small sets at SNR 0.05 into results/bench-restoration-quick, at most four minutes on a quiet machine, and checks the order.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path

import torch
from lanes import LANES, TRAINED, UNAVAILABLE, Half, restore_with
from scoring import score

from cryorestore.config import code_version
from cryorestore.errors import CryorestoreError
from cryorestore.files import read_json, write_json
from cryorestore.provenance import code_commit

CELLS = Path(__file__).with_name("cells")
WORK = Path("results/bench-restoration")
OWN_FILES = [Path(__file__).with_name(name) for name in ("simulation.py", "scoring.py", "lanes.py")]


def main() -> None:
    """Measure what is missing, print a line a cell."""
    options = parse()
    torch.set_num_threads(1)
    cells = WORK.with_name("bench-restoration-quick") / "cells" if options.quick else CELLS
    measured = {}
    for seed in options.seeds:
        for structure in options.structures:
            for snr in options.snr:
                half = Half(options, snr=snr, structure=structure, seed=seed)
                for lane in options.lanes:
                    for kind in maps_of(lane, options.maps):
                        measured[lane, kind] = measure_cell(cells, half, lane, kind)
    if options.quick:
        check_order(measured)


def parse() -> argparse.Namespace:
    """Options; --quick changes what is not given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--lanes", nargs="+", default=None)
    parser.add_argument("--snr", type=float, nargs="+", default=None)
    parser.add_argument("--maps", nargs="+", choices=("true", "own"), default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=None)
    parser.add_argument("--structures", nargs="+", default=["none"])
    parser.add_argument("--molecule", default="demo", help="demo, or a file of a structure that the lanes' networks have not seen")
    parser.add_argument("--count", type=int, default=None, help="scored particles of a cell")
    parser.add_argument("--half", type=int, default=None, help="particles that a half's map is made of")
    parser.add_argument("--steps", type=int, default=None, help="training steps of every learned lane")
    parser.add_argument("--peer-python", default=".venv-peers/bin/python")
    parser.add_argument("--work", type=Path, default=WORK)
    options = parser.parse_args()
    quick = {
        "lanes": ["raw", "low-pass", "wiener", "wiener-masked", "cwf", "projection", "unet", "map-bayes"],
        "snr": [0.05],
        "maps": ["true", "own"],
    }
    quick |= {"seeds": [1], "count": 48, "half": 600, "steps": 40}
    full = {
        "lanes": list(LANES),
        "snr": [0.1, 0.05, 0.02, 0.01],
        "maps": ["true", "own"],
        "seeds": [1, 2, 3],
        "count": 256,
        "half": 3000,
        "steps": 1280,
    }
    for name, value in (quick if options.quick else full).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def maps_of(lane: str, maps: list[str]) -> list[str]:
    """The columns in which a lane stands: lanes that look at no map have one."""
    if lane == "limit":
        return ["true"] if "true" in maps else []
    return maps if LANES[lane]["map"] else ["none"]


def measure_cell(cells: Path, half: Half, lane: str, kind: str) -> dict:
    """Measure a cell unless its JSON is there with the same key."""
    settings = half.settings | {"lane": LANES[lane], "map": kind}
    if lane in TRAINED:
        settings |= {"steps": half.options.steps, "training_snr": half.options.snr}
    code = [code_version(module) for module in ("metrics", "simulate", *LANES[lane]["modules"])]
    texts = "".join(path.read_text(encoding="utf-8") for path in OWN_FILES)
    key = hashlib.sha256(json.dumps([settings, code, texts], sort_keys=True).encode()).hexdigest()[:16]
    name = f"{half.molecule_name}_{settings['structure']}_snr{settings['snr']:g}_{kind}_{lane}_seed{settings['seed']}"
    path = cells / f"{name}.json"
    known = read_json(path) if path.exists() else {}
    if known.get("key") != key or known.get("unavailable"):
        known = {"key": key, "name": lane, "settings": settings, "commit": code_commit()} | run_cell(half, lane, kind)
        write_json(path, known)
    print(name, known.get("unavailable") or json.dumps({score: known["scores"][score]["mean"] for score in ("nmse", "psnr", "ssim")}), flush=True)
    return known


def run_cell(half: Half, lane: str, kind: str) -> dict:
    """Restore and score, or say why not."""
    started = time.monotonic()
    try:
        restored, facts = restore_with(half, lane, kind)
    except CryorestoreError as error:
        if lane not in UNAVAILABLE:
            raise
        return {"unavailable": str(error)}
    scored = half.scored.take(slice(0, len(restored)))
    return {"scores": score(restored, scored, seed=half.settings["seed"]), "seconds": round(time.monotonic() - started, 2)} | facts


def check_order(measured: dict) -> None:
    """What every run must show, however small: the posterior first, the plain projection behind it, the mask before no mask, raw last."""
    error = {name: cell["scores"]["nmse"]["mean"] for name, cell in measured.items() if "scores" in cell}
    for kind in ("true", "own"):
        order = [error["map-bayes", kind], error["projection", kind], error["wiener-masked", "none"], error["wiener", "none"], error["raw", "none"]]
        if order != sorted(order):
            raise CryorestoreError(f"map {kind}: found NMSE {order} of map-bayes, projection, wiener-masked, wiener, raw; expected it to rise")


if __name__ == "__main__":
    main()
