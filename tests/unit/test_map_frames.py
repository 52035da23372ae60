"""Maps that were found apart are laid onto each other, and their poses with them."""

import math

import numpy as np
import pytest
import torch

from cryorestore.ab_initio.alignment import MapMove, align_maps, moved_map, own_rotations
from cryorestore.ab_initio.volumes import resized_map
from cryorestore.fsc import fourier_shell_correlation
from cryorestore.geometry import random_rotations, symmetry_matrices
from cryorestore.masks import soft_sphere
from cryorestore.project import FourierVolume
from helpers import BOX, PIXEL, blob_map


@pytest.fixture(scope="module")
def volume():
    return blob_map() * soft_sphere(BOX, 9, 3.0)


def move_of(seed, *, mirrored, shift=1.5):
    generator = np.random.default_rng(seed)
    return MapMove(random_rotations(1, generator)[0], generator.uniform(-shift, shift, 3), mirrored, 1.0, 0.0)


@pytest.mark.parametrize("mirrored", [False, True])
def test_poses_go_with_the_map_that_is_moved(volume, mirrored):
    move = move_of(3, mirrored=mirrored)
    rotations = random_rotations(5, np.random.default_rng(1))
    shifts = np.random.default_rng(2).uniform(-2, 2, (5, 2))
    there = move.rotations(rotations)
    slicers = FourierVolume(volume, max_shell=8), FourierVolume(moved_map(volume, move), max_shell=8)
    before, after = (
        slicer.slices(torch.from_numpy(matrices).float()) * slicer.coefficients.shift_phases(torch.from_numpy(offsets).float())
        for slicer, matrices, offsets in zip(slicers, (rotations, there), (shifts, move.shifts_px(there, shifts)), strict=True)
    )
    assert float((before - after).abs().square().sum() / before.abs().square().sum()) < 0.01


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_map_is_laid_back_onto_itself_and_its_hand_is_found(volume, mirrored):
    moved = moved_map(volume, move_of(5, mirrored=mirrored))
    found = align_maps(volume, moved, max_shell=8)
    assert found.mirrored == mirrored
    assert found.correlation > 0.98 > found.other_hand
    curve = fourier_shell_correlation(volume, moved_map(moved, found), pixel_size=PIXEL)
    assert float(curve.correlation[1:8].min()) > 0.95


@pytest.mark.parametrize("symmetry", ["C3", "D2", "T", "O"])
def test_with_symmetry_the_axes_stay_where_they_are(volume, symmetry):
    group = symmetry_matrices(symmetry)
    symmetric = torch.stack([moved_map(volume, MapMove(element, np.zeros(3), False, 1.0, 0.0)) for element in group]).mean(0)
    found = align_maps(symmetric, moved_map(symmetric, MapMove(np.eye(3), np.zeros(3), True, 1.0, 0.0)), symmetry=symmetry, max_shell=8)
    turned = found.rotation @ group @ found.rotation.T
    assert all(np.abs(element - group).max((1, 2)).min() < 1e-6 for element in turned)
    assert found.correlation > 0.95


@pytest.mark.parametrize("symmetry", ["C1", "C4", "D3"])
def test_the_rotations_that_leave_a_map_as_it_is_are_its_point_group(volume, symmetry):
    group = symmetry_matrices(symmetry)
    off_centre = moved_map(volume, MapMove(np.eye(3), np.array([3.0, 0.0, 1.0]), False, 1.0, 0.0))
    symmetric = torch.stack([moved_map(off_centre, MapMove(element, np.zeros(3), False, 1.0, 0.0)) for element in group]).mean(0)
    found = own_rotations(symmetric)
    assert len(found) == len(group)
    for element in found:
        assert np.arccos(np.clip((np.einsum("ij,gij->g", element, group).max() - 1) / 2, -1, 1)) < math.radians(2)


def test_a_resized_map_keeps_the_scale_of_its_slices(volume):
    there = resized_map(volume, 24)
    small, large = (FourierVolume(part, max_shell=6).slices(torch.eye(3)[None]) for part in (there, volume))
    assert float((small - large).abs().square().sum() / large.abs().square().sum()) < 0.02
    assert float((resized_map(there, BOX) - volume).square().mean() / volume.square().mean()) < 0.05
