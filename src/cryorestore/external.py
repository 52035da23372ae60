"""cryorestore as an "External" job of RELION 3.1: started from its GUI, its results entered into the project's pipeline.

RELION calls an executable in the project's folder with `--o External/jobNNN/`, `--in_parts` and other inputs, the parameters of the job's tab, and
`--j`. The job says what it made in RELION_OUTPUT_NODES.star, and how it ended by an empty file; RELION asks it to stop by RELION_JOB_ABORT_NOW.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import yaml
from cyclopts import Parameter

from cryorestore.config.loading import read_yaml
from cryorestore.config.paths import PROJECT_ROOT
from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path
from cryorestore.importing import import_particles
from cryorestore.io.star import StarBlock, write_star
from cryorestore.logs import get_logger
from cryorestore.project_init import initialize_project

PARTICLES, HALF_MAP = 3, 10
"""RELION 3.1's numbers for kinds of nodes"""
ABORT_NOW = "RELION_JOB_ABORT_NOW"
EXIT = {"success": "RELION_JOB_EXIT_SUCCESS", "failure": "RELION_JOB_EXIT_FAILURE", "aborted": "RELION_JOB_EXIT_ABORTED"}
SETTINGS, DATASET = "cryorestore.yaml", "relion"
EXPECTED = "particles with poses, such as Refine3D/job012/run_data.star"
_SECONDS_BETWEEN_LOOKS = 1.0


class Aborted(Exception):
    """RELION, or a signal, asked the job to stop."""


def relion_external(
    *,
    out: Annotated[Path, Parameter(name="--o")],
    in_parts: Annotated[Path | None, Parameter(name="--in_parts")] = None,
    in_3dref: Annotated[Path | None, Parameter(name="--in_3dref")] = None,
    in_mask: Annotated[Path | None, Parameter(name="--in_mask")] = None,
    in_mics: Annotated[Path | None, Parameter(name="--in_mics")] = None,
    in_movies: Annotated[Path | None, Parameter(name="--in_movies")] = None,
    in_coords: Annotated[Path | None, Parameter(name="--in_coords")] = None,
    cores: Annotated[int, Parameter(name="--j")] = 1,
    pipeline_control: Annotated[Path | None, Parameter(name="--pipeline_control")] = None,
    symmetry: str | None = None,
    particle_diameter: Annotated[float | None, Parameter(name=["--particle_diameter", "--particle-diameter"])] = None,
    configfile: Path | None = None,
) -> None:
    """Restore the particles of a RELION job as an External job of the same project; see docs/relion.md.

    Started again with the same folder it goes on where it stopped.

    Parameters
    ----------
    out
        The job's folder, External/jobNNN; everything is written there.
    in_parts
        Particles with poses, such as Refine3D/job012/run_data.star.
    in_3dref
        A map that the results are compared with. Nothing is learned from it, for it is made of both halves.
    in_mask
        Mask of the FSC curves.
    in_mics
        Refused, for micrographs have no poses.
    in_movies
        Refused likewise.
    in_coords
        Refused likewise.
    cores
        Processes at a time.
    pipeline_control
        Where RELION looks for the file that says how the job ended; without it, in the job's folder.
    symmetry
        Point group, overriding that of the job that wrote the particles.
    particle_diameter
        Angstrom, overriding that of the job that wrote the particles.
    configfile
        What differs from config/config.yaml for this job, as for `snakemake --configfile`.

    Raises
    ------
    CryorestoreError
        If the particles cannot be used, or a step fails; its message is on stderr and in the job's logs folder.
    """
    control = out if pipeline_control is None else pipeline_control
    out.mkdir(parents=True, exist_ok=True)
    for name in EXIT.values():
        (control / name).unlink(missing_ok=True)
    ending = "failure"
    try:
        with _signals_raise():
            for option, given in (("in_mics", in_mics), ("in_movies", in_movies), ("in_coords", in_coords)):
                if given is not None:
                    raise CryorestoreError(f"--{option}: found {given}, expected particles with poses; give --in_parts and leave this field empty")
            if in_parts is None:
                raise CryorestoreError(f"--in_parts is missing, expected {EXPECTED}")
            _write_settings(
                out, in_parts, reference=in_3dref, mask=in_mask, symmetry=symmetry, particle_diameter=particle_diameter, configfile=configfile
            )
            _run_chain(out, cores=cores, control=control)
            _enter_results(out)
            ending = "success"
    except Aborted as reason:
        ending = "aborted"
        get_logger().error("stopped: %s; started again, the job goes on where it was", reason)
        raise SystemExit(1) from None
    finally:
        (control / EXIT[ending]).touch()


