"""From particles without poses to a verdict: two halves of one structure, and two of noise."""

import numpy as np
import pytest
import torch

from cryorestore.ab_initio.agreement import correlation_in_sphere, last_shell_above
from cryorestore.ab_initio.alignment import align_maps, moved_map
from cryorestore.ab_initio.finding import find_poses
from cryorestore.ab_initio.judging import judge_poses
from cryorestore.files import read_json
from cryorestore.io.mrc import read_map
from cryorestore.masks import soft_sphere
from cryorestore.particles import ParticleTable
from helpers import BOX, PIXEL, blob_map, simulate_particles, write_particles

pytestmark = pytest.mark.slow

MASK = {"mask_radius": 36.0, "mask_edge": 8.0}
SEARCH = {**MASK, "bg_radius": 13.0, "shift_range": 4.0, "max_resolution": 10.0, "seeds": 1, "iterations": 24, "images": 60}


def find_both(folder, volume, *, signal):
    """Both halves from nothing, and the verdict; `signal` 0 leaves noise."""
    names = {}
    for half in (1, 2):
        here = folder / f"half{half}"
        here.mkdir()
        data = simulate_particles(300, sigma=1.0, seed=half, volume=volume * signal, shift=0.8)
        star = write_particles(here, data, extra={"rlnRandomSubset": np.full(300, half)})
        found = {f"half{half}_{name}": here / file for name, file in (("star", "found.star"), ("map", "found.mrc"), ("figures", "found.json"))}
        written = dict(zip(("found_star", "found_map", "figures_json"), found.values(), strict=True))
        find_poses(star=star, **written, class_averages=here / "classes.mrcs", work_dir=here / "work", seed=10 * half, **SEARCH)
        names |= found | {f"placed{half}_star": here / "placed.star", f"placed{half}_map": here / "placed.mrc"}
    judge_poses(**names, verdict_json=folder / "verdict.json", **MASK)
    return names, read_json(folder / "verdict.json")


def test_two_halves_of_a_structure_find_it_and_noise_is_no_reliable_map(tmp_path):
    volume = blob_map() * soft_sphere(BOX, 9, 3.0)
    (tmp_path / "structure").mkdir()
    (tmp_path / "noise").mkdir()
    names, verdict = find_both(tmp_path / "structure", volume, signal=1.2)
    maps = [torch.from_numpy(read_map(names[f"placed{half}_map"])[0]) for half in (1, 2)]
    to_truth = [correlation_in_sphere(volume, moved_map(part, align_maps(volume, part, max_shell=8)), radius_px=11) for part in maps]
    assert verdict["reliable"], verdict
    assert min(last_shell_above(curve) for curve in to_truth) >= verdict["wanted_shell"]
    one, two = (ParticleTable.read(names[f"placed{half}_star"]) for half in (1, 2))
    assert one.pixel_size == PIXEL
    assert set(one.halves()) | set(two.halves()) == {1, 2}
    _, nothing = find_both(tmp_path / "noise", volume, signal=0.0)
    assert not nothing["reliable"]
    assert "no reliable map" in nothing["statement"]
