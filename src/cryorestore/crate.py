"""A finished run described as an RO-Crate: what each file is, which step made it, from what and with which parameters."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from cryorestore import __version__
from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path, read_json
from cryorestore.logs import get_logger

METADATA = "ro-crate-metadata.json"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
"""Process Run Crate: every step is an action with its inputs and outputs"""
FORMATS = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".xml": "application/xml",
    ".star": "text/plain",
    ".mrc": "application/x-mrc",
    ".mrcs": "application/x-mrc",
}
RESTORED_NOTE = "Restored: an estimate by a model, no measurement. Raw resolution and controls stand in summary.json."
_LEFT_OUT = ("work",)


def write_crate(*, results: Path, license: str | None = None, author: str | None = None) -> None:
    """Describe a data set's results folder in its ro-crate-metadata.json; files stay where they are, nothing is copied.

    Parameters
    ----------
    results
        Folder of one data set, such as results/demo.
    license
        Licence of the data, by its address; left out where it is not given.
    author
        Name of whoever made the run; left out where it is not given.

    Raises
    ------
    CryorestoreError
        If the folder holds no finished step.
    """
    steps = list(_steps(results))
    if not steps:
        raise CryorestoreError(f"{results}: found no provenance.json, expected the folder of a data set's results such as results/demo; run it first")
    crate = ROCrate()
    crate.name = f"cryorestore run of {results.name}"
    crate.description = f"Raw and restored cryo-EM particles and maps of the data set {results.name}, with controls. {RESTORED_NOTE}"
    crate.datePublished = max(entry["finished_utc"] for _, entry in steps)
    crate.root_dataset["conformsTo"] = crate.add(ContextEntity(crate, PROFILE, properties={"@type": "CreativeWork", "name": "Process Run Crate"}))
    if license:
        crate.license = license
    if author:
        crate.creator = crate.add(ContextEntity(crate, "#author", properties={"@type": "Person", "name": author}))
    program = crate.add(
        ContextEntity(crate, "#cryorestore", properties={"@type": "SoftwareApplication", "name": "cryorestore", "softwareVersion": __version__})
    )
    files = {name: crate.add_file(results / name, name, properties=_properties(results / name, name)) for name in _files(results)}
    for number, (step, entry) in enumerate(steps, 1):
        _add_step(crate, program, files, results, f"#step-{number:03d}-{step}", step, entry)
    with atomic_path(results / METADATA) as temporary:
        temporary.write_text(json.dumps(crate.metadata.generate(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    get_logger().info("%s: %d files and %d steps", results / METADATA, len(files), len(steps))


def _steps(results: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Steps with their entries, in the order in which they ended; one that wrote to several folders once."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for path in sorted(results.rglob("provenance.json")):
        for step, entry in read_json(path).items():
            key = json.dumps([step, entry["inputs"], entry["parameters"]], sort_keys=True)
            outputs = found[key][1]["outputs"] if key in found else {}
            found[key] = (step, entry | {"outputs": outputs | entry["outputs"]})
    yield from sorted(found.values(), key=lambda item: (item[1]["finished_utc"], item[0], str(item[1]["outputs"])))


def _files(results: Path) -> list[str]:
    names = (path.relative_to(results) for path in results.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(name.as_posix() for name in names if name.parts[0] not in _LEFT_OUT and name.name != METADATA)


def _properties(path: Path, name: str) -> dict[str, Any]:
    properties = {"name": name, "contentSize": str(path.stat().st_size)}
    if path.suffix in FORMATS:
        properties["encodingFormat"] = FORMATS[path.suffix]
    if name.startswith(("restored.", "fused.")):
        properties["description"] = RESTORED_NOTE
    return properties


def _add_step(
    crate: ROCrate, program: ContextEntity, files: Mapping[str, Any], results: Path, identifier: str, step: str, entry: Mapping[str, Any]
) -> None:
    inputs = [_entity(crate, files, results, path, digest) for paths in entry["inputs"].values() for path, digest in paths.items()]
    outputs = [_entity(crate, files, results, path, None) for paths in entry["outputs"].values() for path in paths]
    properties = {"@type": "CreateAction", "name": step, "endTime": entry["finished_utc"]}
    properties["description"] = json.dumps({name: entry[name] for name in ("parameters", "seed", "commit", "packages")}, sort_keys=True)
    crate.add_action(program, identifier, object=inputs, result=outputs, properties=properties)


def _entity(crate: ROCrate, files: Mapping[str, Any], results: Path, path: str, digest: str | None) -> Any:
    """The crate's own file, or for one that lies elsewhere an entry with its name and fingerprint, without the place where it lay."""
    for place in (Path(path), results.absolute().parents[1] / path):
        name = os.path.relpath(place, results)
        if name in files:
            if digest and not digest.startswith("sampled-"):
                files[name]["sha256"] = digest
            return files[name]
    identifier = f"#elsewhere-{digest or 'removed'}-{Path(path).name}"
    known = crate.get(identifier)
    if known is not None:
        return known
    properties = {"@type": "CreativeWork", "name": Path(path).name} | ({"identifier": digest} if digest else {})
    return crate.add(ContextEntity(crate, identifier, properties=properties))