def _write_settings(
    out: Path,
    in_parts: Path,
    *,
    reference: Path | None,
    mask: Path | None,
    symmetry: str | None,
    particle_diameter: float | None,
    configfile: Path | None,
) -> None:
    """Write the job's dataset file, from the job that wrote the particles where it is one, and what differs in this run."""
    folder = in_parts.absolute().parent
    is_job = any((folder / name).is_file() for name in ("job.star", "run.job"))
    initialize_project(
        relion=folder if is_job else None,
        table=in_parts,
        name=DATASET,
        symmetry=symmetry,
        particle_diameter=particle_diameter,
        datasets_dir=out / "datasets",
        overwrite=True,
        preflight=False,
    )
    written = out / f"datasets/{DATASET}.yaml"
    if not read_yaml(written, shown=str(written))["input"].get("has_poses", True):
        raise CryorestoreError(f"{in_parts}: found no particle with a pose, expected {EXPECTED}; refine them first")
    settings = {} if configfile is None else read_yaml(configfile, shown=str(configfile))
    settings |= {"datasets": [DATASET], "datasets_dir": str((out / "datasets").absolute()), "results": "results"}
    if reference is not None:
        settings["input"] = settings.get("input", {}) | {"reference_map": str(reference.absolute())}
    if mask is not None:
        settings["fsc"] = settings.get("fsc", {}) | {"mask": str(mask.absolute())}
    with atomic_path(out / SETTINGS) as temporary:
        temporary.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def _run_chain(out: Path, *, cores: int, control: Path) -> None:
    """Run Snakemake in the job's folder until it ends, or is asked to stop."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT_ROOT / "Snakefile"), "--directory", str(out.absolute())]
    command += ["--profile", str(PROJECT_ROOT / "profiles/local"), "--configfile", str((out / SETTINGS).absolute()), "--cores", str(cores)]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            while process.poll() is None:
                if (control / ABORT_NOW).exists():
                    raise Aborted(f"{control / ABORT_NOW} is there")
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        except Aborted:
            process.send_signal(signal.SIGINT)
            process.wait()
            (control / ABORT_NOW).unlink(missing_ok=True)
            raise
    if process.returncode:
        raise CryorestoreError(f"{out}: a step failed (Snakemake ended with code {process.returncode}); its message stands above and in {out}/logs")


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM, which schedulers send, and Ctrl-C end the job as RELION's own request does.

    Snakemake has a session of its own: it hears of a Ctrl-C from this process alone, and once.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise Aborted(f"received {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _enter_results(out: Path) -> None:
    """Name the results as RELION finds them: stacks from the project's folder, half-maps by the names that its own jobs give them."""
    results = out / "results" / DATASET
    nodes: list[tuple[Path, int]] = []
    for table in sorted(results.glob("restored.*/particles.star")):
        star = out / f"{table.parent.name}_particles.star"
        import_particles(particles=table, star=star, project_root=out)
        nodes.append((star, PARTICLES))
    for half in (1, 2):
        half_map = out / f"raw_half{half}_class001_unfil.mrc"
        half_map.unlink(missing_ok=True)
        os.link(results / f"raw/half{half}/map.mrc", half_map)
        nodes.append((half_map, HALF_MAP))
    columns = {"rlnPipeLineNodeName": [os.path.relpath(path) for path, _ in nodes], "rlnPipeLineNodeType": [str(kind) for _, kind in nodes]}
    write_star(out / "RELION_OUTPUT_NODES.star", {"output_nodes": StarBlock.from_columns(columns)})
