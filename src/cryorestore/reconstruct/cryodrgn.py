"""Reconstruction by cryoDRGN's `backproject_voxel`, called as a program (it is GPL-3 and never imported)."""

import os
import pickle
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.geometry import symmetry_matrices
from cryorestore.io.mrc import read_map
from cryorestore.io.star import StarBlock, write_star
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct.maps import HalfMaps


def reconstruct_cryodrgn(table: ParticleTable, *, symmetry: str, program: str, threads: int, scratch: Path) -> HalfMaps:
    """Write cryoDRGN's inputs, run it, read its maps; its own half-maps (alternating places) become the odd and even maps.

    cryoDRGN knows no symmetry, so every particle is listed once for each rotation of the point group.
    """
    if table.ctf_premultiplied:
        raise CryorestoreError(
            f"{table.path}: rlnCtfDataAreCtfPremultiplied is 1, expected 0: the backend cryodrgn would apply the CTF twice; use relion or native"
        )
    executable = shutil.which(program or "cryodrgn")
    if executable is None:
        raise CryorestoreError(
            f"programs.cryodrgn: found {program!r}, which is no program here; install it (make demo does, into .venv-peers), "
            "set its path, or use another backend (reconstruct: backend: native)"
        )
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".cryodrgn-") as folder:
        work = Path(folder)
        _write_inputs(table, symmetry, work)
        command = [executable, "backproject_voxel", str(work / "particles.star"), "--poses", str(work / "poses.pkl"), "--ctf", str(work / "ctf.pkl")]
        command += ["-o", str(work / "out"), "--no-fsc-vals", "--lazy", "--batch-size", "256"]
        _run(command, threads)
        maps = [torch.from_numpy(read_map(work / "out" / name)[0]) for name in ("backproject.mrc", "half_map_a.mrc", "half_map_b.mrc")]
    return HalfMaps(*maps)


def _write_inputs(table: ParticleTable, symmetry: str, work: Path) -> None:
    operators = symmetry_matrices(symmetry)
    count, order = len(table), len(operators)
    box_size, pixel_size = table.box_size, table.pixel_size
    # particle p at place 2k or 2k+1 keeps its parity for every operator: cryoDRGN's halves alternate by place
    expanded = _alternating(count, order)
    stacks, file_id, index = table.image_locations()
    names = [f"{index[row] + 1:06d}@{Path(stacks[file_id[row]]).resolve()}" for row in expanded[0]]
    block = StarBlock(["rlnImageName", "rlnPhaseShift"], [f"{name} 0.000000" for name in names])
    write_star(work / "particles.star", {"particles": block})
    rotations = table.rotation_matrices()[expanded[0]] @ operators[expanded[1]]
    # cryoDRGN multiplies row vectors (x, y, 0) with its matrix, so that RELION's Euler matrix is its own
    shifts = table.origins()[expanded[0]] / (pixel_size * box_size)
    parameters = table.ctf_parameters().take(expanded[0])
    columns = [
        np.full(len(names), float(box_size)),
        np.full(len(names), pixel_size),
        parameters.defocus_u,
        parameters.defocus_v,
        parameters.defocus_angle,
    ]
    columns += [parameters.voltage, parameters.spherical_aberration, parameters.amplitude_contrast, parameters.phase_shift]
    (work / "poses.pkl").write_bytes(pickle.dumps((rotations, shifts)))
    (work / "ctf.pkl").write_bytes(pickle.dumps(np.stack(columns, 1).astype(np.float32)))


def _alternating(count: int, order: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and operators such that a particle's copies all stand at places of its own parity; a lone last particle is left at the end."""
    rows, operators = [], []
    for first in range(0, count - 1, 2):
        for operator in range(order):
            rows += [first, first + 1]
            operators += [operator, operator]
    if count % 2:
        rows += [count - 1] * order
        operators += list(range(order))
    return np.array(rows), np.array(operators)


def _run(command: list[str], threads: int) -> None:
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env={**os.environ, **environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    get_logger().info("%s", done.stdout[-4000:])
    if done.returncode != 0:
        raise CryorestoreError(f"{' '.join(command[:2])} ended with code {done.returncode}; its last words: {done.stdout[-800:]}")
