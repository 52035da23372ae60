"""Where the paths of a configuration start from."""

import os
from pathlib import Path

from cryorestore.config.problems import Settings

PROJECT_ROOT = Path(__file__).resolve().parents[3]
"""The project's folder, with Snakefile and config/ in it."""


def project_path(path: str | Path) -> str:
    """A path of the configuration, which starts from the project's folder, as seen from the current folder."""
    return str(path) if Path(path).is_absolute() else os.path.relpath(PROJECT_ROOT / path)


def data_path(settings: Settings, path: str) -> str:
    """A path under `input`, which starts from data_root."""
    return project_path(Path(settings["data_root"]) / path)


def program_path(program: str) -> str:
    """A configured program: where it is said to be, or failing that its bare name, to be found on PATH."""
    if os.sep not in program:
        return program
    path = project_path(program)
    return path if Path(path).exists() else Path(path).name
