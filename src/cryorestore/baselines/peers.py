"""Denoisers of other projects, as programs of their own: their licences and their packages stay outside of this library."""

import os
import subprocess
from pathlib import Path
from typing import IO

import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.baselines.peer_worker import Images, receive, send
from cryorestore.errors import CryorestoreError

PEERS = ("topaz", "bm3d")
"""Names of the programs: Topaz-Denoise (GPL-3) and BM3D (no commercial use)."""


class PeerProgram:
    """One program, started when the first images come and ended with this object.

    Parameters
    ----------
    name
        Of PEERS.
    python
        The Python in whose environment the package is installed.
    noise_power
        Per shell 0 .. box // 2, orthonormal transform; Topaz does not look at it.
    """

    def __init__(self, name: str, *, python: str, noise_power: Float[Tensor, "shells"]) -> None:
        self.name, self._python, self._noise_power = name, python, noise_power
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, images: Float[Tensor, "n box box"]) -> Float[Tensor, "n box box"]:
        """Restore normalized particles.

        Raises
        ------
        CryorestoreError
            If the program is not there, or ends.
        """
        if self._process is None:
            self._process = self._started()
        return torch.from_numpy(self._exchange(self._process, images.numpy()))

    def _started(self) -> "subprocess.Popen[bytes]":
        worker = Path(__file__).with_name("peer_worker.py")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        try:
            process = subprocess.Popen([self._python, str(worker), self.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        except OSError as error:
            raise CryorestoreError(
                f"{self._python}: cannot be started ({error}); set programs.peer_python to a Python that has {self.name}"
            ) from error
        self._exchange(process, self._noise_power.double().numpy())
        return process

    def _exchange(self, process: "subprocess.Popen[bytes]", array: Images) -> Images:
        try:
            send(_pipe(process.stdin), array)
            answer = receive(_pipe(process.stdout))
        except OSError:
            answer = None
        if answer is None:
            raise CryorestoreError(
                f"{self.name}: the program ended with code {process.wait()}, what it said stands above; install the package where {self._python} "
                "finds it, or leave the method out"
            )
        return answer

    def __del__(self) -> None:
        if self._process is not None:
            _pipe(self._process.stdin).close()
            _pipe(self._process.stdout).close()
            self._process.wait()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise ValueError("a program without pipes")
    return pipe
