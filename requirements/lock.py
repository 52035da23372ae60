"""Resolve requirements as pip would in an empty environment and write the exact versions: `python requirements/lock.py LOCK REQUIREMENT...`.

Lines of the locks named by `--without` are left out. The CUDA libraries that some builds of torch bring stay out, too: torch itself pins them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def resolve(requirements: list[str]) -> list[str]:
    """Exact versions ("name==version", sorted) of everything that the requirements bring, without local version labels such as "+cpu"."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", report.name, *requirements]
        subprocess.run(command, check=True)
        installed = json.load(report)["install"]
    found = {item["metadata"]["name"].lower(): item["metadata"]["version"].split("+")[0] for item in installed}
    return [f"{name}=={version}" for name, version in sorted(found.items()) if not name.startswith(("cryorestore", "nvidia-", "cuda-", "triton"))]


def main() -> None:
    """Write one lock file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lock", type=Path)
    parser.add_argument("requirements", nargs="+", help="as for pip install; constraints as --constraint=FILE after --")
    parser.add_argument("--without", type=Path, action="append", default=[], help="leave out the lines of this lock")
    options = parser.parse_args()
    known = {line for lock in options.without for line in lock.read_text().splitlines()}
    lines = [line for line in resolve(options.requirements) if line not in known]
    options.lock.write_text(f"# Made by `make lock`; versions that were tested together.\n{chr(10).join(lines)}\n")


if __name__ == "__main__":
    main()
