"""The table of fuzzed files in docs/troubleshooting.md, made from benchmarks/fuzz/results.json: `python tests/fuzz/table.py`."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from made_pages import write_made_part

ROOT = Path(__file__).parents[2]
PAGE, FIGURES = ROOT / "docs/troubleshooting.md", ROOT / "benchmarks/fuzz/results.json"
BEGIN, END = "<!-- begin of what tests/fuzz/table.py writes -->\n", "<!-- end of what tests/fuzz/table.py writes -->\n"
KINDS = {
    "checkpoint": "weights and checkpoints (`.safetensors`, `.json`)",
    "configuration": "configuration, tables of data sets, JSON",
    "coordinates": "picks (`.star`, `.box`, `.txt`)",
    "cryosparc": "cryoSPARC's tables (`.cs`)",
    "molecule": "molecules (PDB)",
    "mrc": "images and maps (`.mrc`, `.mrcs`)",
    "star": "tables (`.star`)",
    "tiff": "micrographs as TIFF",
}


def table() -> str:
    """What became of the files, Markdown."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    lines = [f"{figures['files']} damaged files: {len(figures['faults'])} ended in anything but a result or one message. The slowest took"]
    lines[0] += f" {figures['slowest_file_s']} s; memory grew by {figures['peak_memory_growth_mb']} MB over all of them."
    lines += ["", "| files | read | refused with a message | faults |", "|---|---|---|---|"]
    for kind, counts in sorted(figures["outcomes"].items()):
        lines.append(f"| {KINDS[kind]} | " + " | ".join(str(counts.get(name, 0)) for name in ("read", "refused", "fault")) + " |")
    return "\n" + "\n".join(lines) + "\n\n"


def main() -> None:
    """Write it into the page."""
    write_made_part(PAGE, BEGIN, END, table())


if __name__ == "__main__":
    main()
