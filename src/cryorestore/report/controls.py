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
OUTCOMES = {"passed": True, "failed": False, "not judged": None}


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
        return next(word for word, passed in OUTCOMES.items() if passed is self.passed)


def read_controls(paths: Sequence[str | Path], *, box_size: int, pixel_size: float) -> list[Control]:
    """Read the controls' files, which are all of one form (docs/outputs.md).

    Parameters
    ----------
    paths
        JSON of each control of each method.
    box_size, pixel_size
        Of the maps (px, angstrom): of curves that are given shell by shell.

    Raises
    ------
    CryorestoreError
        If a file is no control, or names a picture that is not there.
    """
    controls = []
    for path in map(Path, paths):
        entry = read_json(path)
        verdict = entry.get("verdict") if isinstance(entry, dict) else None
        if verdict not in OUTCOMES:
            raise CryorestoreError(f"{path}: found the verdict {verdict!r}, expected one of {', '.join(OUTCOMES)}; run that control again")
        controls.append(
            Control(
                name=entry["name"],
                method=entry["method"],
                passed=OUTCOMES[verdict],
                text=_text(entry),
                reason=entry["text"],
                gates=entry["gates"] or "",
                picture=_picture_uri(entry["picture"], path),
                curves=_curves(entry, box_size * pixel_size),
                source=str(path),
            )
        )
    return controls


def _text(entry: Mapping[str, Any]) -> str:
    """What was measured, its value and its threshold; and what the value is where the method does not invent, or by chance."""
    null = entry["null"]
    return control_value_text(entry) + ("" if null["value"] is None else f"; {null['text']}: {null['value']:.4g}")


def _picture_uri(picture: str | None, path: Path) -> str | None:
    if not picture:
        return None
    found = path.parent / picture
    if not found.is_file() or found.suffix.lower() not in PICTURE_KINDS:
        raise CryorestoreError(f"{path}: names the picture {picture}, expected an SVG or PNG file beside it; run that control again")
    return f"data:{PICTURE_KINDS[found.suffix.lower()]};base64,{base64.b64encode(found.read_bytes()).decode('ascii')}"


def _curves(entry: Mapping[str, Any], box_length: float) -> dict[str, tuple[Series, Series]]:
    """FSC curves among a control's details: `fsc` by name, and those named `..._fsc`; one value a shell, from 0."""
    details = entry["details"]
    named = {str(name): values for name, values in (details.get("fsc") or {}).items()}
    named |= {name.removesuffix("_fsc"): values for name, values in details.items() if name.endswith("_fsc") and isinstance(values, list)}
    shells = {name: (np.arange(len(values)) / box_length, np.asarray(values, float)) for name, values in named.items()}
    return {f"{entry['name']}, {name}".replace("_", " "): curve for name, curve in shells.items()}
