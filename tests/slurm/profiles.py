"""The SLURM profile with changes laid over it, as a site would make them."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "profiles/slurm/config.yaml"


def changed_profile(folder: Path, changes: dict[str, Any]) -> Path:
    """A profile folder: the shipped profile, its inner tables merged with those of `changes`; None takes an entry out."""
    folder.mkdir(parents=True, exist_ok=True)
    merged = {name: value for name, value in _merged(yaml.safe_load(SHIPPED.read_text()), changes).items() if value is not None}
    (folder / "config.yaml").write_text(yaml.safe_dump(merged, sort_keys=False))
    return folder


def planned_jobs(dry_run: str) -> tuple[int, int]:
    """Jobs of a dry-run's output, and submissions that they make; both without the target, which is no job. Members of groups are indented."""
    alone, grouped = (len(re.findall(pattern, dry_run, re.M)) for pattern in (r"^(?:local)?rule \w+:$", r"^ +rule \w+:$"))
    groups = len(re.findall(r"Group job .*\(jobs in", dry_run))
    return alone + grouped - 1, alone + groups - 1


def _merged(table: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    inner = {name: _merged(table[name], value) for name, value in changes.items() if isinstance(value, dict) and isinstance(table.get(name), dict)}
    return {**table, **changes, **inner}
