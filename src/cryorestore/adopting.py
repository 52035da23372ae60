"""Poses that were found go on to reconstruction and restoration, and to other programs."""

import shutil
from pathlib import Path

from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path, files_together, read_json
from cryorestore.joining import join_particles
from cryorestore.logs import get_logger


@files_together()
def adopt_poses(
    *,
    verdict_json: str | Path,
    placed1_star: str | Path,
    placed2_star: str | Path,
    source_star: str | Path,
    half1_star: str | Path,
    half2_star: str | Path,
    joined_star: str | Path,
    joined_cs: str | Path,
    refuse: bool = True,
) -> None:
    """Hand the poses found on to reconstruction and restoration, if the map is reliable.

    Parameters
    ----------
    verdict_json, placed1_star, placed2_star
        What `judge_poses` wrote.
    half1_star, half2_star
        Written: the two tables.
    source_star
        The table that was split.
    joined_star, joined_cs
        Written: both halves in its order, with poses and half-sets, for RELION, cryoDRGN and cryoSPARC to go on from.
    refuse
        End the run where there is no reliable map; otherwise warn only.

    Raises
    ------
    CryorestoreError
        If the verdict is "no reliable map" and `refuse` is set.
    """
    verdict = read_json(verdict_json)
    if not verdict["reliable"]:
        said = f"{verdict_json}: {verdict['statement']}"
        if refuse:
            raise CryorestoreError(f"{said}; no resolution is reported. Give more particles or poses, try other seeds, or set poses.refuse to false")
        get_logger().warning("%s; the run goes on, for poses.refuse is false", said)
    join_particles(half1_star=placed1_star, half2_star=placed2_star, source_star=source_star, joined_star=joined_star, joined_cs=joined_cs)
    for source, target in ((placed1_star, half1_star), (placed2_star, half2_star)):
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
