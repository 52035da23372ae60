"""Check settings against the JSON schema, in words a user can act on."""

import difflib
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from cryorestore.config.problems import Problem, Settings


@cache
def read_schema(path: Path) -> dict[str, Any]:
    """Read the schema; it is part of the project, so a damaged one is a programming error."""
    schema: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return schema


def schema_problems(settings: Settings, schema: dict[str, Any]) -> list[Problem]:
    """List every key that is unknown and every value of a wrong type or out of its range."""
    from jsonschema import Draft202012Validator  # 0.2 s: only where settings are checked, not where the package is imported

    problems: list[Problem] = []
    for error in sorted(Draft202012Validator(schema).iter_errors(settings), key=lambda error: [str(part) for part in error.absolute_path]):
        problems.extend(_translate(error, unit_of(schema, [part for part in error.absolute_path if isinstance(part, str)])))
    return problems


def unit_of(schema: dict[str, Any], path: list[str]) -> str:
    """The unit in brackets at the end of the description of a key, "" where there is none."""
    node = schema
    for part in path:
        node = _rule_of(part, node)
    found = re.search(r"\[([^\]]+)\]\.?$", node.get("description", "").strip())
    return found.group(1) if found else ""


def _translate(error: Any, unit: str) -> list[Problem]:
    key = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(error.schema.get("properties", {}))
        return [_unknown(f"{key}.{name}".lstrip("."), error.instance[name], known) for name in error.instance if name not in known]
    rule = {name: value for name, value in error.schema.items() if name not in ("description", "$ref")}
    hint = "; YAML reads this as text: write the number with a point, as 1.0e-6" if _number_as_text(error.instance, rule) else ""
    missing = f" (missing: {', '.join(sorted(set(rule['required']) - set(error.instance)))})" if error.validator == "required" else ""
    return [Problem(key, error.instance, f"allowed: {allowed_text(rule)}{f' [{unit}]' if unit else ''}{missing}{hint}")]


def typed(value: Any, rule: dict[str, Any], schema: dict[str, Any]) -> Any:
    """Read text as YAML where a key allows no text: Snakemake's --config passes nested numbers on as text."""
    rule = schema["$defs"][rule["$ref"].rpartition("/")[2]] if "$ref" in rule else rule
    if isinstance(value, dict):
        return {key: typed(item, _rule_of(key, rule), schema) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item, rule.get("items", {}), schema) for item in value]
    allows_text = "string" in rule.get("type", ["string"]) or any(isinstance(choice, str) for choice in rule.get("enum", []))
    if not isinstance(value, str) or (allows_text and value != "null"):
        return value
    return yaml.safe_load(value)


def _rule_of(key: str, rule: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = rule.get("properties", {}).get(key) or rule.get("additionalProperties") or {}
    return found


def allowed_text(rule: dict[str, Any]) -> str:
    """Say in words what a leaf of the schema allows."""
    if "enum" in rule:
        return " | ".join(str(value) for value in rule["enum"])
    if "const" in rule:
        return str(rule["const"])
    if "contains" in rule:
        return f"a list with {allowed_text(rule['contains'])} in it"
    types = rule.get("type", "any value")
    text = " or ".join(_TYPES.get(name, name) for name in ([types] if isinstance(types, str) else types))
    if "multipleOf" in rule:
        text = text.replace("whole number", "even number" if rule["multipleOf"] == 2 else f"multiple of {rule['multipleOf']}")
    if "array" in types and "items" in rule:
        text += f" of ({allowed_text(rule['items'])})"
    bounds = [f"{word} {rule[name]}" for name, word in _BOUNDS.items() if name in rule]
    if "pattern" in rule:
        bounds.append(f"matching {rule['pattern']}")
    if "required" in rule:
        bounds.append(f"with the keys {', '.join(rule['required'])}")
    return ", ".join([text, *bounds])


_TYPES = {"integer": "whole number", "string": "text", "array": "list", "object": "keys and values", "boolean": "true or false"}
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "minItems": "items at least",
    "maxItems": "items at most",
}


def _unknown(key: str, value: Any, known: list[str]) -> Problem:
    near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
    return Problem(key, value, f"unknown key{f'; did you mean {near[0]}?' if near else ''}; allowed: {', '.join(known)}")


def _number_as_text(value: Any, rule: dict[str, Any]) -> bool:
    return isinstance(value, str) and rule.get("type") in ("number", "integer") and re.fullmatch(r"[-+]?\d+\.?\d*[eE][-+]?\d+", value) is not None
