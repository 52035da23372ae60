"""The reference page of the configuration, made from the schema and the defaults: `python -m cryorestore.config.reference`."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from cryorestore.config.loading import DEFAULTS, SCHEMA, read_yaml
from cryorestore.config.paths import PROJECT_ROOT
from cryorestore.config.schema import allowed_text, read_schema

PAGE = PROJECT_ROOT / "docs" / "configuration.md"
INTRODUCTION = """# Configuration

Made from `config/schemas/config.schema.yaml` and `config/config.yaml` by `python -m cryorestore.config.reference`; do not edit.

A run is configured in three layers, each laid over the one before, key by key (lists are replaced as a whole):

1. `config/config.yaml`: every key with its default; as it stands, the embedded demo.
2. `config/datasets/NAME.yaml` for each name in `datasets`: what differs for that data set. Adding a data set is adding such a file.
3. `snakemake --configfile FILE` and `--config key=value`: what differs in this run. FILE holds only that, not a copy of `config.yaml`.

All of it is checked before any job starts, and all errors are told at once, each with its file, key, value and what is allowed.
`cryorestore check-config` does the same without Snakemake. Relative paths start from the project's folder, those under `input` from `data_root`.
"""


def render() -> str:
    """The page, Markdown."""
    schema = read_schema(PROJECT_ROOT / SCHEMA)
    defaults = read_yaml(PROJECT_ROOT / DEFAULTS, shown=DEFAULTS)
    properties = _resolved(schema["properties"], schema["$defs"])
    sections = [name for name, rule in properties.items() if "properties" in rule or name == "methods"]
    lines = [INTRODUCTION, "## Keys without a section", ""]
    lines += _table([(name, rule, _shown(defaults[name])) for name, rule in properties.items() if name not in sections])
    for name in sections:
        lines += ["", f"## `{name}`", "", properties[name]["description"], ""]
        if name == "methods":
            keys = properties[name]["additionalProperties"]["properties"]
            lines += _table([(f"methods.NAME.{key}", rule, "") for key, rule in keys.items()])
            lines += ["", "Shipped methods:", "", *_methods(defaults[name], list(keys))]
        else:
            lines += _table(list(_leaves(properties[name], defaults[name], f"{name}.")))
    return "\n".join(lines) + "\n"


def _resolved(node: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema with every $ref replaced by what it names."""
    if isinstance(node, list):
        return [_resolved(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    named = definitions[node["$ref"].rpartition("/")[2]] if "$ref" in node else {}
    return {key: _resolved(value, definitions) for key, value in (named | node).items() if key != "$ref"}


def _leaves(rule: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    for name, entry in rule["properties"].items():
        if "properties" in entry:
            yield from _leaves(entry, defaults[name], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", entry, _shown(defaults[name])


def _table(rows: list[tuple[str, Mapping[str, Any], str]]) -> list[str]:
    with_defaults = any(default for _, _, default in rows)
    lines = ["| key | default | allowed | meaning |", "|---|---|---|---|"] if with_defaults else ["| key | allowed | meaning |", "|---|---|---|"]
    for key, rule, default in rows:
        cells = [f"`{key}`", *([default] if with_defaults else []), allowed_text(dict(rule)), rule["description"]]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines


def _methods(methods: Mapping[str, Mapping[str, Any]], keys: list[str]) -> list[str]:
    lines = [f"| method | {' | '.join(keys)} |", "|---" * (len(keys) + 1) + "|"]
    return lines + [f"| `{name}` | {' | '.join(_shown(method[key]) for key in keys)} |" for name, method in methods.items()]


def _shown(value: Any) -> str:
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
