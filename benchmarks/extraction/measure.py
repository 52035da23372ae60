"""Extraction and normalization, micrograph to normalized stack on disk, against relion_preprocess on the same micrographs and cores.

usage: python benchmarks/extraction/measure.py [--quick | --memory] [--cores N ...] [--folder SCRATCH]

Both are run as processes, by turns, and timed from outside: ours are two, `cryorestore extract-particles` and `cryorestore normalize-particles`.
What a process costs before it does anything (its imports) is counted and also given apart. Peak memory is the larger of the two processes' maximum
resident set. A cell that has been measured with the same code, programs and settings is not measured again; results.json has them by that key.
--quick takes small sets, at most four minutes. --memory compares 20,000 with 200,000 particles, and says what a million would take.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cryorestore.config import code_version
from cryorestore.files import read_json, write_json
from cryorestore.io.mrc import write_micrograph
from cryorestore.io.star import StarBlock, write_star

RESULTS = Path(__file__).with_name("results.json")
BOXES = [(box, scale) for box in (64, 128, 256, 384) for scale in (None, box // 2)]
OPTICS = {"rlnOpticsGroupName": "one", "rlnOpticsGroup": "1", "rlnMicrographPixelSize": "1.0", "rlnMicrographOriginalPixelSize": "1.0"}
OPTICS |= {"rlnVoltage": "300.0", "rlnSphericalAberration": "2.7", "rlnAmplitudeContrast": "0.1"}
CTF = {"rlnDefocusU": "15000.0", "rlnDefocusV": "14500.0", "rlnDefocusAngle": "10.0", "rlnPhaseShift": "0.0"}
OURS = [sys.executable, "-c", "from cryorestore.cli import main; main()"]
IMPORTS = "import cryorestore.{module}"
LAUNCH = "import os, subprocess, sys; code = subprocess.call(sys.argv[1:]); u = os.times(); import resource; "
LAUNCH += "print(code, u.children_user + u.children_system, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
"""A small process between this one and what it measures: a program's maximum resident set includes that of the process that it was forked from"""


def main() -> None:
    """Measure what is missing and print a line a cell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        if options.memory:
            measure_memory(Path(scratch))
        else:
            measure_speed(Path(scratch), quick=options.quick, cores=options.cores)


def measure_speed(scratch: Path, *, quick: bool, cores: list[int]) -> None:
    """Every box, with and without rescaling, on as many cores as are listed."""
    count, size, repeats = (4, 2048, 1) if quick else (12, 4096, 2)
    for box, scale in BOXES:
        per_micrograph = ({64: 2500, 128: 800, 256: 300, 384: 120} if quick else {64: 8000, 128: 3000, 256: 1000, 384: 500})[box]
        for number in cores:
            content = {"micrographs": count, "size": size, "per_micrograph": per_micrograph, "box": box, "scale": scale, "cores": number}
            name = f"box {box}, scale {scale or box}, {number} core{'s' * (number > 1)}{', quick' * quick}"
            measure_cell(name, content | {"repeats": repeats}, lambda cell: speed_cell(scratch, cell))


def measure_cell(name: str, content: dict, run) -> None:
    """Run a cell unless results.json has it for this code, these programs and this machine."""
    known = read_json(RESULTS) if RESULTS.exists() else {}
    program = shutil.which("relion_preprocess")
    versions = [code_version(module) for module in ("extract", "normalize")]
    key = hashlib.sha256(json.dumps([content, versions, program and Path(program).stat().st_size, machine()]).encode()).hexdigest()[:16]
    if known.get(name, {}).get("key") != key:
        known[name] = {"key": key, "settings": content, "machine": machine()} | run(content)
        write_json(RESULTS, known)
    print(name, json.dumps({kind: figures for kind, figures in known[name].items() if kind not in ("key", "settings", "machine")}))


def machine() -> str:
    """Processor and number of cores."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{model}, {os.cpu_count()} cores"


def speed_cell(scratch: Path, cell: dict) -> dict:
    """Particles a second and peak memory of each program; the best of `repeats` runs by turns."""
    folder = scratch / f"{cell['micrographs']}_{cell['size']}_{cell['per_micrograph']}"
    if not folder.exists():
        make_micrographs(folder, cell["micrographs"], cell["size"], cell["per_micrograph"])
    runs: dict[str, list[dict]] = {}
    particles = cell["micrographs"] * cell["per_micrograph"]
    for _ in range(cell["repeats"]):
        for name, commands in programs(cell).items():
            clear(folder)
            runs.setdefault(name, []).append(run_all(commands, folder, cell["cores"]))
    clear(folder)
    best = {name: min(done, key=lambda run: run["seconds"]) for name, done in runs.items()}
    figures = {name: {"particles_a_second": round(particles / run["seconds"], 1), **run} for name, run in best.items()}
    start = run_all([[sys.executable, "-c", IMPORTS.format(module=module)] for module in ("extract", "normalize")], folder, cell["cores"])
    figures["ours"]["of_which_start"] = start["seconds"]
    if "relion" in figures:
        others = [figures[name]["seconds"] for name in figures if name != "ours"]
        seconds = figures["ours"]["seconds"]
        figures["times_the_faster_relion"] = round(min(others) / seconds, 2)
        figures["times_the_faster_relion_without_our_start"] = round(min(others) / max(seconds - start["seconds"], 1e-3), 2)
    return figures


