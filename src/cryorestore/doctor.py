"""What this machine has and lacks for a run, on one page, each lack with its mend."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from cryorestore import __version__
from cryorestore.cluster import check_status_query
from cryorestore.config import Configuration, check_inputs
from cryorestore.config.paths import program_path, project_path
from cryorestore.disk import bytes_text, free_bytes
from cryorestore.errors import CryorestoreError
from cryorestore.findings import Finding

LEAST_MEMORY, LEAST_DISK = 6 * 10**9, 5 * 10**9
"""bytes; what the demo and its environments need"""
PACKAGES = ("numpy", "scipy", "numba", "mrcfile", "safetensors", "diffusers", "snakemake", "snakemake-executor-plugin-slurm")
RELION = ("relion_reconstruct", "relion_image_handler", "relion_refine")
_SECONDS = 20


def examine_machine(configuration: Configuration) -> list[Finding]:
    """Look at everything that a run may ask of the machine; nothing is changed.

    Parameters
    ----------
    configuration
        Its results folder, programs and input files are looked at.

    Returns
    -------
    findings
        "ok"; "warning": some runs need it; "error": no run works, or this one does not.
    """
    looks: tuple[Callable[[Configuration], Iterator[Finding]], ...] = (_python, _packages, _torch, _memory, _disk, _programs, _cluster, _data)
    return [finding for look in looks for finding in look(configuration)]


def _python(_: Configuration) -> Iterator[Finding]:
    recent = sys.version_info >= (3, 11)
    yield Finding(
        "ok" if recent else "error",
        "Python",
        f"{platform.python_version()} in {sys.prefix}; cryorestore {__version__}",
        "" if recent else "Python 3.11 or later: make setup PYTHON=/path/to/python3.11",
    )


def _packages(_: Configuration) -> Iterator[Finding]:
    versions = {name: _version(name) for name in PACKAGES}
    missing = [name for name, version in versions.items() if version is None]
    found = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield Finding("error" if missing else "ok", "packages", found, f"missing: {', '.join(missing)}; make setup" if missing else "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch(_: Configuration) -> Iterator[Finding]:
    if _version("torch") is None:
        yield Finding("error", "torch", "not installed", "make setup")
        return
    import torch

    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        found = ", ".join(f"{card.name} with {bytes_text(card.total_memory)}" for card in cards)
        yield Finding("ok", "torch and GPU", f"torch {torch.__version__}; {found}", "")
        return
    driver = shutil.which("nvidia-smi") is not None
    mend = (
        "there is a driver: install a CUDA build of torch, or ask the scheduler for a GPU"
        if driver
        else "run on a machine with an NVIDIA GPU; on the CPU training is slow in large boxes"
    )
    yield Finding("warning", "torch and GPU", f"torch {torch.__version__}; no GPU that it can use; {torch.get_num_threads()} threads", mend)


def _memory(_: Configuration) -> Iterator[Finding]:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    enough = total >= LEAST_MEMORY
    cores = len(os.sched_getaffinity(0))
    mend = "" if enough else f"the demo needs {bytes_text(LEAST_MEMORY)}: lower compute.batch_size, run one job at a time (--cores 1)"
    yield Finding("ok" if enough else "warning", "cores and memory", f"{cores} cores of {os.cpu_count()}, {bytes_text(total)}", mend)


def _disk(configuration: Configuration) -> Iterator[Finding]:
    folder = Path(project_path(configuration.results))
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        yield Finding("error", "results", f"{folder} cannot be written", "set results to a folder that can be, or give this user the right to it")
        return
    free = free_bytes(folder)
    enough = free >= LEAST_DISK
    mend = "" if enough else "make room, or set results to another disk; cryorestore check-disk says what a run writes"
    yield Finding("ok" if enough else "warning", "results", f"{folder}, {bytes_text(free)} free", mend)


def _programs(configuration: Configuration) -> Iterator[Finding]:
    used = {settings["reconstruct"]["backend"] for settings in configuration.settings.values()}
    first = next(iter(configuration.settings.values()))["programs"]
    for backend, mend in (
        ("cryodrgn", "make setup makes .venv-peers with it"),
        ("relion_reconstruct", "apt-get install relion, or module load relion"),
    ):
        program = program_path(first[backend])
        found = shutil.which(program)
        needed = backend.removesuffix("_reconstruct") in used
        level = "ok" if found else "error" if needed else "warning"
        wanted = "this run reconstructs with it" if needed else "no data set of this run reconstructs with it"
        mend = "" if found else f"{mend}; or set programs.{backend}, or reconstruct.backend: native"
        yield Finding(level, backend, f"{found or f'{program} is not found'}; {wanted}", mend)  # type: ignore[arg-type]
    relion = [name for name in RELION if shutil.which(name)]
    absent = ", ".join(name for name in RELION if name not in relion)
    found_words = f"{', '.join(relion) or 'none of its programs'} on PATH" + (f"; not found: {absent}" if absent else "")
    mend = "apt-get install relion, or module load relion; only its own tests and what follows the External job need it"
    yield Finding("warning" if absent else "ok", "RELION", found_words, mend if absent else "")
    conda = next((path for name in ("mamba", "conda") if (path := shutil.which(name))), None)
    mend = "install Miniforge, or module load conda; only --sdm conda needs it, make setup does without"
    yield Finding("ok" if conda else "warning", "conda", conda or "neither mamba nor conda is on PATH", "" if conda else mend)


def _cluster(_: Configuration) -> Iterator[Finding]:
    if shutil.which("sbatch") is None:
        yield Finding(
            "warning", "SLURM", "no sbatch on PATH", "log in to a machine that submits, or module load slurm; only --profile profiles/slurm needs it"
        )
        return
    answer = _said("sinfo", "--noheader", "--format=%P %a %D")
    if not answer:
        yield Finding("warning", "SLURM", "sbatch is there, and sinfo names no partition", "run sinfo by hand: its message says why")
        return
    try:
        doubts = check_status_query(None)
    except CryorestoreError as error:
        yield Finding("warning", "SLURM", f"partitions: {'; '.join(answer.splitlines())}", str(error))
        return
    yield Finding("warning" if doubts else "ok", "SLURM", f"partitions: {'; '.join(answer.splitlines())}", " ".join(doubts))


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _data(configuration: Configuration) -> Iterator[Finding]:
    for name, settings in configuration.settings.items():
        try:
            check_inputs(Configuration(**{**vars(configuration), "settings": {name: settings}}))
        except CryorestoreError as error:
            yield Finding("error", f"data set {name}", "input files are missing", str(error))
        else:
            where = "simulated" if settings["input"]["kind"] == "simulation" else f"below {project_path(settings['data_root'])}"
            yield Finding("ok", f"data set {name}", f"input files are there, {where}", "")
