"""What a table of many particles costs: bytes a row held, peak memory and seconds from a STAR file through a new column to a STAR file.

    python benchmarks/metadata/measure.py [--rows 200000 1000000]

The rows are those of a real refinement (beta-galactosidase, EMPIAR-10204), written again and again with image and micrograph numbered
anew, so that no two rows are equal. Each count runs in a process of its own; results.json keeps what is there and only missing counts are
measured (--again measures all).
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryorestore.io.packed import pack_lines
from cryorestore.io.star import StarBlock, read_star, write_star
from cryorestore.particles import ParticleTable

HERE = Path(__file__).parent
DATA = Path(os.environ.get("CRYORESTORE_DATA", HERE.parents[1] / "../shared/data"))
SOURCE = "metadata-empiar10204/run_it016_data.star"


def multiply_rows(source: Path, target: Path, count: int) -> float:
    """Write `count` rows made of those of `source`, blanks and all; returns characters a row."""
    file = read_star(source)
    block = replace(file.blocks["particles"], lines=pack_lines(_numbered(file.blocks["particles"], count)))
    write_star(target, {**file.blocks, "particles": block})
    return target.stat().st_size / count


def _numbered(block: StarBlock, count: int) -> Iterator[str]:
    named = list(zip(block.lines, block.cells("rlnImageName", "rlnMicrographName"), strict=True))
    for row in range(count):
        line, (image, micrograph) = named[row % len(named)]
        again = row // len(named)
        yield line.replace(image, f"{row + 1:06d}@{again:05d}_{image.partition('@')[2]}").replace(f" {micrograph}", f" {again:05d}_{micrograph}")


def peak_mib() -> float:
    """Peak resident memory since `forget_peak`, MiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def forget_peak() -> None:
    """Let the peak be what is resident now: a new process begins with its parent's."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(path: Path, count: int, traced: bool) -> dict[str, float]:
    """Read, add columns and write: in seconds and resident memory, or, traced, in bytes that the table holds."""
    forget_peak()
    before = peak_mib()
    if traced:
        tracemalloc.start()
    begin = time.perf_counter()
    table = ParticleTable.read(path)
    read = time.perf_counter()
    if traced:
        return {"bytes_a_row": tracemalloc.get_traced_memory()[0] / count}
    changed = table.with_columns({"rlnRandomSubset": np.arange(count) % 2 + 1, "rlnCryorestoreRow": np.arange(count)})
    edited = time.perf_counter()
    changed.write(path.with_suffix(".out.star"))
    end = time.perf_counter()
    return {
        "read_seconds": round(read - begin, 2),
        "with_columns_seconds": round(edited - read, 2),
        "write_seconds": round(end - edited, 2),
        "peak_mib_above_start": round(peak_mib() - before, 1),
        "peak_bytes_a_row": round((peak_mib() - before) * 2**20 / count, 1),
    }


def measure_apart(path: Path, count: int, traced: bool) -> dict[str, float]:
    """In a fresh process: the peak of one count is not that of another."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (path, count, traced))


def main() -> None:
    """Measure what is missing and write results.json after each count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[200_000, 1_000_000])
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    results = HERE / "results.json"
    known = json.loads(results.read_text()) if results.exists() and not options.again else {}
    for count in options.rows:
        if str(count) in known:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "many.star"
            characters = multiply_rows(DATA / SOURCE, path, count)
            figures = measure_apart(path, count, False) | measure_apart(path, count, True)
        known[str(count)] = {"characters_a_row": round(characters, 1), **figures, "bytes_a_row": round(figures["bytes_a_row"], 1)}
        results.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        print(count, known[str(count)])


if __name__ == "__main__":
    main()
