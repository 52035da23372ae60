"""Reconstruction by `relion_reconstruct`, called as a program."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import read_map
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct.maps import HalfMaps


def reconstruct_relion(table: ParticleTable, *, symmetry: str, program: str, threads: int, scratch: Path) -> HalfMaps:
    """Run relion_reconstruct three times: on all particles, and on those at odd and even places."""
    executable = shutil.which(program or "relion_reconstruct")
    if executable is None:
        raise CryorestoreError(
            f"programs.relion_reconstruct: found {program!r}, which is no program here; install RELION, set its path, or use another backend (native)"
        )
    stacks, file_id, index = table.image_locations()
    names = [f"{number + 1:06d}@{Path(stacks[stack]).resolve()}" for stack, number in zip(file_id, index, strict=True)]
    absolute = table.with_columns({"rlnImageName": names})
    places = np.arange(len(table))
    maps = []
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".relion-") as folder:
        for name, rows in (("full", places), ("odd", places[::2]), ("even", places[1::2])):
            star, volume = Path(folder) / f"{name}.star", Path(folder) / f"{name}.mrc"
            absolute.take(rows).write(star)
            command = [executable, "--i", str(star), "--o", str(volume), "--ctf", "--sym", symmetry, "--angpix", f"{table.pixel_size:.6f}"]
            done = subprocess.run(
                [*command, "--j", str(threads)], env=os.environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
            )
            get_logger().info("%s", done.stdout[-2000:])
            if done.returncode != 0:
                raise CryorestoreError(f"relion_reconstruct ended with code {done.returncode}; its last words: {done.stdout[-800:]}")
            maps.append(torch.from_numpy(read_map(volume)[0]))
    return HalfMaps(*maps)
