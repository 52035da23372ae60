"""From a job of RELION or cryoSPARC, or a bare table, to a dataset file in which every value says where it is from."""

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryorestore.config import load_configuration
from cryorestore.config.loading import DEFAULTS, read_yaml
from cryorestore.config.paths import PROJECT_ROOT, project_path
from cryorestore.dataset_file import Entries, Sourced, render_dataset
from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path
from cryorestore.findings import Finding, has_error, print_findings
from cryorestore.io.mrc import read_map
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable
from cryorestore.preflight import judge_table
from cryorestore.preflight_particles import read_particles
from cryorestore.project_readers import Job, read_bare_table, read_cryosparc_job, read_relion_job

DATASETS = PROJECT_ROOT / "config/datasets"
FEWEST_TO_LEARN_FROM = 500
"""Particles with poses below which a network has little to learn from."""

_BACKGROUND = 0.375
"""Background radius as a share of the box where no diameter is known: RELION's default is a circle of 75 % of it."""


@dataclass(frozen=True)
class Initialized:
    """What was written, and what is left to do."""

    path: Path
    missing: list[str]
    findings: list[Finding]
    """of the preflight; empty where it could not run"""


@dataclass(frozen=True)
class Survey:
    """What the table says."""

    table: ParticleTable
    pixel_size: float | None
    box_size: int | None
    images_there: bool
    missing: list[str]


def initialize_project(
    *,
    relion: str | Path | None = None,
    cryosparc: str | Path | None = None,
    table: str | Path | None = None,
    name: str | None = None,
    pixel_size: float | None = None,
    symmetry: str | None = None,
    datasets_dir: str | Path = DATASETS,
    overwrite: bool = False,
    preflight: bool = True,
) -> Initialized:
    """Write `datasets_dir`/NAME.yaml for one job or table, and judge its particles where their images are there.

    Parameters
    ----------
    relion
        Folder of a RELION job, such as PROJECT/Refine3D/job012.
    cryosparc
        Folder of a cryoSPARC job, such as P12/J45.
    table
        A bare .star or .cs; one of these three is given.
    name
        Name of the data set; made from the folders' names without it.
    pixel_size
        Angstrom per px, overriding the table's.
    symmetry
        Point group, overriding the job's.
    datasets_dir
        Folder of the dataset files.
    overwrite
        Replace a file that is there.
    preflight
        Run the preflight.

    Raises
    ------
    CryorestoreError
        If not one source is given, the job has no particles, the table cannot be read, the file is there already, or the configuration
        that would be written is refused.
    """
    job = _job(relion, cryosparc, table)
    dataset = name or _dataset_name(job.name)
    path = Path(datasets_dir) / f"{dataset}.yaml"
    if path.exists() and not overwrite:
        raise CryorestoreError(f"{path}: is there already; give another --name, or --overwrite to replace it")
    survey = _survey(job, pixel_size)
    entries, missing = _entries(job, survey, pixel_size_given=pixel_size is not None, symmetry=symmetry)
    text = render_dataset(entries, comments=_comments(job, survey, missing))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{dataset}.yaml").write_text(text, encoding="utf-8")
        load_configuration({"datasets": [dataset], "datasets_dir": folder})
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    findings: list[Finding] = []
    if preflight and survey.images_there and survey.pixel_size is not None:
        group = entries["symmetry"].value if "symmetry" in entries else "C1"
        findings = judge_table(survey.table, maps=job.half_maps, count=300, symmetry=group, seed=1)
    return Initialized(path, missing, findings)


def _job(relion: str | Path | None, cryosparc: str | Path | None, table: str | Path | None) -> Job:
    given = [source for source in (relion, cryosparc, table) if source is not None]
    if len(given) != 1:
        raise CryorestoreError(f"init: found {len(given)} sources, expected one of --relion FOLDER, --cryosparc FOLDER, or a .star or .cs file")
    if relion is not None:
        return read_relion_job(relion)
    return read_cryosparc_job(cryosparc) if cryosparc is not None else read_bare_table(given[0])


