"""What two runs of the same workflow must have in common: every result but times, memory, and what tells of them."""

import csv
import hashlib
import json
from pathlib import Path

TELL_OF_THE_RUN = ("provenance.json", "report.html")
MEASURED = {"seconds", "seconds_total", "peak_memory_gib", "gpu_hours"}


def fingerprints(results: Path) -> dict[str, str]:
    """SHA-256 of every result by its path below `results`, without what was measured about the run itself."""
    files = (path for path in sorted(results.rglob("*")) if path.is_file() and path.name not in TELL_OF_THE_RUN)
    return {
        str(path.relative_to(results)): hashlib.sha256(lasting_bytes(path)).hexdigest()
        for path in files
        if "work" not in path.relative_to(results).parts and not path.name.startswith(".")
    }


def lasting_bytes(path: Path) -> bytes:
    """The bytes of a result; of a table or JSON that holds measured times, what is left without them."""
    if path.name.endswith("_history.csv"):
        rows = [{name: value for name, value in row.items() if name not in MEASURED} for row in csv.DictReader(path.open())]
        return json.dumps(rows).encode()
    if path.name in ("summary.json", "methods.json"):
        return json.dumps(_without_measured(json.loads(path.read_text()))).encode()
    return path.read_bytes()


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Names of the results that are missing, too many, or different."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def _without_measured(value):
    if isinstance(value, dict):
        return {name: _without_measured(inner) for name, inner in value.items() if name not in MEASURED}
    return [_without_measured(inner) for inner in value] if isinstance(value, list) else value
