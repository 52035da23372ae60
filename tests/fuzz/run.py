"""Read thousands of damaged files: a reader returns, or raises the project's own error; it never crashes, hangs or takes the machine's memory.

    python tests/fuzz/run.py --count 10000 --json benchmarks/fuzz/results.json

Every file is made from a number, which is printed with what it did: `--only NUMBER` reads that one again and shows the traceback.
"""

import argparse
import json
import logging
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from mutators import damaged
from readers import READERS
from samples import write_samples

from cryorestore.errors import CryorestoreError

SECONDS = 2.0
"""a file may take"""
MEMORY = 1 << 30
"""bytes that reading all files may take beyond what the libraries take"""


class TooSlow(BaseException):
    """A file took longer than SECONDS."""


def fuzz(numbers: range, folder: Path, *, traceback: bool = False) -> dict:
    """Read the damaged files of these numbers; what became of them."""
    kinds = write_samples(folder)
    for kind, paths in kinds.items():
        for path in paths:
            READERS[kind](path)
    good = {path: path.read_bytes() for paths in kinds.values() for path in paths}
    names = list(kinds)
    outcomes = {kind: Counter() for kind in kinds}
    faults, slowest = [], 0.0
    before = _used()
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY, resource.RLIM_INFINITY))
    for number in numbers:
        kind = names[number % len(names)]
        path = kinds[kind][number // len(names) % len(kinds[kind])]
        path.write_bytes(damaged(good[path], number))
        print(number, file=sys.stderr, flush=True)
        begin = time.process_time()
        outcome = _outcome(kind, path, traceback)
        slowest = max(slowest, time.process_time() - begin)
        outcomes[kind][outcome.partition(":")[0] if outcome in ("read", "refused") else "fault"] += 1
        if outcome not in ("read", "refused"):
            faults.append({"number": number, "kind": kind, "file": path.name, "fault": outcome})
        path.write_bytes(good[path])
    return {
        "files": len(numbers),
        "outcomes": {kind: dict(sorted(counts.items())) for kind, counts in outcomes.items()},
        "faults": faults,
        "slowest_file_s": round(slowest, 2),
        "peak_memory_growth_mb": round((_used() - before) / 1e6),
    }


def _outcome(kind: str, path: Path, traceback: bool) -> str:
    try:
        with time_limit(SECONDS):
            READERS[kind](path)
    except CryorestoreError as error:
        return "refused" if str(error).strip() else "an error without words"
    except (Exception, TooSlow) as error:
        if traceback:
            raise
        return f"{type(error).__name__}: {error}"[:200]
    return "read"


@contextmanager
def time_limit(seconds: float):
    """Raise TooSlow after so many seconds of this process's own time."""

    def stop(*_):
        raise TooSlow(f"more than {seconds} s")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _used() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


def main() -> None:
    """Read, print what came of it, and end with code 1 where a reader failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="damaged files")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--only", type=int, help="read this one again, with its traceback")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    numbers = range(given.first, given.first + given.count) if given.only is None else range(given.only, given.only + 1)
    warnings.simplefilter("ignore")
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        figures = fuzz(numbers, Path(folder), traceback=given.only is not None)
    text = json.dumps(figures, indent=1, sort_keys=True)
    print(text)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(text + "\n", encoding="utf-8")
    sys.exit(bool(figures["faults"]))


if __name__ == "__main__":
    main()
