"""The page itself: templates, style and scripts put into one file that may load nothing."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cryorestore.files import atomic_path


def write_page(path: str | Path, content: Mapping[str, Any], *, template: str = "report.html.j2") -> None:
    """Render a template, with `style` (report.css), `script` (report.js) and `viewer` (the 3D library) beside its content, and write it.

    The page's own policy forbids the browser to load anything: a forgotten address would show as an error, not as a request.
    """
    environment = Environment(
        loader=PackageLoader("cryorestore", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    own = {"style": _text("templates/report.css"), "script": _text("templates/report.js"), "viewer": _text("vendor/3Dmol-min.js")}
    page = environment.get_template(template).render({**own, **content})
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _text(name: str) -> str:
    """A file of the package that goes into the page as it is."""
    return (files("cryorestore") / name).read_text(encoding="utf-8")
