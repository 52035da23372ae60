"""How far a job has come, from its log, and the losses of every training, finished or not."""

import csv
import re
import time
from dataclasses import dataclass
from pathlib import Path

_PROGRESS = re.compile(r"INFO (.*) … ((?:\d+ % )?\d+(?:/\d+)?, \S+/s(?:, (\d+) s left)?)$")
_LOSS = re.compile(r"INFO (step \d+: validation loss .*)$")


@dataclass(frozen=True)
class Losses:
    """The last losses of one training; None where there is no such figure yet."""

    dataset: str
    method: str
    half: str
    network: str
    is_finished: bool
    step: int
    seconds: float
    training_loss: float | None
    validation_loss: float | None
    best_validation_loss: float | None
    path: str


def last_progress(log: Path) -> tuple[str, float | None]:
    """The last thing a job's log says of its progress, and the seconds that it has left (None where it does not tell)."""
    if not log.is_file():
        return "", None
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in reversed(lines):
        if found := _PROGRESS.search(line):
            age = time.time() - log.stat().st_mtime
            return f"{found[1]} {found[2]}", None if found[3] is None else max(0.0, float(found[3]) - age)
        if found := _LOSS.search(line):
            return found[1], None
    return "", None


def all_losses(results: Path) -> list[Losses]:
    """Losses of every training under a results folder: of finished ones from models/, of those that run or wait to go on from work/."""
    found = []
    for path in sorted(results.glob("*/models/*/half[12]/*_history.csv")):
        dataset, _, method, half, name = path.relative_to(results).parts
        found.append(_read(path, dataset, method, half[-1], name.removesuffix("_history.csv"), is_finished=True))
    for path in sorted(results.glob("*/work/train_*/*_half[12]/losses.csv")):
        dataset, _, step, folder, _ = path.relative_to(results).parts
        method, _, half = folder.rpartition("_half")
        found.append(_read(path, dataset, method, half, step.removeprefix("train_"), is_finished=False))
    return [losses for losses in found if losses is not None]


def _read(path: Path, dataset: str, method: str, half: str, network: str, *, is_finished: bool) -> Losses | None:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if not rows:
        return None
    training = [float(row["training_loss"]) for row in rows if row["training_loss"]]
    validation = [float(row["validation_loss"]) for row in rows if row["validation_loss"]]
    return Losses(
        dataset=dataset,
        method=method,
        half=half,
        network=network,
        is_finished=is_finished,
        step=int(rows[-1]["step"]),
        seconds=float(rows[-1]["seconds"]),
        training_loss=training[-1] if training else None,
        validation_loss=validation[-1] if validation else None,
        best_validation_loss=min(validation, default=None),
        path=str(path),
    )
