"""Files that appear whole or not at all, and JSON that is the same bytes for the same content."""

import glob
import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from cryorestore.errors import CryorestoreError

ABANDONED_AFTER = 24 * 3600.0
"""Seconds without a write after which another machine's temporary file is taken for left over"""
_HOST = socket.gethostname()
_held_back: ContextVar[dict[Path, Path] | None] = ContextVar("held_back", default=None)


@contextmanager
def files_together() -> Iterator[None]:
    """Hold back the files that are written inside (`atomic_path`): they appear one right after the other at the end, in their order, or none does.

    Also a decorator, for a step whose outputs belong together and which reads none of them back: nothing written inside is on disk before the end.
    """
    waiting: dict[Path, Path] = {}
    token = _held_back.set(waiting)
    try:
        yield
        for target, temporary in waiting.items():
            temporary.replace(target)
    finally:
        _held_back.reset(token)
        for temporary in waiting.values():
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is renamed to `path`, on failure it is removed.

    The temporary name carries the machine and the process number, so that two writers never share one, and keeps the suffix. What a killed
    process left of `path` is removed here.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    temporary = target.with_name(f".{target.stem}.{_HOST}.{os.getpid()}.partial{target.suffix}")
    waiting = _held_back.get()
    try:
        yield temporary
        if waiting is None:
            temporary.replace(target)
        else:
            waiting[target] = temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove_abandoned(target: Path) -> None:
    before, after = f".{target.stem}.", f".partial{target.suffix}"
    for path in target.parent.glob(f"{glob.escape(before)}*{glob.escape(after)}"):
        host, _, process = path.name.removeprefix(before).removesuffix(after).rpartition(".")
        if _is_abandoned(path, host, process):
            path.unlink(missing_ok=True)


def _is_abandoned(path: Path, host: str, process: str) -> bool:
    """Whether no process writes it any more: on this machine that is known, of others it is judged by the time of the last write."""
    if host == _HOST and process.isdecimal():
        try:
            os.kill(int(process), 0)
        except OSError as error:
            return isinstance(error, ProcessLookupError)
        return False
    try:
        return time.time() - path.stat().st_mtime > ABANDONED_AFTER
    except FileNotFoundError:
        return False


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write `content` with sorted keys; a value that is not finite becomes null, for JSON has no word for it."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_finite(content), indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    CryorestoreError
        If the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CryorestoreError(f"{path}: cannot be read as JSON ({error}); remove it and run the step that writes it again") from error


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    raise TypeError(f"no JSON form for {type(value).__name__}")
