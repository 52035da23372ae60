"""Particles whose grey scale is far from that of the others in their micrograph: carbon, ice, a hot pixel, a broken box."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.particles import ParticleTable

FEWEST = 10
"""Particles of a group below which none of them is judged: a median absolute deviation of fewer says too little."""

_NORMAL_MAD = 1.4826
"""Sigma of a normal distribution over its median absolute deviation."""


def outlier_groups(table: ParticleTable) -> NDArray[np.int64]:
    """Number of each particle's group, shape (n,): its micrograph and, where rlnRandomSubset says it, its half-set.

    So no particle of one half has a say in what is an outlier in the other, where the halves are known already.

    Raises
    ------
    CryorestoreError
        If the table does not say the micrographs.
    """
    if "rlnMicrographName" not in table.particles:
        raise CryorestoreError(
            f"{table.path}: column _rlnMicrographName is missing, expected it for outlier_sigma: a particle is judged among those of its micrograph; "
            "add the column, or set normalize.outlier_sigma to null"
        )
    numbers: dict[tuple[str, int], int] = {}
    pairs = zip(table.micrograph_names(), table.halves().tolist(), strict=True)
    return np.array([numbers.setdefault(pair, len(numbers)) for pair in pairs], np.int64)


def find_outliers(values: Mapping[str, NDArray[np.float64]], groups: NDArray[np.int64], *, outlier_sigma: float) -> list[str]:
    """Say of every particle why it is an outlier in its group; "" where it is none.

    A value is one if it is further than `outlier_sigma` robust sigmas (1.4826 median absolute deviations) from its group's median.

    Parameters
    ----------
    values
        What is judged, by name, each (n,); NaN is never an outlier and counts for nothing.
    groups
        (n,); groups with fewer than `FEWEST` finite values are not judged.
    outlier_sigma
        In robust sigmas.
    """
    reasons = [""] * len(groups)
    order = np.argsort(groups, kind="stable")
    bounds = np.flatnonzero(np.diff(groups[order])) + 1
    for rows in np.split(order, bounds):
        for name, all_values in values.items():
            known = rows[np.isfinite(all_values[rows])]
            if len(known) < FEWEST:
                continue
            here = all_values[known]
            middle = np.median(here)
            spread = _NORMAL_MAD * np.median(np.abs(here - middle))
            if spread == 0:
                continue
            distance = (here - middle) / spread
            for place in np.flatnonzero(np.abs(distance) > outlier_sigma).tolist():
                row = int(known[place])
                reasons[row] = reasons[row] or (
                    f"outlier: {name} {here[place]:.4g} is {distance[place]:+.1f} robust sigmas from its micrograph's median {middle:.4g}"
                )
    return reasons
