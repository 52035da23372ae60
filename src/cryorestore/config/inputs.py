"""The files that a data set comes in with: where they are, and what to say when one is missing."""

from pathlib import Path
from typing import Any

from cryorestore.config.loading import Configuration
from cryorestore.config.paths import data_path
from cryorestore.config.problems import Settings
from cryorestore.errors import CryorestoreError

HOW_TO_OBTAIN = "set data_root, or the environment variable CRYORESTORE_DATA, to the folder that they are in"
FILE_KEYS = ("micrographs_star", "particles_star", "reference_map")


def input_files(settings: Settings) -> dict[str, Any]:
    """Files under `input` by key, as paths from the current folder; keys that are not set are left out.

    `coordinates` and `cs` are lists, the first being what its pattern finds, in order; `project_root` is a folder.
    """
    given = settings["input"]
    files: dict[str, Any] = {key: data_path(settings, given[key]) for key in (*FILE_KEYS, "project_root") if given[key]}
    if given["coordinates"]:
        pattern = data_path(settings, given["coordinates"])
        files["coordinates"] = sorted(str(path) for path in Path(pattern).parent.glob(Path(pattern).name))
    if given["cs"]:
        files["cs"] = [data_path(settings, path) for path in given["cs"]]
    if settings["input"]["kind"] == "simulation" and settings["simulate"]["molecule"] != "demo":
        files["molecule"] = data_path(settings, settings["simulate"]["molecule"])
    return files


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
    missing = []
    for key, paths in input_files(settings).items():
        if key == "coordinates" and not paths:
            missing.append(f"input.coordinates: nothing matches {data_path(settings, settings['input']['coordinates'])}")
        missing += [f"{key}: {path}" for path in ([paths] if isinstance(paths, str) else paths) if not Path(path).exists()]
    return missing
