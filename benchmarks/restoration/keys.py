"""What a figure depends on: its settings, the modules of the library that make it, and this benchmark's own files."""

import fcntl
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryorestore.config import code_version

PLUMBING = ("belonging", "checkpoint", "devices", "files", "identity", "io", "launch", "micrographs", "particles", "pick_files", "picks", "ranks")
"""Modules that carry images and numbers without changing them: a change of these makes no cell stale."""
FILTERS = ("baselines.filters", "baselines.covariance", "baselines.low_pass", "baselines.peers", "baselines.peer_worker", "reconstruct.cryodrgn")
"""Modules that lanes with a network, and the half itself, import and do not use."""
GLOBAL = ("posterior.bank", "posterior.grid", "posterior.polar", "posterior.search", "posterior.wide")
"""The posterior over all orientations, which comes with the local one and is used by no cell."""


def key_of(settings: Mapping[str, Any], modules: Collection[str], files: Collection[str], *, without: Collection[str] = FILTERS) -> str:
    """Sixteen hexadecimal digits that change with the settings, the modules and what they import, and the files beside this one."""
    code = [code_version(module, without=[name for name in (*PLUMBING, *GLOBAL, *without) if name != module]) for module in sorted(modules)]
    own = [hashlib.sha256(Path(__file__).with_name(name).read_bytes()).hexdigest() for name in sorted(files)]
    return hashlib.sha256(json.dumps([settings, code, own], sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a file's lock, so that several processes share the work; without `wait`, False where another one holds it. The killed hold nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
