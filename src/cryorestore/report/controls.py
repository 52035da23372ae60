"""The controls as the report shows them, from the files that the control steps write."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cryorestore.errors import CryorestoreError
from cryorestore.files import read_json
from cryorestore.report.pictures import Series
from cryorestore.summary import control_value_text

PICTURE_KINDS = {".svg": "image/svg+xml", ".png": "image/png"}
OUTCOMES = {"passed": True, "pass": True, "failed": False, "fail": False}


@dataclass(frozen=True)
class Control:
    """One control of one method.

    `passed` is None where the control shows something and judges nothing. `curves`: label -> (spatial frequency in 1/angstrom, correlation).
    """

    name: str
    method: str
    passed: bool | None
    text: str
    reason: str
    gates: str
    picture: str | None = None
    curves: Mapping[str, tuple[Series, Series]] = field(default_factory=dict)
    source: str = ""

    @property
    def title(self) -> str:
        """The name in plain words."""
        return self.name.replace("_", " ")

    @property
    def outcome(self) -> str:
        """What became of it, in a word."""
        return {True: "passed", False: "failed", None: "shown, not judged"}[self.passed]


def read_controls(paths: Sequence[str | Path], *, box_size: int, pixel_size: float) -> list[Control]:
    """Read the controls' files, each one control by `name`, or several by their names.

    Parameters
    ----------
    paths
        JSON files of results/{dataset}/controls/.
    box_size, pixel_size
        Of the maps (px, angstrom): of curves that are given shell by shell.

    Raises
    ------
    CryorestoreError
        If a file is no control, or names a picture that is not there.
    """
    controls = []
    for path in map(Path, paths):
        content = read_json(path)
        entries = {content["name"]: content} if "name" in content else content
        for name, entry in entries.items():
            if not isinstance(entry, dict) or not ({"passed", "verdict"} & entry.keys()):
                raise CryorestoreError(f"{path}: '{name}' has neither `passed` nor `verdict`, expected a control's result; run it again")
            controls.append(_control(name, entry, path, box_size * pixel_size))
    return controls


def _control(name: str, entry: Mapping[str, Any], path: Path, box_length: float) -> Control:
    passed = OUTCOMES.get(str(entry["verdict"]).lower()) if "verdict" in entry else bool(entry["passed"])
    return Control(
        name=name,
        method=str(entry.get("method") or path.stem),
        passed=passed,
        text=_text(entry),
        reason=str(entry.get("text") or entry.get("reason") or ""),
        gates=_gates(entry.get("gates")),
        picture=_picture_uri(entry.get("picture"), path),
        curves=_curves(entry, box_length),
        source=str(path),
    )


def _text(entry: Mapping[str, Any]) -> str:
    """What was measured, its value and its threshold; and what the value would be by chance, where that is told."""
    if "score_text" not in entry:
        return control_value_text(entry)
    score, threshold = ("none" if number is None else f"{number:.4g}" for number in (entry["score"], entry["threshold"]))
    null = entry.get("null") or {}
    by_chance = "" if null.get("value") is None else f"; {null['text']}: {null['value']:.4g}"
    return f"{entry['score_text']}: {score}, threshold {threshold}{by_chance}"


def _gates(value: Any) -> str:
    named = [value] if isinstance(value, str) else list(value or [])
    return ", ".join(str(name).replace("_", " ") for name in named)


def _picture_uri(picture: str | None, path: Path) -> str | None:
    if not picture:
        return None
    found = next((place for place in (path.parent / picture, Path(picture)) if place.is_file()), None)
    if found is None or found.suffix.lower() not in PICTURE_KINDS:
        raise CryorestoreError(f"{path}: names the picture {picture}, expected an SVG or PNG file beside it; run that control again")
    return f"data:{PICTURE_KINDS[found.suffix.lower()]};base64,{base64.b64encode(found.read_bytes()).decode('ascii')}"


def _curves(entry: Mapping[str, Any], box_length: float) -> dict[str, tuple[Series, Series]]:
    """FSC curves among a control's details: `fsc` by name, and those named `..._fsc`; one value a shell, from 0."""
    details = entry.get("details") or {}
    named = {str(name): values for name, values in (details.get("fsc") or {}).items()}
    named |= {name.removesuffix("_fsc"): values for name, values in details.items() if name.endswith("_fsc") and isinstance(values, list)}
    control = str(entry.get("name", "noise_only"))
    return {
        f"{control}, {name}".replace("_", " "): (np.arange(len(values)) / box_length, np.asarray(values, float)) for name, values in named.items()
    }
