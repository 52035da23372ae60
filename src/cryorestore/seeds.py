"""Seeds that belong to a particle, not to the batch or the file position it is met in."""

from collections.abc import Sequence

from cryorestore.identity import identity_hash


def derived_seeds(seed: int, identities: Sequence[str], *, purpose: str) -> list[int]:
    """One seed (63 bits) for each identity, for one purpose."""
    return [identity_hash(identity, seed=seed, purpose=purpose) >> 1 for identity in identities]
