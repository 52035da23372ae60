"""Files that an input table names (stacks, micrographs): whether they changed since they were read, without reading the table again.

Thousands of them a data set would be slow to plan with as inputs of a job, and a table of a million rows is not read before every run. So the step
that reads the table notes size and time of every file that it names, and planning compares: a file that changed is a changed parameter.
"""

import hashlib
import json
import os
from pathlib import Path

State = tuple[int, int]
"""Size (bytes) and time of the last change (ns)"""


def named_files_version(record: str | Path) -> str | None:
    """What the step's parameter is: as it was when the record was written while all files are as they were then, else a hash of how they are now.

    A file that is not there any more is taken for unchanged: it cannot be read anew. Without a record, or with a damaged one, None.
    """
    written, before = read_record(record)
    now = {path: file_state(path) or state for path, state in before.items()}
    if now == before:
        return written
    text = "".join(f"{path}/{size}/{time}\n" for path, (size, time) in sorted(now.items()))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]


def read_record(record: str | Path) -> tuple[str | None, dict[str, State]]:
    """The parameter and the files of a record; none where there is no record, or a damaged one."""
    try:
        content = json.loads(Path(record).read_text(encoding="utf-8"))
        return content["version"], {path: (size, time) for path, (size, time) in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, {}


def file_state(path: str) -> State | None:
    """How a file is now; None where it is not there."""
    try:
        found = os.stat(path)  # noqa: PTH116  (thousands of them: a Path takes twice as long)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
