"""What is wrong with a configuration, said so that it can be mended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryorestore.errors import CryorestoreError

Settings = Mapping[str, Any]
Origins = Mapping[str, str]


@dataclass(frozen=True)
class Problem:
    """One value that is refused: its key with dots, the value found, and what is allowed."""

    key: str
    found: Any
    allowed: str

    def text(self, origins: Origins) -> str:
        """Say file, key, value and what is allowed; `origins` tells the file of each key."""
        return f"{origin(self.key, origins)}: {self.key} = {_shown(self.found)}: {self.allowed}"


def origin(key: str, origins: Origins) -> str:
    """The file that set `key`, or failing that its nearest parent or first child."""
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        if name in origins:
            return origins[name]
    return next((file for name, file in origins.items() if name.startswith(key + ".")), "configuration")


def refuse(problems: Sequence[str]) -> None:
    """Raise one CryorestoreError that lists all problems; do nothing where there are none."""
    unique = list(dict.fromkeys(problems))
    if unique:
        count = "1 error" if len(unique) == 1 else f"{len(unique)} errors"
        raise CryorestoreError("\n".join([f"the configuration has {count}; no job was started", *(f"  {problem}" for problem in unique)]))


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, str) else str(value)
