"""The lanes of the general restorer's benchmark. All but it, BM3D and Topaz are told by the truth how to do their best: they are oracles."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from particles import BOX, Particles
from torch import Tensor

from cryorestore.baselines.covariance import CovarianceFilter
from cryorestore.baselines.low_pass import low_pass
from cryorestore.baselines.peers import PeerProgram
from cryorestore.baselines.wiener import wiener_filter
from cryorestore.general.restorer import GeneralRestorer, Restored
from cryorestore.masks import soft_disc

LANES = ("raw", "low-pass", "wiener", "wiener-masked", "cwf", "bm3d", "topaz", "general", "general-no-ctf")
EXTERNAL = ("bm3d", "topaz")
"""Lanes whose program may be missing."""
MODULES = {
    "raw": ("masks",),
    "low-pass": ("baselines.low_pass",),
    "wiener": ("baselines.wiener",),
    "wiener-masked": ("baselines.wiener", "masks"),
    "cwf": ("baselines.covariance",),
    "bm3d": ("baselines.peer_worker",),
    "topaz": ("baselines.peer_worker",),
    "general": ("general.restorer",),
    "general-no-ctf": ("general.restorer",),
}
"""Modules of the library that a lane runs."""
EDGE = 3.0


def restore(lane: str, particles: Particles, *, weights: Path | None, peer_python: str) -> tuple[Tensor, Restored | None, float]:
    """Restored images, all that the general restorer says, and processor seconds (seconds, of a lane that is another program)."""
    clock = time.monotonic if lane in EXTERNAL else time.process_time
    if lane.startswith("general"):
        restorer = GeneralRestorer.load(weights, device="cpu")
        ctf = None if lane == "general-no-ctf" else particles.ctf
        restorer.restore(particles.images[:64], None if ctf is None else ctf[:64])  # what is compiled at the first batch is no cost of a particle
        started = clock()
        restored = restorer.restore(particles.images, ctf)
        return restored.mean, restored, clock() - started
    started = clock()
    images = _classical(lane, particles, peer_python)
    return images, None, clock() - started


def _classical(lane: str, particles: Particles, peer_python: str) -> Tensor:
    images, spectra = particles.images, {"signal_power": particles.signal_power, "noise_power": particles.noise_power}
    if lane == "raw":
        return images
    if lane == "low-pass":
        return _best((low_pass(images, shell=shell) for shell in range(1, BOX // 2)), particles.clean)
    if lane == "wiener":
        return wiener_filter(images, particles.ctf, **spectra)
    if lane == "wiener-masked":
        filtered = wiener_filter(images, particles.ctf, **spectra)
        return _best((filtered * soft_disc(BOX, radius, EDGE) for radius in range(8, BOX // 2)), particles.clean)
    if lane == "cwf":
        return _cwf(particles)
    return _sized(PeerProgram(lane, python=str(Path(peer_python).absolute()), noise_power=particles.noise_power), images)


def _cwf(particles: Particles) -> Tensor:
    """The covariance of the particles of this cell alone, noise power known."""
    learned = CovarianceFilter([(particles.images, particles.ctf)], noise_power=particles.noise_power)
    return learned(particles.images, particles.ctf)


def _best(candidates: Iterable[Tensor], clean: Tensor) -> Tensor:
    """Whichever is nearest to the truth, over the set."""
    return min(candidates, key=lambda images: float((images - clean).square().sum()))


def _sized(program: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.cat([program(part) for part in images.split(64)])
