"""Seeds that belong to a particle, not to the batch or the file position it is met in."""

from collections.abc import Sequence
from hashlib import blake2b

from cryorestore.particles import ParticleTable


def particle_identities(table: ParticleTable) -> list[str]:
    """A name that stays with a particle from step to step: the first image name it had."""
    name = "rlnImageOriginalName" if "rlnImageOriginalName" in table.particles else "rlnImageName"
    return table.particles.column(name)


def derived_seeds(seed: int, identities: Sequence[str]) -> list[int]:
    """One seed (56 bits) for each identity, from a hash of `seed` and the identity."""
    return [int.from_bytes(blake2b(f"{seed}:{identity}".encode(), digest_size=7).digest(), "big") for identity in identities]
