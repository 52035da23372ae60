"""Crossing resolution against the number of particles: data get better with more of them, belief does not."""

from collections.abc import Sequence
from pathlib import Path

import torch

from cryorestore.controls.pictures import draw_points
from cryorestore.controls.restoring import Comparison, chosen_rows, map_of
from cryorestore.controls.result import ControlResult, Null
from cryorestore.files import files_together
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct.step import used_rows

_CROSSING = 0.143
_LEAST_CHANGE = 0.05
"""Least relative change of the raw crossing from which on there is something to compare with."""


@files_together()
def control_particle_number(
    *,
    half1_star: str | Path,
    half2_star: str | Path,
    restored1_star: str | Path,
    restored2_star: str | Path,
    control: str | Path,
    picture: str | Path,
    method: str,
    shares: Sequence[float] = (0.125, 0.25, 0.5, 1.0),
    threshold: float = 0.5,
    mask_radius: float,
    mask_edge: float,
    threads: int = 1,
    seed: int = 1,
) -> None:
    """Reconstruct from fewer and fewer of the restored particles, and of the same raw ones, and see where their half-maps cross 0.143.

    Every particle was restored with what its whole half knows. Passed: from all particles to the fewest the restored crossing
    gets worse by at least `threshold` of what the raw one does. A crossing that stays where it was is the restorer's, not the particles'.

    Parameters
    ----------
    half1_star, half2_star, restored1_star, restored2_star
        Raw and restored particles of both halves, row by row.
    control, picture
        Outputs (JSON, SVG).
    method
        Its name.
    shares
        Shares of each half's accepted particles, rising.
    threshold
        Least change of the restored crossing over that of the raw one.
    mask_radius, mask_edge
        Soft sphere for the FSC, angstrom.
    threads, seed
        As in `restore_particles`.
    """
    torch.set_num_threads(threads)
    raw = [ParticleTable.read(star) for star in (half1_star, half2_star)]
    restored = [ParticleTable.read(star) for star in (restored1_star, restored2_star)]
    candidates = [used_rows(table) for table in restored]
    compared = Comparison(raw[0].pixel_size, mask_radius, mask_edge)
    crossings: dict[str, list[float]] = {"raw": [], "restored": []}
    counts = []
    for share in shares:
        rows = [chosen_rows(own, max(1, round(share * len(own))), seed=seed) for own in candidates]
        counts.append(min(map(len, rows)))
        for name, tables in (("raw", raw), ("restored", restored)):
            maps = [map_of(table, own, torch.from_numpy(table.load_images(own))) for table, own in zip(tables, rows, strict=True)]
            curve = compared.fsc(*maps)
            crossings[name].append(curve.resolution(_CROSSING) or 2 * compared.pixel_size)
    _judge(method, counts, crossings, threshold).write(control, picture=picture)
    curves = {name: (counts, values) for name, values in crossings.items()}
    draw_points(curves, picture, xlabel="particles a half", ylabel="half-map FSC 0.143 (Å)")


def _judge(method: str, counts: Sequence[int], crossings: dict[str, list[float]], threshold: float) -> ControlResult:
    change = {name: values[0] / values[-1] - 1 for name, values in crossings.items()}
    comparable = change["raw"] >= _LEAST_CHANGE
    score = change["restored"] / change["raw"] if comparable else None
    text = f"from {counts[-1]} to {counts[0]} particles a half, raw half-maps go from {crossings['raw'][-1]:.2f} to {crossings['raw'][0]:.2f} Å, "
    text += f"restored ones from {crossings['restored'][-1]:.2f} to {crossings['restored'][0]:.2f} Å"
    return ControlResult(
        name="particle_number",
        method=method,
        score=score,
        score_text="change of the restored crossing with the number of particles, over that of the raw one",
        threshold=threshold,
        null=Null("a crossing that comes from the particles alone changes as the raw one does", 1.0),
        verdict="not judged" if score is None else "passed" if score >= threshold else "failed",
        text=text,
        details={"particles": list(counts), **crossings},
    )
