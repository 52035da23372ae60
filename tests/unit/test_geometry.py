import math

import numpy as np
import pytest
import torch

from cryorestore.errors import CryorestoreError
from cryorestore.geometry import (
    euler_to_matrices,
    matrices_to_euler,
    perturb_rotations,
    random_rotations,
    symmetry_matrices,
)
from cryorestore.rotation_vectors import rotation_vectors_to_matrices


def test_a_turn_about_z_by_psi_moves_the_image_axes_by_psi():
    matrix = euler_to_matrices(np.array([[0.0, 0.0, 90.0]]))[0]
    assert np.allclose(matrix, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]])


def test_tilt_looks_along_the_tilted_axis():
    matrix = euler_to_matrices(np.array([[30.0, 60.0, 0.0]]))[0]
    viewing = [math.sin(math.radians(60)) * math.cos(math.radians(30)), math.sin(math.radians(60)) * math.sin(math.radians(30)), 0.5]
    assert np.allclose(matrix[2], viewing)


def test_angles_survive_the_round_trip():
    angles = np.random.default_rng(1).uniform(0, 1, (50, 3)) * [360, 180, 360]
    matrices = euler_to_matrices(angles)
    assert np.allclose(euler_to_matrices(matrices_to_euler(matrices)), matrices)


@pytest.mark.parametrize(("name", "order"), [("C1", 1), ("c7", 7), ("D2", 4), ("D7", 14), ("T", 12), ("O", 24), ("I", 60)])
def test_a_point_group_is_closed_and_has_its_order(name, order):
    group = symmetry_matrices(name)
    assert group.shape == (order, 3, 3)
    assert np.allclose(group[0], np.eye(3))
    for element in group[:4]:
        for product in group @ element:
            assert np.abs(group - product).max((1, 2)).min() < 1e-6


def test_an_unknown_symmetry_is_refused():
    with pytest.raises(CryorestoreError, match="I5"):
        symmetry_matrices("I5")


def test_rotation_vectors_turn_by_their_length():
    matrix = rotation_vectors_to_matrices(torch.tensor([0.0, 0.0, math.pi / 2]))
    assert torch.allclose(matrix, torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), atol=1e-6)


def test_perturbation_has_the_rms_angle_asked_for():
    generator = np.random.default_rng(2)
    before = random_rotations(4000, generator)
    after = perturb_rotations(before, rotation_error=2.5, generator=generator)
    cosine = (np.einsum("nij,nij->n", before, after) - 1) / 2
    assert math.degrees(math.sqrt(np.mean(np.arccos(np.clip(cosine, -1, 1)) ** 2))) == pytest.approx(2.5, rel=0.03)
