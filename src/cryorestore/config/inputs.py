"""The files that a data set comes in with: where they are, and what to say when one is missing."""

import hashlib
import os
import re
from collections.abc import Iterator
from fnmatch import translate
from pathlib import Path
from typing import Any

from cryorestore.config.loading import Configuration
from cryorestore.config.paths import data_path
from cryorestore.config.problems import Settings
from cryorestore.errors import CryorestoreError

HOW_TO_OBTAIN = "set data_root, or the environment variable CRYORESTORE_DATA, to the folder that they are in"
MADE_MASKS = ("none", "sphere", "auto")
"""Values of `fsc.mask` that name no file"""
FILE_KEYS = ("micrographs_star", "particles_star", "reference_map")


def input_files(settings: Settings) -> dict[str, Any]:
    """Files under `input` by key, as paths from the current folder; keys that are not set are left out, and so are the pick files.

    `cs` is a list; `project_root` is a folder.
    """
    given = settings["input"]
    files: dict[str, Any] = {key: data_path(settings, given[key]) for key in (*FILE_KEYS, "project_root") if given[key]}
    if given["cs"]:
        files["cs"] = [data_path(settings, path) for path in given["cs"]]
    if settings["input"]["kind"] == "simulation" and settings["simulate"]["molecule"] != "demo":
        files["molecule"] = data_path(settings, settings["simulate"]["molecule"])
    if settings["fsc"]["mask"] not in MADE_MASKS:
        files["fsc_mask"] = data_path(settings, settings["fsc"]["mask"])
    return files


def picks(settings: Settings) -> dict[str, str]:
    """The pattern of the pick files, as the keyword of the extracting function; nothing where there is none."""
    pattern = settings["input"]["coordinates"]
    return {"coordinates": data_path(settings, pattern)} if pattern else {}


def pick_files(settings: Settings) -> list[str]:
    """The pick files that the pattern finds, in order."""
    return sorted(entry.path for pattern in picks(settings).values() for entry in _matching(pattern))


def picks_version(settings: Settings) -> str | None:
    """Hash names, sizes and times of the pick files, so that a change of them reruns extraction without thousands of files being inputs of a job."""
    digest = hashlib.sha256()
    for pattern in picks(settings).values():
        for entry in sorted(_matching(pattern), key=lambda entry: entry.name):
            status = entry.stat()
            digest.update(f"{entry.name}/{status.st_size}/{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12] if picks(settings) else None


def _matching(pattern: str) -> Iterator["os.DirEntry[str]"]:
    """Files that a pattern finds; only its last part may have * or ? in it. The folder is read once: no file is asked after by itself."""
    folder, name = os.path.split(pattern)
    is_found = re.compile(translate(name)).match
    if Path(folder).is_dir():
        with os.scandir(Path(folder)) as entries:
            yield from (entry for entry in entries if is_found(entry.name))


def check_inputs(configuration: Configuration) -> None:
    """See that the files of every data set are there.

    Raises
    ------
    CryorestoreError
        If files are missing: which ones, and how to obtain them.
    """
    messages = []
    for name, settings in configuration.settings.items():
        missing = _missing(settings)
        if missing:
            how = settings["input"]["how_to_obtain"].strip() or HOW_TO_OBTAIN
            messages += [f"data set {name}: missing files", *_indented(missing), "how to obtain them:", *_indented(how.splitlines())]
    if messages:
        raise CryorestoreError("\n".join(messages))


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _missing(settings: Settings) -> list[str]:
    missing = [f"input.coordinates: nothing matches {pattern}" for pattern in picks(settings).values() if not any(_matching(pattern))]
    for key, paths in input_files(settings).items():
        missing += [f"{key}: {path}" for path in ([paths] if isinstance(paths, str) else paths) if not Path(path).exists()]
    return missing
