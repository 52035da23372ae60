"""What lies in the folder of a RELION or a cryoSPARC job, found by name; no pixel is read."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryorestore.dataset_file import Sourced
from cryorestore.errors import CryorestoreError
from cryorestore.files import read_json
from cryorestore.io.star import read_star

_RUN_JOB_KEYS = {
    "symmetry": "sym_name",
    "point group symmetry": "sym_name",
    "mask diameter (a)": "particle_diameter",
    "reference mask (optional)": "fn_mask",
}
"""Labels of RELION 3.0's run.job, and what RELION 3.1's job.star calls them."""


@dataclass(frozen=True)
class Job:
    """The files and options of one job."""

    kind: str
    """`star` or `cryosparc`, as input.kind"""
    name: str
    root: Path
    """the project's folder, that names in the table start from"""
    tables: list[Path]
    """one STAR file, or a .cs and its passthrough files"""
    symmetry: Sourced | None = None
    particle_diameter: Sourced | None = None
    """angstrom"""
    half_maps: tuple[Path, ...] = ()
    mask: Sourced | None = None
    """path of a mask that is there"""
    missing: tuple[str, ...] = ()


def read_relion_job(folder: str | Path, *, table: Path | None = None) -> Job:
    """Look at a job such as PROJECT/Refine3D/job012; `table` takes the place of the job's own.

    Raises
    ------
    CryorestoreError
        If there is no such folder, or no table of particles in it.
    """
    folder = Path(folder).absolute()
    root = folder.parent.parent
    found = table or _relion_table(folder)
    options, source = relion_options(folder)
    missing = [] if options else [f"job.star or run.job in {folder}: symmetry and particle diameter are not known from the job"]
    stem = "run" if found.name == "run_data.star" else found.name.removesuffix("_data.star")
    half_maps = _pair(folder, [(f"{stem}_half{half}_class001_unfil.mrc", f"{stem}_half{half}_class001.mrc") for half in (1, 2)])
    diameter = options.get("particle_diameter", "")
    return Job(
        kind="star",
        name=f"{root.name}-{folder.name}",
        root=root,
        tables=[found],
        symmetry=Sourced(options["sym_name"], source) if options.get("sym_name") else None,
        particle_diameter=Sourced(float(diameter), source) if re.fullmatch(r"\d+(\.\d*)?", diameter) and float(diameter) else None,
        half_maps=half_maps,
        mask=_relion_mask(folder, root, options, source),
        missing=tuple(missing),
    )


def _relion_table(folder: Path) -> Path:
    if not folder.is_dir():
        raise CryorestoreError(f"{folder}: is no folder, expected a RELION job such as PROJECT/Refine3D/job012; correct --relion")
    for name in ("run_data.star", "shiny.star", "particles.star"):
        if (folder / name).is_file():
            return folder / name
    iterations = sorted(folder.glob("run*_it*_data.star"), key=lambda path: (_number(r"_it(\d+)_data", path.name), path.name))
    if not iterations:
        expected = "run_data.star, run_itNNN_data.star, particles.star or shiny.star"
        raise CryorestoreError(f"{folder}: no table of particles, expected {expected}; name the job that wrote the particles")
    return iterations[-1]


def _number(pattern: str, name: str) -> int:
    match = re.search(pattern, name)
    return int(match[1]) if match else -1


def relion_options(folder: Path) -> tuple[dict[str, str], str]:
    """Options by RELION 3.1's names, and the file that they are from."""
    job_star, run_job = folder / "job.star", folder / "run.job"
    if job_star.is_file():
        block = read_star(job_star).blocks.get("joboptions_values")
        if block is not None:
            return dict(zip(block.column("rlnJobOptionVariable"), block.column("rlnJobOptionValue"), strict=True)), job_star.name
    options = {}
    if run_job.is_file():
        for line in run_job.read_text(encoding="utf-8", errors="replace").splitlines():
            label, _, value = line.partition("==")
            name = _RUN_JOB_KEYS.get(label.strip().rstrip(":").strip().lower())
            if name:
                options[name] = value.strip()
    return options, run_job.name