def _dataset_name(text: str) -> str:
    """Only letters, digits and hyphens: names of data sets stand in paths and wildcards."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") or "dataset"


def _survey(job: Job, pixel_size: float | None) -> Survey:
    table = read_particles(job.tables, pixel_size=pixel_size, project_root=job.root)
    missing = list(job.missing)
    images_there = False
    box_size: int | None = None
    try:
        box_size = table.box_size
        images_there = True
    except CryorestoreError as error:
        missing.append(f"images: {str(error).splitlines()[0].split('; tried')[0]}")
        if "rlnImageSize" in table.optics and len(set(table.optics.ints("rlnImageSize").tolist())) == 1:
            box_size = int(table.optics.ints("rlnImageSize")[0])
    try:
        found: float | None = round(table.pixel_size, 6)
    except CryorestoreError as error:
        found = None
        missing.append(f"one pixel size: {error}")
    if box_size is None:
        missing.append("box: neither images nor optics tell it; set input.box_size, normalize.bg_radius and mask.radius")
    elif box_size % 2:
        missing.append(f"an even box: the images have {box_size} px; extract again, with an even box")
    return Survey(table, found, box_size, images_there, missing)


def _entries(job: Job, survey: Survey, *, pixel_size_given: bool, symmetry: str | None) -> tuple[Entries, list[str]]:
    """Every value that is known, with its source, and what is missing."""
    table, box_size, pixel_size = survey.table, survey.box_size, survey.pixel_size
    missing, said = list(survey.missing), job.tables[0].name
    entries: Entries = _input_entries(job)
    if pixel_size is not None:
        entries["input.pixel_size"] = Sourced(pixel_size, "--pixel-size" if pixel_size_given else f"optics of {said}, angstrom per px")
    if box_size is not None and box_size % 2 == 0:
        entries["input.box_size"] = Sourced(box_size, f"{'header of the stacks' if survey.images_there else f'optics of {said}'}, px")
    posed = int(table.has_poses.sum())
    entries["input.has_poses"] = Sourced(posed > 0, f"{posed} of {len(table)} rows of {said} have angles")
    if not posed:
        entries["denoisers"] = Sourced([], "no poses, so nothing can be reconstructed or restored")
        missing.append("poses: refine the particles; until then they are only normalized")
    elif posed < FEWEST_TO_LEARN_FROM:
        missing.append(f"particles: {posed} with poses are few to learn from; consider `denoisers: []`")
    halves = np.bincount(table.halves(), minlength=3)
    if posed and not halves[1:].all():
        missing.append("half-sets (rlnRandomSubset): the split will be drawn, but the poses are not independent between such halves")
    if "rlnDefocusU" not in table.particles:
        missing.append("CTF (rlnDefocusU): estimate it, or join it by micrograph")
    entries |= _size_entries(job, survey)
    entries |= _symmetry_entries(job, symmetry, missing)
    return entries, missing


def _input_entries(job: Job) -> Entries:
    defaults = read_yaml(PROJECT_ROOT / DEFAULTS, shown=DEFAULTS)
    standard = Path(project_path(os.environ.get("CRYORESTORE_DATA", defaults["data_root"]))).resolve()
    root = job.root.resolve()
    inside = root.is_relative_to(standard)
    base = standard if inside else root
    tables = [os.path.relpath(path.resolve(), base) for path in job.tables]
    entries: Entries = {} if inside else {"data_root": Sourced(str(root), "folder of the project")}
    entries["input.kind"] = Sourced(job.kind, "kind of the table")
    if job.kind == "star":
        entries["input.particles_star"] = Sourced(tables[0], "found in the job, below data_root")
    else:
        entries["input.cs"] = Sourced(tables, "found in the job, below data_root")
    entries["input.project_root"] = Sourced(os.path.relpath(root, base), "names in the table start from here")
    return entries


def _size_entries(job: Job, survey: Survey) -> Entries:
    """Background circle and mask, from the mask or the diameter or, failing both, from the box."""
    box_size, pixel_size, diameter = survey.box_size, survey.pixel_size, job.particle_diameter
    if box_size is None or pixel_size is None:
        return {}
    limit = box_size * pixel_size / 2
    if diameter is not None:
        radius, said = diameter.value / 2, f"particle diameter in {diameter.source}"
        bg_radius = min(round(radius / pixel_size), int(0.475 * box_size))
    else:
        radius, said = 2 * _BACKGROUND * limit, f"{2 * _BACKGROUND:.0%} of the box as a diameter: a guess"
        bg_radius = int(_BACKGROUND * box_size)
    background = Sourced(bg_radius, f"{said}, px")
    if job.mask is not None:
        radius, said = _mask_radius(job.mask.value, pixel_size), f"reach of {job.mask.value.name} ({job.mask.source})"
    return {"normalize.bg_radius": background, "mask.radius": Sourced(float(np.floor(10 * min(radius, limit)) / 10), f"{said}, angstrom")}


def _mask_radius(path: Path, pixel_size: float) -> float:
    """Distance (angstrom) of the farthest voxel in the mask from the box's centre."""
    mask, stated = read_map(path)
    inside = np.argwhere(mask > 0.5)
    if not len(inside):
        raise CryorestoreError(f"{path}: found no voxel above 0.5, expected a mask; remove it from the job's folder or make it again")
    return float(np.sqrt(((inside - np.array(mask.shape) // 2) ** 2).sum(1).max())) * (stated or pixel_size)


def _symmetry_entries(job: Job, symmetry: str | None, missing: list[str]) -> Entries:
    found = Sourced(symmetry, "--symmetry") if symmetry is not None else job.symmetry
    if found is None:
        missing.append("symmetry: C1 is taken; set symmetry if it is another")
        return {}
    group = {"I2": "I"}.get(str(found.value).upper(), str(found.value).upper())
    if not re.fullmatch(r"C[1-9][0-9]?|D[1-9][0-9]?|T|O|I", group):
        missing.append(f"symmetry: {found.value} ({found.source}) is none of Cn, Dn, T, O, I (= I2); bring the poses into one of these settings")
        return {}
    entries = {"symmetry": Sourced(group, found.source)}
    if group != "C1":
        entries["reconstruct.backend"] = Sourced("native", "has symmetry; cryodrgn would take each particle many times")
    return entries


def _comments(job: Job, survey: Survey, missing: Sequence[str]) -> list[str]:
    """What a reader of the dataset file should know and no key says."""
    halves = np.bincount(survey.table.halves(), minlength=3).tolist()
    lines = [f"Made by `cryorestore init` from {' and '.join(map(str, job.tables))}: {len(survey.table)} particles."]
    lines.append(f"Half-sets: {halves[1]} and {halves[2]} particles, {halves[0]} in none.")
    lines += [f"Half-map (the preflight compares with the mean of both; not an input): {path}" for path in job.half_maps]
    if job.mask is not None:
        lines.append(f"Mask (its reach is mask.radius; not an input): {job.mask.value}")
    return [*lines, *(f"Missing: {line}" for line in missing)]


def init(
    table: Path | None = None,
    *,
    relion: Path | None = None,
    cryosparc: Path | None = None,
    name: str | None = None,
    pixel_size: float | None = None,
    symmetry: str | None = None,
    datasets_dir: Path = DATASETS,
    overwrite: bool = False,
    preflight: bool = True,
) -> None:
    """Write a dataset file from a job or a table, say what is missing, and judge the particles; exit code 1 if they have an error.

    Parameters
    ----------
    table
        A bare .star or .cs.
    relion
        Folder of a RELION job, such as PROJECT/Refine3D/job012.
    cryosparc
        Folder of a cryoSPARC job, such as P12/J45.
    name
        Name of the data set; made from the folders' names without it.
    pixel_size
        Angstrom per px, overriding the table's.
    symmetry
        Point group, overriding the job's.
    datasets_dir
        Folder of the dataset files.
    overwrite
        Replace a file that is there.
    preflight
        Run the preflight.
    """
    done = initialize_project(
        relion=relion,
        cryosparc=cryosparc,
        table=table,
        name=name,
        pixel_size=pixel_size,
        symmetry=symmetry,
        datasets_dir=datasets_dir,
        overwrite=overwrite,
        preflight=preflight,
    )
    print(f"{done.path} is written; run it with `--config datasets='[{done.path.stem}]'`")
    for line in done.missing:
        print(f"missing: {line}")
    if done.findings:
        print_findings(done.findings)
    if has_error(done.findings):
        get_logger().error("preflight: an error is found; mend it before the pipeline runs")
        raise SystemExit(1)
