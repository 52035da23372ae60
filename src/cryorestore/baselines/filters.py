"""Methods without a network that look at one particle at a time, by name: particles in, restored particles out."""

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import numpy as np
from torch import Tensor

from cryorestore.baselines.covariance import CovarianceFilter
from cryorestore.baselines.low_pass import cutoff_shell, low_pass
from cryorestore.baselines.peers import PEERS, PeerProgram
from cryorestore.baselines.wiener import wiener_filter
from cryorestore.errors import CryorestoreError
from cryorestore.masks import soft_disc
from cryorestore.particles import ParticleTable
from cryorestore.project import FourierVolume
from cryorestore.reconstruct.step import HOLDOUT_COLUMN
from cryorestore.reference import Reference, images_with_ctf

Value = TypeVar("Value")
FILTERS = ("low_pass", "wiener_masked", "cwf", "projection", *PEERS)
"""Names; "wiener", without the mask, is a condition of the networks and made in `cryorestore.conditions`."""
POSED_FILTERS = ("projection",)
"""Those that look at the given pose."""

Filter = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(images (b, box, box), ctf (b, box, half), rotations (b, 3, 3), shifts px (b, 2)) -> restored images (b, box, box), CTF applied."""


def build_filter(
    name: str,
    reference: Reference,
    *,
    mask_radius: float | None = None,
    mask_edge: float = 12.0,
    particles: ParticleTable | None = None,
    peer_python: str | None = None,
) -> Filter:
    """Prepare one of FILTERS for the particles of the half that `reference` belongs to.

    Parameters
    ----------
    mask_radius, mask_edge
        Soft disc of "wiener_masked", angstrom.
    particles
        The half's particles, whose covariance "cwf" measures; those held out are not looked at.
    peer_python
        The Python that has Topaz or BM3D.

    Raises
    ------
    CryorestoreError
        If the name is unknown, or what it needs was not given.
    """
    if name == "low_pass":
        shell = cutoff_shell(reference.signal_power, reference.noise_power)
        return lambda images, ctf, rotations, shifts: low_pass(images, shell=shell)
    if name == "wiener_masked":
        radius, pixel_size = _given(mask_radius, name, "mask_radius"), reference.pixel_size
        mask = soft_disc(reference.volume.shape[-1], radius / pixel_size, mask_edge / pixel_size)
        signal_power, noise_power = reference.signal_power, reference.noise_power
        return lambda images, ctf, rotations, shifts: wiener_filter(images, ctf, signal_power=signal_power, noise_power=noise_power, mask=mask)
    if name == "cwf":
        return _covariance(_given(particles, name, "particles"), reference)
    if name == "projection":
        return _projection(reference)
    if name in PEERS:
        program = PeerProgram(name, python=_given(peer_python, name, "peer_python"), noise_power=reference.noise_power)
        return lambda images, ctf, rotations, shifts: program(images)
    raise CryorestoreError(f"filter: found {name!r}, expected one of {', '.join(FILTERS)}; change the method's condition")


def _covariance(particles: ParticleTable, reference: Reference) -> Filter:
    """The covariance Wiener filter; particles are looked at when the first image comes, after it is known that they belong to the reference."""

    @cache
    def measured() -> CovarianceFilter:
        held_out = HOLDOUT_COLUMN in particles.particles
        table = particles.take(np.flatnonzero(particles.particles.ints(HOLDOUT_COLUMN) == 0)) if held_out else particles
        return CovarianceFilter(images_with_ctf(table), noise_power=reference.noise_power)

    return lambda images, ctf, rotations, shifts: measured()(images, ctf)


def _projection(reference: Reference) -> Filter:
    """The half's map at the given pose, whatever the image shows: what every restoration is tempted to be."""
    slicer = FourierVolume(reference.volume, max_shell=reference.max_shell)
    coefficients = slicer.coefficients

    def project(images: Tensor, ctf: Tensor, rotations: Tensor, shifts: Tensor) -> Tensor:
        return coefficients.to_images(slicer.slices(rotations) * coefficients.select(ctf) * coefficients.shift_phases(shifts))

    return project


def _given(value: Value | None, name: str, keyword: str) -> Value:
    if value is None:
        raise CryorestoreError(f"{keyword}: found none, expected one: the method {name} needs it")
    return value
