"""The note that a step leaves of the files that its table names, by which planning sees whether one of them changed (config/named_files.py)."""

import os
from collections.abc import Iterable
from pathlib import Path

from cryorestore.config.named_files import file_state, read_record
from cryorestore.files import write_json
from cryorestore.logs import get_logger


def note_files(record: str | Path, files: Iterable[str | Path], *, version: str | None) -> None:
    """Write size and time of `files`, before they are read, and say which of those noted before have changed since.

    Parameters
    ----------
    record
        The note (JSON); it is no output of a rule, which would be removed before the step runs again.
    files
        As seen from the current folder; those that are not there are left out.
    version
        The step's parameter that changes with the files.
    """
    _, before = read_record(record)
    states = ((path, file_state(path)) for path in sorted({os.path.abspath(file) for file in files}))  # noqa: PTH100  (links stay)
    now = {path: state for path, state in states if state is not None}
    changed = [path for path, state in now.items() if before.get(path, state) != state]
    if changed:
        get_logger().info("%d of %d files changed since they were read before; first: %s", len(changed), len(now), changed[0])
    write_json(record, {"version": version, "files": now})
