"""From a job of RELION or cryoSPARC, or a bare table, to a dataset file in which every value says where it is from."""

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cryorestore.config import load_configuration
from cryorestore.config.paths import PROJECT_ROOT
from cryorestore.dataset_file import Entries, Sourced, data_root_entries, render_dataset
from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path
from cryorestore.findings import Finding, has_error, print_findings
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable
from cryorestore.preflight import judge_table
from cryorestore.project_entries import particle_sizes, symmetry_entries
from cryorestore.project_picks import Picks, picks_entries, read_bare_micrographs, read_picking_job
from cryorestore.project_readers import Job, read_bare_table, read_cryosparc_job, read_relion_job

DATASETS = PROJECT_ROOT / "config/datasets"
FEWEST_TO_LEARN_FROM = 500
"""Particles with poses below which a network has little to learn from."""


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
    particle_diameter: float | None = None,
    datasets_dir: str | Path = DATASETS,
    overwrite: bool = False,
    preflight: bool = True,
) -> Initialized:
    """Write `datasets_dir`/NAME.yaml for one job or table, and judge its particles where their images are there.

    Parameters
    ----------
    relion
        Folder of a RELION job, such as PROJECT/Refine3D/job012; also Extract, AutoPick, ManualPick or Import.
    cryosparc
        Folder of a cryoSPARC job, such as P12/J45.
    table
        A bare .star (of particles, or of micrographs with their picks beside them) or .cs; one of these three is given.
        Beside `relion`, a table that takes the place of the job's own.
    name
        Name of the data set; made from the folders' names without it.
    pixel_size
        Angstrom per px, overriding the table's.
    symmetry
        Point group, overriding the job's.
    particle_diameter
        Angstrom, overriding the job's.
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
    picks = _picks(relion, cryosparc, table)
    if picks is not None:
        path = _free_path(datasets_dir, name or _dataset_name(picks.name), overwrite)
        entries, missing, comments = picks_entries(picks, pixel_size=pixel_size, particle_diameter=particle_diameter)
        entries |= symmetry_entries(None, symmetry, missing)
        _write(path, entries, [*comments, *(f"Missing: {line}" for line in missing)])
        return Initialized(path, missing, [])
    job = _job(relion, cryosparc, table)
    if particle_diameter is not None:
        job = replace(job, particle_diameter=Sourced(particle_diameter, "--particle-diameter"))
    path = _free_path(datasets_dir, name or _dataset_name(job.name), overwrite)
    survey = _survey(job, pixel_size)
    entries, missing = _entries(job, survey, pixel_size_given=pixel_size is not None, symmetry=symmetry)
    _write(path, entries, _comments(job, survey, missing))
    findings: list[Finding] = []
    if preflight and survey.images_there and survey.pixel_size is not None:
        group = entries["symmetry"].value if "symmetry" in entries else "C1"
        findings = judge_table(survey.table, maps=job.half_maps, count=300, symmetry=group, seed=1)
    return Initialized(path, missing, findings)


def _picks(relion: str | Path | None, cryosparc: str | Path | None, table: str | Path | None) -> Picks | None:
    """Micrographs and picks, where the source has those and no particle images."""
    if cryosparc is not None or (relion is not None and table is not None):
        return None
    if table is not None:
        path = Path(table).absolute()
        return read_bare_micrographs(path) if path.is_file() else None
    picks = None if relion is None else read_picking_job(relion)
    if picks is None or picks.particles_star is None:
        return picks
    particles = ParticleTable.read(picks.particles_star, project_root=picks.root)
    try:
        return None if "rlnImageName" in particles.particles and particles.box_size else picks
    except CryorestoreError:
        return picks


def _free_path(datasets_dir: str | Path, name: str, overwrite: bool) -> Path:
    path = Path(datasets_dir) / f"{name}.yaml"
    if path.exists() and not overwrite:
        raise CryorestoreError(f"{path}: is there already; give another --name, or --overwrite to replace it")
    return path


def _write(path: Path, entries: Entries, comments: Sequence[str]) -> None:
    """Write the dataset file if the configuration that it makes is in order."""
    text = render_dataset(entries, comments=comments)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / path.name).write_text(text, encoding="utf-8")
        load_configuration({"datasets": [path.stem], "datasets_dir": folder})
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _job(relion: str | Path | None, cryosparc: str | Path | None, table: str | Path | None) -> Job:
    given = [source for source in (relion, cryosparc, table) if source is not None]
    if relion is not None and table is not None and len(given) == 2:
        return read_relion_job(relion, table=Path(table).absolute())
    if len(given) != 1:
        raise CryorestoreError(f"init: found {len(given)} sources, expected one of --relion FOLDER, --cryosparc FOLDER, or a .star or .cs file")
    if relion is not None:
        return read_relion_job(relion)
    return read_cryosparc_job(cryosparc) if cryosparc is not None else read_bare_table(given[0])


def _dataset_name(text: str) -> str:
    """Only letters, digits and hyphens: names of data sets stand in paths and wildcards."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") or "dataset"


def _survey(job: Job, pixel_size: float | None) -> Survey:
    table = ParticleTable.read(job.tables, pixel_size=pixel_size, project_root=job.root)
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
    entries |= particle_sizes(job, box_size=survey.box_size, pixel_size=survey.pixel_size)
    entries |= symmetry_entries(job.symmetry, symmetry, missing)
    return entries, missing


def _input_entries(job: Job) -> Entries:
    root = job.root.resolve()
    base, entries = data_root_entries(root)
    tables = [os.path.relpath(path.resolve(), base) for path in job.tables]
    entries["input.kind"] = Sourced(job.kind, "kind of the table")
    if job.kind == "star":
        entries["input.particles_star"] = Sourced(tables[0], "found in the job, below data_root")
    else:
        entries["input.cs"] = Sourced(tables, "found in the job, below data_root")
    entries["input.project_root"] = Sourced(os.path.relpath(root, base), "names in the table start from here")
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
    particle_diameter: float | None = None,
    datasets_dir: Path = DATASETS,
    overwrite: bool = False,
    preflight: bool = True,
) -> None:
    """Write a dataset file from a job or a table, say what is missing, and judge the particles; exit code 1 if they have an error.

    Parameters
    ----------
    table
        A bare .star (of particles, or of micrographs with their picks beside them) or .cs.
    relion
        Folder of a RELION job, such as PROJECT/Refine3D/job012; also Extract, AutoPick, ManualPick or Import.
    cryosparc
        Folder of a cryoSPARC job, such as P12/J45.
    name
        Name of the data set; made from the folders' names without it.
    pixel_size
        Angstrom per px, overriding the table's.
    symmetry
        Point group, overriding the job's.
    particle_diameter
        Angstrom, overriding the job's.
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
        particle_diameter=particle_diameter,
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
