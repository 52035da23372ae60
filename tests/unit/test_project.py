import numpy as np
import torch
from torch_fourier_slice import project_3d_to_2d

from cryorestore.geometry import euler_to_matrices, random_rotations
from cryorestore.project import FourierVolume
from helpers import BOX, blob_map


def correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


def test_the_identity_sums_along_z():
    volume = blob_map()
    image = FourierVolume(volume, max_shell=15).project(torch.eye(3))
    expected = volume.sum(0)
    assert correlation(image, expected) > 0.999
    # on the grid itself trilinear interpolation does not smooth, so its correction is too strong here by up to 1 / sinc(1/4)^2
    assert 1.0 <= float(image.std() / expected.std()) < 1.06


def test_psi_turns_the_image_clockwise_as_in_relion():
    # psi = 90: the image's x axis is the volume's y axis, so what lies at +y in the volume stands at +x in the image
    volume = torch.zeros(BOX, BOX, BOX)
    volume[16, 22, 16] = 1.0
    matrix = torch.from_numpy(euler_to_matrices(np.array([[0.0, 0.0, 90.0]]))[0]).float()
    image = FourierVolume(volume, max_shell=15).project(matrix)
    assert divmod(int(image.argmax()), BOX) == (16, 22)


def test_a_library_that_others_keep_gives_the_same_projections():
    volume = blob_map()
    matrices = torch.from_numpy(random_rotations(4, np.random.default_rng(3))).float()
    ours = FourierVolume(volume, max_shell=15).project(matrices)
    # its matrices turn the sampling grid, ours hold the image axes in rows
    theirs = project_3d_to_2d(volume, matrices.transpose(1, 2), zyx_matrices=False)
    for first, second in zip(ours, theirs, strict=True):
        assert correlation(first, second) > 0.995


def test_a_prefix_of_the_slice_is_the_slice_of_the_prefix():
    slicer = FourierVolume(blob_map(), max_shell=15)
    matrices = torch.from_numpy(random_rotations(5, np.random.default_rng(4))).float()
    count = slicer.coefficients.count(6)
    assert torch.equal(slicer.slices(matrices, count=count), slicer.slices(matrices)[:, :count])
