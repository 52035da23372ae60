"""A hash of the code that a step runs, so that Snakemake reruns it when that code changes."""

import hashlib
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
IMPORT = re.compile(
    r"^\s*(?:from\s+cryorestore(?P<source>[.\w]*)\s+import\s+(?P<names>\([^)]*\)|[^\n]*)|import\s+cryorestore(?P<module>[.\w]*))", re.MULTILINE
)
PAGE_PARTS = ("templates", "vendor")
WITHOUT_EFFECT = frozenset({"errors", "logs", "provenance"})
"""Modules that say what happens and do not change what comes out."""


def code_version(module: str, *, without: Collection[str] = ()) -> str:
    """Hash `cryorestore.<module>` with every module of the library that it imports, directly or not, and the pages' parts where one renders them.

    Parameters
    ----------
    module
        Dotted name below the package, such as `posterior.sampling`.
    without
        Modules, or packages with all that is in them, that are left out with what they alone import.

    Returns
    -------
    str
        Twelve hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(_closure(module, without)):
        digest.update(name.encode())
        source = _file_of(name).read_bytes()
        digest.update(source)
        if b"PackageLoader" in source:
            digest.update(b"".join(path.read_bytes() for folder in PAGE_PARTS for path in sorted((PACKAGE / folder).iterdir())))
    return digest.hexdigest()[:12]


def _closure(module: str, without: Collection[str] = ()) -> set[str]:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        left_out = any(name == other or name.startswith(f"{other}.") for other in without)
        if name not in found and not left_out:
            found.add(name)
            waiting.extend(_imports(name))
    return found


@cache
def _imports(module: str) -> tuple[str, ...]:
    names: set[str] = set()
    for match in IMPORT.finditer(_file_of(module).read_text(encoding="utf-8")):
        source = (match["source"] if match["source"] is not None else match["module"]).lstrip(".")
        imported = re.findall(r"\w+", re.sub(r"\bas\s+\w+|#[^\n]*", "", match["names"] or ""))
        names.update(f"{source}.{name}".lstrip(".") for name in imported)
        names.add(source)
    return tuple(sorted(name for name in names if name and name not in WITHOUT_EFFECT and _exists(name)))


def _exists(module: str) -> bool:
    return _file_of(module).is_file()


def _file_of(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
