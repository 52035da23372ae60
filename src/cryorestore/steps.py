"""What a step leaves behind besides its results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryorestore.provenance import Paths, write_provenance


def record_step(step: str, *, inputs: Mapping[str, Paths], outputs: Mapping[str, Paths], parameters: Mapping[str, Any]) -> None:
    """Enter a finished step into the provenance.json of every folder that it wrote to.

    Parameters
    ----------
    step
        Name of the rule.
    inputs, outputs
        Files by name; all of them exist.
    parameters
        The other keywords of the step's function; its seed, where it has one, is among them.
    """
    folders: dict[Path, dict[str, Paths]] = {}
    for name, paths in outputs.items():
        for path in [paths] if isinstance(paths, str | Path) else paths:
            folders.setdefault(Path(path).parent, {})[name] = path
    for folder, written in folders.items():
        write_provenance(folder / "provenance.json", step=step, parameters=parameters, inputs=inputs, outputs=written, seed=parameters.get("seed"))
