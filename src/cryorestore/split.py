"""Half-sets that are never mixed, and the particles held out of training, both by the particle's identity alone."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.files import files_together
from cryorestore.identity import identity_fractions, particle_identities
from cryorestore.logs import get_logger
from cryorestore.particles import REASON, ParticleTable
from cryorestore.picks import HAS_POSE
from cryorestore.posed import posed_rows

HOLDOUT = "rlnCryorestoreHoldout"
ROW = "rlnCryorestoreRow"
FEW_PARTICLES = 10


@files_together()
def split_particles(
    *,
    star: str | Path,
    half1_star: str | Path,
    half2_star: str | Path,
    unposed1_star: str | Path,
    unposed2_star: str | Path,
    holdout_fraction: float = 0.1,
    ignore_poses: bool = False,
    seed: int = 0,
) -> None:
    """Divide a table into two half-sets.

    rlnRandomSubset is kept where it is 1 or 2. Where it is absent or 0, the half is drawn from `seed` and the particle's identity, so
    that it does not move when other rows are dropped; so is rlnCryorestoreHoldout.

    Parameters
    ----------
    star
        Particles.
    half1_star, half2_star
        Written: particles with poses (or all), in the order of `star`, with rlnRandomSubset, rlnCryorestoreHoldout (1: never trained on) and
        rlnCryorestoreRow (row in `star`, from 0).
    unposed1_star, unposed2_star
        Written: particles without poses, likewise (no holdout), with their reason; perhaps without rows.
    holdout_fraction
        Share of each half that is held out; if none falls below it, one particle is.
    ignore_poses
        All particles go into `half1_star` and `half2_star`, posed or not: their poses are to be found.
    seed
        Of both draws.

    Raises
    ------
    CryorestoreError
        If rlnRandomSubset is none of 0, 1, 2, the fraction is not in [0, 1), a half has no particle with a pose, or a particle is in both halves.
    """
    if not 0 <= holdout_fraction < 1:
        raise CryorestoreError(f"holdout_fraction: found {holdout_fraction}, expected a share from 0 to below 1; choose for example 0.1")
    table = ParticleTable.read(star)
    identities = particle_identities(table)
    halves = table.halves()
    absent = halves == 0
    halves = np.where(absent, 1 + (identity_fractions(identities, seed=seed, purpose="half") >= 0.5), halves)
    posed = np.ones(len(table), bool) if ignore_poses else posed_rows(table)
    _check_counts(table, halves, posed)
    draws = identity_fractions(identities, seed=seed, purpose="holdout")
    _check_repeated(table, identities, halves, draws)
    table = table.with_columns({"rlnRandomSubset": halves, ROW: np.arange(len(table))})
    table = ParticleTable(table.particles.without_columns([HAS_POSE]), table.optics, table.path)
    for half, half_star, unposed_star in ((1, half1_star, unposed1_star), (2, half2_star, unposed2_star)):
        rows = np.flatnonzero(posed & (halves == half))
        held = _held_out(draws[rows], holdout_fraction)
        table.take(rows).with_columns({HOLDOUT: held.astype(np.int64)}).write(half_star)
        unposed = np.flatnonzero(~posed & (halves == half))
        table.take(unposed).with_columns({REASON: ["no pose"] * len(unposed)}).write(unposed_star)
        get_logger().info("half %d: %d particles, %d of them held out; %d without a pose apart", half, len(rows), int(held.sum()), len(unposed))
    source = "drawn" if absent.all() else f"kept from rlnRandomSubset, {int(absent.sum())} drawn" if absent.any() else "kept from rlnRandomSubset"
    get_logger().info("half-sets %s", source)


def _check_counts(table: ParticleTable, halves: NDArray[np.int64], posed: NDArray[np.bool_]) -> None:
    for half in (1, 2):
        count = int((posed & (halves == half)).sum())
        if count == 0:
            raise CryorestoreError(
                f"{table.path}: half {half} has 0 particles with poses ({int(posed.sum())} of {len(table)} have one), expected some in either; "
                "add poses, or remove rlnRandomSubset to draw the halves anew"
            )
        if count < FEW_PARTICLES:
            get_logger().warning("%s: half %d has only %d particles with poses", table.path, half, count)


def _check_repeated(table: ParticleTable, identities: list[str], halves: NDArray[np.int64], draws: NDArray[np.float64]) -> None:
    """Rows of one particle (symmetry expansion, joined tables) are allowed within a half; across the halves they make the two maps alike.

    Equal identities have equal draws, by which they are found; the few that draw the same by chance are told apart by their text.
    """
    order = np.argsort(draws, kind="stable")
    pairs = [(int(order[at]), int(order[at + 1])) for at in np.flatnonzero(np.diff(draws[order]) == 0).tolist()]
    same = [(one, other) for one, other in pairs if identities[one] == identities[other]]
    for one, other in same:
        if halves[one] != halves[other]:
            raise CryorestoreError(
                f"{table.path}: rows {one + 1} and {other + 1}: one particle ({identities[one]}) has rlnRandomSubset {halves[one]} and "
                f"{halves[other]}, expected all its rows in one half; remove one row, or remove rlnRandomSubset to draw the halves anew"
            )
    if same:
        one, other = same[0]
        get_logger().warning("%s: %d rows name a particle again (first: rows %d and %d); all are kept", table.path, len(same), one + 1, other + 1)


def _held_out(draws: NDArray[np.float64], fraction: float) -> NDArray[np.bool_]:
    held = draws < fraction
    if fraction > 0 and not held.any():
        held[np.argmin(draws)] = True
    return held
