"""What makes a particle the same particle, whatever rows stand beside it; and numbers drawn from that alone."""

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from cryorestore.particles import ParticleTable
from cryorestore.picks import HAS_POSE


def particle_identities(table: ParticleTable) -> list[str]:
    """The identities of all particles; see `iter_identities`."""
    return list(iter_identities(table))


def iter_identities(table: ParticleTable) -> Iterator[str]:
    """One text a particle: micrograph and coordinates, and, unless the particles were extracted here, the name of the original image.

    The number of an image in a stack that was extracted here is no part of it, for it changes when another pick is dropped.
    """
    names = ["rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY"]
    extracted_here = HAS_POSE in table.particles and all(name in table.particles for name in names)
    if not extracted_here:
        names.insert(0, "rlnImageOriginalName" if "rlnImageOriginalName" in table.particles else "rlnImageName")
    present = [name for name in names if name in table.particles]
    if present:
        yield from map("|".join, table.particles.cells(*present))


def identity_hash(identity: str, *, seed: int, purpose: str) -> int:
    """A number of 64 bits, evenly spread, that depends on these three alone."""
    return int.from_bytes(blake2b(f"{seed}|{purpose}|{identity}".encode(), digest_size=8).digest(), "little")


def identity_fractions(identities: list[str], *, seed: int, purpose: str) -> NDArray[np.float64]:
    """`identity_hash` of each particle as a number in [0, 1), shape (n,)."""
    return np.array([identity_hash(identity, seed=seed, purpose=purpose) / 2**64 for identity in identities], np.float64)
