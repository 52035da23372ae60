"""Maps by ways of using the particles, and by backends: FSC to a known truth, particles a second, memory.

usage: python benchmarks/reconstruction/measure.py [--quick] [--only stacks|backends|rates] [--most N] [--folder SCRATCH]

Every cell stands in results.json with its configuration and a hash of the modules that decide its figures; a cell that is there with the same ones
is not measured again, so that a run that was stopped goes on. --most leaves out cells of more particles. Seconds and memory are for a machine that
does nothing else; FSC does not depend on that. --quick measures three small cells afresh, whatever results.json holds, prints them, writes nothing,
and fails unless the order that the page shows is there.
"""

import argparse
import hashlib
import json
import os
import platform
import tempfile
from pathlib import Path

from cells import PROGRAMS, backends_cell, installed, rates_cell, stacks_cell
from page import write_page

import cryorestore
from cryorestore.files import read_json, write_json

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
MODULES = ["coefficients", "ctf", "fourier", "fsc", "geometry", "masks", "molecule", "particles", "pose_tensors", "project", "slicing"]
MODULES += ["reconstruct/native", "reconstruct/least_squares", "reconstruct/step", "reconstruct/cryodrgn", "reconstruct/relion"]
MODULES += ["resolution/filters", "resolution/masking"]
FUSING = ["reconstruct/fusion", "restore", "conditions", "noise", "reference", "posterior/local"]
KINDS = {"stacks": stacks_cell, "backends": backends_cell, "rates": rates_cell}


def main() -> None:
    """Measure what is missing, print a line a cell, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=sorted(KINDS))
    parser.add_argument("--most", type=int, default=10**9)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    if options.quick:
        check(options.folder)
        return
    for name, cell in cells():
        if options.only in (None, cell["kind"]) and cell["count"] <= options.most:
            measure(name, cell, options.folder)
    write_page(read_json(RESULTS))


def cells() -> list[tuple[str, dict]]:
    """Name and configuration of every cell, the small ones first."""
    found = []
    for count, seeds in ((500, 10), (2000, 10), (10000, 3)):
        for seed in range(1, seeds + 1):
            found += [stacks(count, seed, poses, 0.0, restored=seed <= 3) for poses in ("perturbed", "exact")]
        if count < 10000:
            found += [stacks(count, seed, "perturbed", 0.3, restored=False) for seed in (1, 2, 3)]
        found += [backends(count, seed, 64) for seed in (1, 2, 3)]
    found += [backends(1000, seed, box) for box in (128, 256) for seed in (1, 2, 3)]
    return found + [rates(count, box, repeats=repeats) for box, count, repeats in ((64, 10000, 3), (128, 4000, 3), (256, 500, 1), (256, 2000, 1))]


def check(folder: Path) -> None:
    """A few small cells, and what must hold in them."""
    figures = {}
    for name, cell in (stacks(300, 1, "perturbed", 0.0, restored=True), backends(500, 1, 64), rates(1000, 128, repeats=1)):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            figures[cell["kind"]] = KINDS[cell["kind"]](Path(scratch), cell)
        print(name, json.dumps(figures[cell["kind"]]), flush=True)
    used, maps, costs = (figures[kind] for kind in ("stacks", "backends", "rates"))
    others = [name for name in ("relion", "cryodrgn") if name in maps]
    held = {
        "with perturbed poses the marginal map is nearer to the truth than raw particles at the given poses": used["fused"]["area"]
        > used["raw"]["area"],
        "restored particles reconstructed as if they were data are not": used["restored"]["area"] < used["fused"]["area"],
        "no particle is lost by its evidence": used["accepted"][0] == used["accepted"][1],
        **{f"native is nearer to the truth than {name} in a tight mask": maps["native"]["tight_area"] > maps[name]["tight_area"] for name in others},
        **{f"native costs less than {name}": costs["native"]["processor_seconds"] < costs[name]["processor_seconds"] for name in others},
        # a box of 128 px is small beside what threads and libraries take, which varies by some copies
        "native's memory is as stated, to a quarter": costs["copies_of_the_map"] <= 1.25 * costs["copies_stated"],
    }
    for statement, holds in held.items():
        print("holds:" if holds else "FAILS:", statement)
    raise SystemExit(0 if all(held.values()) else 1)


def stacks(count: int, seed: int, poses: str, junk: float, *, restored: bool) -> tuple[str, dict]:
    """One half in several ways."""
    content = {"kind": "stacks", "count": count, "seed": seed, "poses": poses, "junk": junk, "restored": restored, "box": 64, "snr": 0.05}
    return f"stacks, {count} particles, {poses} poses, junk {junk:g}, seed {seed}", content


def backends(count: int, seed: int, box: int) -> tuple[str, dict]:
    """The same particles by every backend."""
    return f"backends, {count} particles of {box} px, seed {seed}", {"kind": "backends", "count": count, "seed": seed, "box": box, "snr": 0.05}


def rates(count: int, box: int, *, repeats: int) -> tuple[str, dict]:
    """What every backend costs."""
    content = {"kind": "rates", "count": count, "seed": 1, "box": box, "snr": 0.05, "repeats": repeats}
    return f"rates, {count} particles of {box} px", content


def measure(name: str, cell: dict, folder: Path) -> None:
    """Measure a cell unless it is there for this code, these settings and, where programs or seconds matter, these programs and this machine."""
    known, key = read_json(RESULTS) if RESULTS.exists() else {}, key_of(cell)
    missing = [program for program in PROGRAMS if program in known.get(name, {}).get("figures", {}) and program not in installed()]
    if missing:
        print(f"{name}: left as it is, for {' and '.join(missing)}, which it has, is not installed here", flush=True)
        return
    if known.get(name, {}).get("key") != key:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            figures = KINDS[cell["kind"]](Path(scratch), cell)
        extra = {"machine": machine()} if cell["kind"] == "rates" else {}
        write_json(RESULTS, (read_json(RESULTS) if RESULTS.exists() else {}) | {name: {"key": key, "settings": cell, **extra, "figures": figures}})
    print(name, json.dumps(read_json(RESULTS)[name]["figures"]), flush=True)


def key_of(cell: dict) -> str:
    """What a cell's figures depend on, in sixteen digits."""
    about: list = [cell, hashed([*MODULES, *FUSING] if cell["kind"] == "stacks" else MODULES)]
    if cell["kind"] != "stacks":
        about.append(programs())
    if cell["kind"] == "rates":
        about.append(machine())
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def programs() -> dict[str, str]:
    """The programs that are called: cryoDRGN by its locked version, RELION, which tells none when it is asked, by its size."""
    found = installed()
    versions = {}
    if "relion" in found:
        versions["relion"] = str(Path(found["relion"]).stat().st_size)
    if "cryodrgn" in found:
        lock = (HERE.parents[1] / "requirements/peers.lock").read_text(encoding="utf-8")
        versions["cryodrgn"] = next(line for line in lock.splitlines() if line.startswith("cryodrgn=="))
    return versions


def hashed(modules: list[str]) -> str:
    """A hash of modules of the library and of the particles that are simulated."""
    root = Path(cryorestore.__file__).parent
    digest = hashlib.sha256()
    for path in (*(root / f"{module}.py" for module in sorted(modules)), HERE / "simulated.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def machine() -> str:
    """Processor and number of cores."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{model}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
