"""Orientations: RELION's Euler angles and point groups.

A rotation matrix here is RELION's Euler matrix A: its first two rows are the image's x and y axes in the frame of the volume,
vectors in the order (x, y, z). The Fourier coefficient of a projection at (kx, ky) is the volume's at kx A[0] + ky A[1].
"""

import math
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation as RotationType

Matrices = NDArray[np.float64]


def _rotation() -> "type[RotationType]":
    """SciPy's class: imported when first needed, for it takes longer than steps that turn nothing should wait."""
    from scipy.spatial.transform import Rotation

    return Rotation


def euler_to_matrices(angles: NDArray[np.float64]) -> Matrices:
    """Turn RELION's (rot, tilt, psi), degrees, shape (n, 3), into matrices (n, 3, 3)."""
    return np.swapaxes(_rotation().from_euler("ZYZ", np.asarray(angles, float).reshape(-1, 3), degrees=True).as_matrix(), -1, -2).copy()


def matrices_to_euler(matrices: Matrices) -> NDArray[np.float64]:
    """Turn matrices (n, 3, 3) into RELION's (rot, tilt, psi), degrees, shape (n, 3); at a pole psi carries the whole in-plane angle."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Gimbal lock")
        return np.asarray(_rotation().from_matrix(np.swapaxes(matrices, -1, -2)).as_euler("ZYZ", degrees=True)).reshape(-1, 3)


def rotation_vectors_to_euler(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Turn cryoSPARC's poses (axis times angle in radians, of the transpose of RELION's matrix), shape (n, 3), into (rot, tilt, psi), degrees."""
    return matrices_to_euler(np.swapaxes(_rotation().from_rotvec(vectors.astype(np.float64).reshape(-1, 3)).as_matrix(), -1, -2))


def euler_to_rotation_vectors(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of `rotation_vectors_to_euler`."""
    return np.asarray(_rotation().from_matrix(np.swapaxes(euler_to_matrices(angles), -1, -2)).as_rotvec()).reshape(-1, 3)


def random_rotations(count: int, generator: np.random.Generator) -> Matrices:
    """Draw rotations uniformly (Shoemake 1992), shape (count, 3, 3)."""
    quaternions = generator.standard_normal((count, 4))
    return np.asarray(_rotation().from_quat(quaternions).as_matrix()).reshape(count, 3, 3)


def perturb_rotations(matrices: Matrices, *, rotation_error: float, generator: np.random.Generator) -> Matrices:
    """Turn each matrix about a random axis; `rotation_error` is the rms of the angle, degrees (each axis has 1/sqrt(3) of it)."""
    vectors = generator.standard_normal((len(matrices), 3)) * math.radians(rotation_error) / math.sqrt(3.0)
    return np.asarray(_rotation().from_rotvec(vectors).as_matrix()) @ matrices


def symmetry_matrices(symmetry: str) -> Matrices:
    """All rotations of a point group in RELION's setting, shape (order, 3, 3), the identity first.

    Cn and Dn have their main axis on z (Dn a twofold on x); T has a threefold on z; O fourfolds on the axes; I (= I2) twofolds on the axes.

    Raises
    ------
    CryorestoreError
        If the name is none of Cn, Dn, T, O, I, I2.
    """
    name = symmetry.strip().upper()
    cyclic = re.fullmatch(r"([CD])([1-9]\d*)", name)
    if cyclic:
        turns = np.stack([_axis_turn((0, 0, 1), int(cyclic[2]), times) for times in range(int(cyclic[2]))])
        return turns if cyclic[1] == "C" else np.concatenate([turns, turns @ np.diag([1.0, -1.0, -1.0])])
    golden = (1 + math.sqrt(5)) / 2
    generators: dict[str, list[tuple[tuple[float, float, float], int]]] = {
        "T": [((0, 0, 1), 3), ((0, math.sqrt(2.0), 1.0), 2)],
        "O": [((0, 0, 1), 4), ((1, 1, 1), 3)],
        "I": [((0, 0, 1), 2), ((1, 0, golden), 5), ((1, 1, 1), 3)],
    }
    if name == "I2":
        name = "I"
    if name not in generators:
        raise CryorestoreError(f"symmetry: found {symmetry!r}, expected Cn, Dn, T, O, I or I2; write it as RELION does")
    return _close_group([_axis_turn(axis, order) for axis, order in generators[name]])


def _axis_turn(axis: tuple[float, float, float], order: int, times: int = 1) -> Matrices:
    unit = np.asarray(axis, float) / np.linalg.norm(axis)
    return np.asarray(_rotation().from_rotvec(unit * 2 * math.pi * times / order).as_matrix())


def _close_group(generators: list[Matrices]) -> Matrices:
    group = [np.eye(3)]
    grown = True
    while grown:
        grown = False
        for element in list(group):
            for generator in generators:
                product = element @ generator
                if not any(np.allclose(product, known, atol=1e-6) for known in group):
                    group.append(product)
                    grown = True
    return np.stack(group)
