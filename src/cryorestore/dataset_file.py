"""A dataset file written line by line, so that each value has its source beside it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cryorestore.config.loading import DEFAULTS, read_yaml
from cryorestore.config.paths import PROJECT_ROOT, project_path


@dataclass(frozen=True)
class Sourced:
    """A value and where it stands."""

    value: Any
    source: str


Entries = dict[str, Sourced]
"""Configuration key with dots -> value and source."""


def data_root_entries(root: Path) -> tuple[Path, Entries]:
    """The folder that paths start from: the configured data_root where `root` is inside it, else `root`, which is then an entry."""
    defaults = read_yaml(PROJECT_ROOT / DEFAULTS, shown=DEFAULTS)
    standard = Path(project_path(os.environ.get("CRYORESTORE_DATA", defaults["data_root"]))).resolve()
    if root.resolve().is_relative_to(standard):
        return standard, {}
    return root.resolve(), {"data_root": Sourced(str(root.resolve()), "folder of the project")}


def render_dataset(entries: Entries, *, comments: Sequence[str]) -> str:
    """Write what differs from config/config.yaml as YAML, and what does not as comments; `comments` stand at the top."""
    defaults = read_yaml(PROJECT_ROOT / DEFAULTS, shown=DEFAULTS)
    same = {key for key, entry in entries.items() if _default(defaults, key) == entry.value}
    lines = [*comments, *(f"As the default: {key}: {_yaml(entries[key].value)} ({entries[key].source})" for key in entries if key in same)]
    lines = [f"# {line}" for line in lines]
    heads = list(dict.fromkeys(key.partition(".")[0] for key in entries if key not in same))
    for head in heads:
        inside = {key.partition(".")[2]: entry for key, entry in entries.items() if key not in same and key.partition(".")[0] == head}
        if "" not in inside:
            lines.append(f"{head}:")
        lines += [f"{f'  {tail}' if tail else head}: {_yaml(entry.value)}  # {entry.source}" for tail, entry in inside.items()]
    return "\n".join(lines) + "\n"


def _default(defaults: dict[str, Any], key: str) -> Any:
    value: Any = defaults
    for part in key.split("."):
        value = value[part]
    return value


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, default_flow_style=True, width=10**6)).removesuffix("...\n").strip()
