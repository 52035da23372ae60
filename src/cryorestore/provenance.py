"""What a result was made from and with: written beside it, the one place where times stand."""

import fcntl
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from cryorestore import __version__
from cryorestore.files import read_json, write_json

Paths = str | Path | Sequence[str | Path]

_PACKAGES = ("numpy", "scipy", "torch", "mrcfile", "safetensors", "diffusers", "snakemake")
_WHOLE_BYTES = 64 << 20
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 20


def write_provenance(
    path: str | Path,
    *,
    step: str,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, Paths],
    outputs: Mapping[str, Paths],
    seed: int | None,
) -> None:
    """Add a step's entry to a provenance JSON, keeping those of other steps; two steps may do so at the same time.

    Parameters
    ----------
    path
        provenance.json of the result directory.
    step
        Name of the step, the key of its entry.
    parameters
        Keyword arguments of the step that are not files.
    inputs, outputs
        Files by name, one or several a name; inputs are fingerprinted (see `file_fingerprint`).
    seed
        None where the step draws nothing.
    """
    entry = {
        "version": __version__,
        "commit": code_commit(),
        "packages": {"python": platform.python_version()} | {name: _package_version(name) for name in _PACKAGES},
        "finished_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": {name: str(value) if isinstance(value, Path) else value for name, value in parameters.items()},
        "inputs": {name: {str(file): file_fingerprint(file) for file in _files(paths)} for name, paths in inputs.items()},
        "outputs": {name: [str(file) for file in _files(paths)] for name, paths in outputs.items()},
        "seed": seed,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        known = read_json(path) if path.exists() else {}
        write_json(path, known | {step: entry})


def file_fingerprint(path: str | Path) -> str:
    """SHA-256 of a file up to 64 MiB; of a longer one, "sampled-" and that of its size and of 64 evenly spaced MiB.

    Of a folder: that of its files' names and fingerprints.
    """
    path = Path(path)
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path)}\0{file_fingerprint(file)}\n".encode())
        return digest.hexdigest()
    size = path.stat().st_size
    with path.open("rb") as handle:
        if size <= _WHOLE_BYTES:
            return hashlib.file_digest(handle, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode())
        for sample in range(_SAMPLES):
            handle.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
            digest.update(handle.read(_SAMPLE_BYTES))
    return f"sampled-{digest.hexdigest()}"


@cache
def code_commit() -> str | None:
    """Git commit of the library's folder, with "+changes" where tracked files differ from it; None outside a repository."""
    folder = Path(__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    return commit + "+changes" * bool(_git(folder, "status", "--porcelain", "--untracked-files=no")) if commit else None


def _git(folder: Path, *arguments: str) -> str:
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _files(paths: Paths) -> list[str | Path]:
    return [paths] if isinstance(paths, str | Path) else list(paths)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold an advisory lock on a folder, which leaves no file behind."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
