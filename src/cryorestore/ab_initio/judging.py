"""Are the maps that two halves found apart one map? Only then are there poses to go on with, and a resolution to speak of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryorestore.ab_initio.agreement import THRESHOLD, correlation_in_sphere, last_shell_above
from cryorestore.ab_initio.alignment import MapMove, align_maps, moved_map
from cryorestore.errors import CryorestoreError
from cryorestore.files import files_together, read_json, write_json
from cryorestore.geometry import matrices_to_euler
from cryorestore.io.mrc import read_map, write_map
from cryorestore.io.relion import ANGLES
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable

DETAIL = 5.0
"""The halves have to agree to a resolution of the particle's diameter over this"""
_WITH_EVIDENCE = 0.5
"""Share of held-out particles that the own half's map has to explain better than noise does"""
HAND = "the data alone cannot tell a map from its mirror image"


@files_together()
def judge_poses(
    *,
    half1_star: str | Path,
    half2_star: str | Path,
    half1_map: str | Path,
    half2_map: str | Path,
    half1_figures: str | Path,
    half2_figures: str | Path,
    placed1_star: str | Path,
    placed2_star: str | Path,
    placed1_map: str | Path,
    placed2_map: str | Path,
    verdict_json: str | Path,
    reference_map: str | Path | None = None,
    mask_radius: float,
    mask_edge: float,
    symmetry: str = "C1",
) -> None:
    """Lay the map of half 2 onto that of half 1, of either hand, and say whether they are one map.

    Only the frame passes from one half to the other: a rotation, a shift and the hand. With a reference map both are laid onto it, half by half;
    nothing else is taken from it.

    Parameters
    ----------
    half1_star, half2_star, half1_map, half2_map, half1_figures, half2_figures
        What `find_poses` wrote for either half.
    placed1_star, placed2_star, placed1_map, placed2_map
        Written: the same in one frame.
    verdict_json
        Written: whether the map is reliable, and if not, why not; the correlation of the two maps, the moves and the hand.
    reference_map
        A map of the structure, whose frame and hand are taken; None = those of half 1.
    mask_radius, mask_edge
        Sphere that holds the particle, angstrom.
    symmetry
        Point group in RELION's setting.

    Raises
    ------
    CryorestoreError
        If the maps differ in box or pixel size.
    """
    first, second = _read(half1_map), _read(half2_map)
    pixel_size = ParticleTable.read(half1_star).pixel_size
    if first.shape != second.shape:
        raise CryorestoreError(f"{half2_map}: found a box of {len(second)} px, expected that of {half1_map}, {len(first)} px; find both anew")
    figures = [read_json(path) for path in (half1_figures, half2_figures)]
    max_shell = min(int(figure["max_shell"]) for figure in figures)
    target = first if reference_map is None else _read(reference_map)
    moves = [align_maps(target, volume, symmetry=symmetry, max_shell=max_shell) for volume in (first, second)]
    if reference_map is None:
        moves[0] = MapMove(np.eye(3), np.zeros(3), False, 1.0, moves[0].other_hand)
    placed = [moved_map(volume, move) for volume, move in zip((first, second), moves, strict=True)]
    radius_px = min((mask_radius + mask_edge) / pixel_size, 0.46 * len(first))
    curve = correlation_in_sphere(placed[0], placed[1], radius_px=radius_px)[: max_shell + 1]
    verdict = verdict_of(curve, figures, diameter_px=2 * mask_radius / pixel_size, box_size=len(first))
    verdict |= {
        "start": figures[0]["start"],
        "hand": f"{'that of half 1' if reference_map is None else 'that of the reference map'}: {HAND}",
        "moves": [_move_figures(move, pixel_size) for move in moves],
        "box_width": len(first) * pixel_size,
    }
    for move, volume, source, star, path in zip(
        moves, placed, (half1_star, half2_star), (placed1_star, placed2_star), (placed1_map, placed2_map), strict=True
    ):
        placed_table(ParticleTable.read(source), move, pixel_size=pixel_size).write(star)
        write_map(path, volume.numpy(), pixel_size=pixel_size)
    write_json(verdict_json, verdict)
    get_logger().info("%s", verdict["statement"])


def verdict_of(correlation: Tensor, figures: list[Mapping[str, Any]], *, diameter_px: float, box_size: int) -> dict[str, Any]:
    """Whether two halves found one map.

    Parameters
    ----------
    correlation
        FSC of their maps after alignment, up to the last shell that was compared.
    figures
        What `find_poses` told of each half.
    diameter_px
        Of the particle. Aligned blobs agree up to about twice its inverse whatever they are, and two views of a wrong basin a little farther;
        the halves have to agree to `DETAIL` times its inverse.
    box_size
        Px.
    """
    agreed, wanted = last_shell_above(correlation), int(np.ceil(DETAIL * box_size / diameter_px))
    doubts = []
    if len(correlation) <= wanted:
        doubts.append(f"the search ended at shell {len(correlation) - 1}, expected {wanted} at least; set poses.max_resolution finer")
    elif agreed < wanted:
        doubts.append(f"the halves' maps agree to shell {agreed} only (FSC {THRESHOLD}), expected {wanted} at least")
    for half, figure in enumerate(figures, start=1):
        explained = figure["passes"][-1]["with_evidence"]
        if explained < _WITH_EVIDENCE:
            doubts.append(f"half {half}: {100 * explained:.0f} % of the held-out particles are explained better than by noise, expected over half")
        rivals = [seed for seed in figure["seeds"] if seed["as_good_as_best"] and seed["agreed_shell"] < min(wanted, 6)]
        if rivals:
            doubts.append(f"half {half}: {len(rivals)} other seeds found another map that is as good by evidence")
    reliable = not doubts
    return {
        "reliable": reliable,
        "statement": "the two halves found one map" if reliable else f"no reliable map: {'; '.join(doubts)}",
        "doubts": doubts,
        "agreed_shell": agreed,
        "wanted_shell": wanted,
        "correlation": correlation.tolist(),
    }


def placed_table(table: ParticleTable, move: MapMove, *, pixel_size: float) -> ParticleTable:
    """The table with its poses in the frame of the moved map."""
    rotations = move.rotations(table.rotation_matrices())
    shifts = move.shifts_px(rotations, -table.origins() / pixel_size)
    angles = dict(zip(ANGLES, matrices_to_euler(rotations).T, strict=True))
    return table.with_columns(angles | {"rlnOriginXAngst": -shifts[:, 0] * pixel_size, "rlnOriginYAngst": -shifts[:, 1] * pixel_size})


def _read(path: str | Path) -> Tensor:
    return torch.from_numpy(read_map(path)[0])


def _move_figures(move: MapMove, pixel_size: float) -> dict[str, Any]:
    return {
        "rotation": float(np.degrees(np.arccos(np.clip((np.trace(move.rotation) - 1) / 2, -1, 1)))),
        "shift": (move.shift_px * pixel_size).tolist(),
        "mirrored": move.mirrored,
        "correlation": move.correlation,
        "correlation_other_hand": move.other_hand,
    }
