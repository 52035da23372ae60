"""What every control writes: one JSON of one form, and one picture beside it (docs/outputs.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cryorestore.files import write_json

Verdict = Literal["passed", "failed", "not judged"]
SELF_CONSISTENCY = "self_consistency_restored_0143"
"""The figure of the summary that is withheld where a control that gates it failed."""


@dataclass(frozen=True)
class Null:
    """What the score is where the method does not invent, or by chance; without a value where nothing has to be measured."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class ControlResult:
    """One control of one method."""

    name: str
    method: str
    score: float | None
    score_text: str
    """what the score is, with its unit"""
    threshold: float | None
    null: Null
    verdict: Verdict
    text: str
    """what was found, in a sentence or two"""
    gates: str | None = SELF_CONSISTENCY
    details: Mapping[str, Any] = field(default_factory=dict)

    def write(self, control: str | Path, *, picture: str | Path | None) -> None:
        """Write the JSON, which names the picture beside it."""
        content = {
            "name": self.name,
            "method": self.method,
            "score": self.score,
            "score_text": self.score_text,
            "threshold": self.threshold,
            "null": {"text": self.null.text, "value": self.null.value},
            "verdict": self.verdict,
            "gates": self.gates,
            "text": self.text,
            "picture": None if picture is None else Path(picture).name,
            "details": dict(self.details),
        }
        write_json(control, content)