def _relion_mask(folder: Path, root: Path, options: dict[str, str], source: str) -> Sourced | None:
    names = [(options.get("fn_mask", ""), source)]
    pipeline = folder / "job_pipeline.star"
    if pipeline.is_file():
        edges = read_star(pipeline).blocks.get("pipeline_input_edges")
        nodes = edges.column("rlnPipeLineEdgeFromNode") if edges is not None and len(edges) else []
        names += [(name, pipeline.name) for name in nodes if "mask" in Path(name).name.lower()]
    return next((Sourced(root / name, said) for name, said in names if name and (root / name).is_file()), None)


def read_cryosparc_job(folder: str | Path, *, table: Path | None = None) -> Job:
    """Look at a job such as P12/J45; `table` takes the place of the job's own.

    Raises
    ------
    CryorestoreError
        If there is no such folder, or no particles .cs in it.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise CryorestoreError(f"{folder}: is no folder, expected a cryoSPARC job such as P12/J45; correct --cryosparc")
    files = sorted(folder.glob("*.cs"), key=lambda path: (_number(r"_(\d{3,})_", path.name), path.name))
    particles = [path for path in files if re.search(r"particles(_selected|_exported)?\.cs$", path.name)]
    own = [table] if table else [path for path in particles if "passthrough" not in path.name][-1:]
    passthrough = [path for path in particles if "passthrough" in path.name and path not in own][-1:]
    if not own and not passthrough:
        raise CryorestoreError(f"{folder}: no *_particles.cs, expected a job that has particles as output; name that job")
    options, missing = _cryosparc_options(folder)
    symmetry = next((Sourced(value, f"{key} in job.json") for key, value in options.items() if key.endswith("symmetry") and value), None)
    half_maps = _pair(folder, [(f"*map_half_{half}.mrc",) for half in "AB"])
    masks = _last(folder, ("*mask_refine.mrc", "*volume_mask*.mrc", "*mask*.mrc"))
    return Job(
        kind="cryosparc",
        name=f"{folder.parent.name}-{folder.name}",
        root=folder.parent,
        tables=[*own, *passthrough],
        symmetry=symmetry,
        half_maps=half_maps,
        mask=Sourced(masks, "by its name in the job's folder") if masks else None,
        missing=tuple(missing),
    )


def _cryosparc_options(folder: Path) -> tuple[dict[str, Any], list[str]]:
    path = folder / "job.json"
    if not path.is_file():
        return {}, [f"job.json in {folder}: the symmetry is not known from the job"]
    content = read_json(path)
    given = content.get("params_spec", {}) if isinstance(content, dict) else {}
    return {key: entry.get("value") if isinstance(entry, dict) else entry for key, entry in given.items()}, []


def _pair(folder: Path, patterns: Iterable[tuple[str, ...]]) -> tuple[Path, ...]:
    """One file for each half, or nothing."""
    found = [_last(folder, choices) for choices in patterns]
    present = tuple(path for path in found if path is not None)
    return present if len(present) == len(found) else ()


def _last(folder: Path, patterns: tuple[str, ...]) -> Path | None:
    """The last by iteration and name of what the first pattern with a match finds."""
    for pattern in patterns:
        matches = sorted(folder.glob(pattern), key=lambda path: (_number(r"_(\d{3,})_", path.name), path.name))
        if matches:
            return matches[-1]
    return None


def read_bare_table(path: str | Path) -> Job:
    """Take a STAR file or .cs by itself; one that lies in a job's folder is taken with that job.

    Raises
    ------
    CryorestoreError
        If there is no such file.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise CryorestoreError(f"{path}: does not exist, expected a .star or .cs; for a job's folder use --relion or --cryosparc")
    folder = path.parent
    if path.suffix == ".cs" and re.fullmatch(r"J\d+", folder.name):
        return read_cryosparc_job(folder, table=path)
    if path.suffix == ".star" and re.fullmatch(r"job\d+", folder.name):
        return read_relion_job(folder, table=path)
    return Job(kind="cryosparc" if path.suffix == ".cs" else "star", name=path.stem, root=folder, tables=[path])