def programs(cell: dict) -> dict[str, list[list[str]]]:
    """Command lines of each program that is installed."""
    box, scale, cores = cell["box"], cell["scale"] or cell["box"], cell["cores"]
    radius = int(0.75 * scale / 2)
    relion = ["--i", "micrographs.star", "--coord_dir", "picks/", "--coord_suffix", "_pick.star", "--part_star", "out/relion.star"]
    relion += ["--part_dir", "out/relion/", "--extract", "--extract_size", str(box), "--norm", "--bg_radius", str(radius), "--invert_contrast"]
    relion += ["--scale", str(scale)] if scale != box else []
    found = {"ours": ours(box, scale, radius, cores)}
    if shutil.which("relion_preprocess"):
        found["relion"] = [["relion_preprocess", *relion]]
    if cores > 1 and shutil.which("relion_preprocess_mpi") and shutil.which("mpirun"):
        found["relion_mpi"] = [["mpirun", "--allow-run-as-root", "-n", str(cores), "relion_preprocess_mpi", *relion]]
    return found


def ours(box: int, scale: int, radius: int, cores: int) -> list[list[str]]:
    """Our two steps."""
    extract = ["--micrographs-star", "micrographs.star", "--coordinates", "picks/mics", "--stack", "out/p.mrcs", "--star", "out/p.star"]
    extract += ["--rejects-star", "out/r.star", "--box-size", str(box), "--scale", str(scale), "--threads", str(cores)]
    normalize = ["--star", "out/p.star", "--normalized-stack", "out/n.mrcs", "--normalized-star", "out/n.star", "--statistics-csv", "out/s.csv"]
    normalize += ["--rejects-star", "out/nr.star", "--bg-radius", str(radius), "--threads", str(cores)]
    return [[*OURS, "extract-particles", *extract], [*OURS, "normalize-particles", *normalize]]


def run_all(commands: list[list[str]], folder: Path, cores: int) -> dict:
    """Seconds of wall time and of processor time of some commands one after the other, and the largest resident set (MB) of any."""
    prefix = ["taskset", "-c", ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))] if shutil.which("taskset") else []
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")}
    seconds, processor, peak = 0.0, 0.0, 0.0
    for command in commands:
        begin = time.monotonic()
        done = subprocess.run([sys.executable, "-S", "-c", LAUNCH, *prefix, *command], cwd=folder, env=environment, capture_output=True, text=True)
        seconds += time.monotonic() - begin
        code, spent, resident = done.stdout.split()[-3:]
        if code != "0":
            raise SystemExit(f"{' '.join(command)}: exit code {code}\n{done.stderr[-2000:]}")
        processor += float(spent)
        peak = max(peak, int(resident) / 1024)
    return {"seconds": round(seconds, 3), "processor_seconds": round(processor, 3), "peak_mb": round(peak, 1)}


def clear(folder: Path) -> None:
    """Remove what a run wrote."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()


def make_micrographs(folder: Path, count: int, size: int, per_micrograph: int, *, files: int | None = None) -> None:
    """Noise and picks anywhere, seeded; `files` micrographs are written, the others are names of them."""
    generator = np.random.default_rng(1)
    names = [f"mics/m{number:05d}.mrc" for number in range(count)]
    for number, name in enumerate(names):
        if number < (files or count):
            pixels = 100 + 10 * generator.standard_normal((size, size), dtype=np.float32)
            write_micrograph(folder / name, pixels, pixel_size=1.0)
        else:
            (folder / name).hardlink_to(folder / names[number % (files or count)])
        places = generator.uniform(0, size, (per_micrograph, 2))
        picks = StarBlock.from_columns({"rlnCoordinateX": places[:, 0], "rlnCoordinateY": places[:, 1]})
        write_star(folder / "picks/mics" / f"m{number:05d}_pick.star", {"": picks})
    rows = {"rlnMicrographName": names, "rlnOpticsGroup": ["1"] * count, **{column: [cell] * count for column, cell in CTF.items()}}
    optics = StarBlock.from_columns({column: [cell] for column, cell in OPTICS.items()})
    write_star(folder / "micrographs.star", {"optics": optics, "micrographs": StarBlock.from_columns(rows)})


def measure_memory(scratch: Path) -> None:
    """Peak memory of each of our steps at 20,000 and 200,000 particles, and what a particle costs."""
    content = {"particles": [20_000, 200_000], "box": 32, "size": 1024, "per_micrograph": 200}
    measure_cell("memory", content, lambda cell: memory_cell(scratch, cell))


def memory_cell(scratch: Path, cell: dict) -> dict:
    """Resident sets (MB), bytes a particle between the two sizes, and the total that follows for a million."""
    peaks: dict[str, list[float]] = {"extract": [], "normalize": []}
    for particles in cell["particles"]:
        folder = scratch / str(particles)
        make_micrographs(folder, particles // cell["per_micrograph"], cell["size"], cell["per_micrograph"], files=4)
        clear(folder)
        for step, command in zip(peaks, ours(cell["box"], cell["box"], int(0.75 * cell["box"] / 2), 1), strict=True):
            peaks[step].append(run_all([command], folder, 1)["peak_mb"])
        shutil.rmtree(folder)
    few, many = cell["particles"]
    figures = {}
    for step, (small, large) in peaks.items():
        each = (large - small) * 2**20 / (many - few)
        million = large + each * (1_000_000 - many) / 2**20
        figures[step] = {"peak_mb": [small, large], "bytes_a_particle": round(each, 1), "extrapolated_mb_at_a_million": round(million, 1)}
    return figures


if __name__ == "__main__":
    main()
