"""Merge defaults, dataset file and command line, and check the result."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cryorestore.config.checks import cross_key_problems
from cryorestore.config.paths import PROJECT_ROOT
from cryorestore.config.problems import Problem, refuse
from cryorestore.config.schema import read_schema, schema_problems, typed
from cryorestore.config.table import Row, read_table
from cryorestore.errors import CryorestoreError

DEFAULTS = "config/config.yaml"
SCHEMA = "config/schemas/config.schema.yaml"
COMMAND_LINE = "--configfile or --config"
RUN_KEYS = ("datasets", "datasets_dir", "datasets_table", "results", "keep_intermediates", "disk_check", "container")
"""Keys that belong to the run and not to one data set."""


LARGEST_FILE = 100_000
"""Values in a file of the configuration, aliases written out"""


@dataclass(frozen=True)
class Configuration:
    """A checked run: the complete settings of each data set, by name, and the keys of the run as in config.yaml."""

    settings: dict[str, dict[str, Any]]
    results: str
    keep_intermediates: bool
    disk_check: str
    container: str | None


def load_configuration(overrides: Mapping[str, Any] | None = None, *, root: Path = PROJECT_ROOT) -> Configuration:
    """Merge config/config.yaml < config/datasets/NAME.yaml < row of the table < `overrides` for every data set, and check them.

    Parameters
    ----------
    overrides
        What the command line says, nested as in config.yaml.
    root
        The project's folder; relative paths in the configuration start there.

    Raises
    ------
    CryorestoreError
        If a file is missing or not YAML, or any key or value is refused; all refusals are listed, each with file, key, value and what is allowed.
    """
    schema = read_schema(root / SCHEMA)
    overrides = typed(dict(overrides or {}), schema, schema)
    defaults = read_yaml(root / DEFAULTS, shown=DEFAULTS)
    if "CRYORESTORE_DATA" in os.environ:
        defaults["data_root"] = os.environ["CRYORESTORE_DATA"]
    run = {key: overrides.get(key, defaults[key]) for key in RUN_KEYS}
    refuse([problem.text({key: _run_origin(key, overrides) for key in RUN_KEYS}) for problem in _run_problems(run, schema)])
    settings: dict[str, dict[str, Any]] = {}
    refused: list[str] = []
    files: dict[str, dict[str, Any]] = {}
    for name, row in _rows(run, root, schema, named="datasets" in overrides).items():
        shown = f"{run['datasets_dir']}/{row.like}.yaml"
        if row.like not in files:
            files[row.like] = _read_dataset(root, run["datasets_dir"], row)
        merged: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for layer, file in ((defaults, DEFAULTS), (files[row.like], shown), (row.changes, row.place), (overrides, COMMAND_LINE)):
            merge_into(merged, layer, file, origins)
        refused += [
            Problem(key, layer[key], "allowed in config/config.yaml or on the command line only").text({key: file})
            for layer, file in ((files[row.like], shown), (row.changes, row.place))
            for key in RUN_KEYS
            if key in layer
        ]
        problems = schema_problems(merged, schema) or cross_key_problems(merged)
        refused += [problem.text(origins) for problem in problems]
        settings[name] = merged
    refuse(refused)
    kept = {key: run[key] for key in ("results", "keep_intermediates", "disk_check", "container")}
    return Configuration(settings=settings, **kept)


def read_yaml(path: Path, *, shown: str) -> dict[str, Any]:
    """Read a YAML file of keys and values; a key written twice is refused.

    Raises
    ------
    CryorestoreError
        If it cannot be read; `shown` is the name it is called by.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        _expanded_size(content, {})
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CryorestoreError(f"{shown}: cannot be read as YAML ({error}); mend the file") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise CryorestoreError(f"{shown}: found {type(content).__name__}, expected keys and values; see config/config.yaml")
    return content


def _expanded_size(node: Any, known: dict[int, int]) -> int:
    """Number of values with every alias written out: a few lines of aliases of aliases stand for more than any memory holds."""
    if not isinstance(node, dict | list):
        return 1
    if id(node) not in known:
        known[id(node)] = LARGEST_FILE  # met again below itself, it has no end
        items = [*node, *node.values()] if isinstance(node, dict) else node
        known[id(node)] = 1 + sum(_expanded_size(item, known) for item in items)
    if known[id(node)] >= LARGEST_FILE:
        raise ValueError(f"its aliases stand for {LARGEST_FILE} values or more")
    return known[id(node)]


def merge_into(base: dict[str, Any], layer: Mapping[str, Any], file: str, origins: dict[str, str], prefix: str = "") -> None:
    """Lay `layer` over `base`, key by key (lists are replaced), and note in `origins` which file set each key."""
    for key, value in layer.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and isinstance(base.get(key, {}), dict):
            merge_into(base.setdefault(key, {}), value, file, origins, prefix=f"{name}.")
        else:
            base[key] = value
            origins[name] = file


def _rows(run: Mapping[str, Any], root: Path, schema: Mapping[str, Any], *, named: bool) -> dict[str, Row]:
    """The data sets of this run by name: those of the table where there is one, of them those that the command line names, if it does."""
    shown = run["datasets_table"]
    if shown is None:
        return {name: Row("datasets", name, {}) for name in run["datasets"]}
    rows = read_table(root / shown, shown=shown)
    pattern = schema["properties"]["datasets"]["items"]["pattern"]
    wrong = [f"{row.place}: dataset = {name!r}: text matching {pattern}" for name, row in rows.items() if not re.fullmatch(pattern, name)]
    wrong += [
        f"{COMMAND_LINE}: datasets = {name!r}: no row of {shown}; allowed: {', '.join(rows)}"
        for name in run["datasets"]
        if named and name not in rows
    ]
    refuse(wrong)
    return {name: rows[name] for name in run["datasets"]} if named else rows


def _read_dataset(root: Path, folder: str, row: Row) -> dict[str, Any]:
    path = root / folder / f"{row.like}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml"))) or "none"
        raise CryorestoreError(f"{row.place} = {row.like!r}: {folder}/{row.like}.yaml does not exist; allowed: {known}; or add that file")
    return read_yaml(path, shown=f"{folder}/{row.like}.yaml")


def _run_origin(key: str, overrides: Mapping[str, Any]) -> str:
    return COMMAND_LINE if key in overrides else DEFAULTS


def _run_problems(run: dict[str, Any], schema: dict[str, Any]) -> list[Problem]:
    return schema_problems(run, {**schema, "properties": {key: schema["properties"][key] for key in RUN_KEYS}})


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml's where it is there: two hundred files are read in a second
    """A safe loader that refuses a key written twice, which YAML would let pass in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is written twice", node.value[place][0].start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping
