import pytest
import torch

from cryorestore.errors import CryorestoreError
from cryorestore.fourier import radial_shells_3d
from cryorestore.fsc import FscCurve, fourier_shell_correlation, read_pair
from cryorestore.io.mrc import write_map


@pytest.fixture
def map_1():
    return torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(1))


def test_identical_maps_never_cross(map_1):
    curve = fourier_shell_correlation(map_1, map_1, pixel_size=2.0)
    assert torch.allclose(curve.correlation, torch.ones(17))
    assert curve.resolution(0.143) is None


def test_sign_flip_beyond_a_shell_moves_the_crossing_there(map_1):
    flipped = torch.fft.irfftn(torch.where(radial_shells_3d(32) >= 9, -1, 1) * torch.fft.rfftn(map_1), s=(32, 32, 32))
    curve = fourier_shell_correlation(map_1, flipped, pixel_size=2.0)
    assert curve.resolution(0.0) == pytest.approx(32 * 2.0 / 8.5, rel=1e-3)


def test_independent_noise_correlates_no_more_than_its_shell_allows(map_1):
    other = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(2))
    curve = fourier_shell_correlation(map_1, other, pixel_size=2.0)
    independent = torch.bincount(radial_shells_3d(32).flatten()).float()[:17]
    assert (curve.correlation[2:].abs() < 4.5 / independent[2:].sqrt()).all()


def test_the_crossing_is_interpolated_and_the_first_counts():
    curve = FscCurve(torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]), torch.tensor([1.0, 0.9, 0.1, 0.9, 0.0]))
    assert curve.resolution(0.5) == pytest.approx(1 / 0.15)


def test_a_map_with_nan_is_refused(map_1):
    with pytest.raises(CryorestoreError, match="NaN"):
        fourier_shell_correlation(map_1, map_1 * float("nan"), pixel_size=2.0)


def test_every_coefficient_of_the_half_transform_counts_once(map_1):
    """As in RELION: the plane kx = 0 holds its coefficients and their conjugates."""
    ft = torch.fft.rfftn(map_1)
    plane = torch.fft.irfftn(torch.where(torch.arange(17) == 0, -ft, ft), s=(32, 32, 32))
    curve = fourier_shell_correlation(map_1, plane, pixel_size=2.0)
    shell = radial_shells_3d(32) == 7
    power = ft.abs().square()
    expected = 1 - 2 * float(power[..., :1][shell[..., :1]].sum() / power[shell].sum())
    assert float(curve.correlation[7]) == pytest.approx(expected, abs=1e-5)


def test_maps_of_two_pixel_sizes_are_refused(tmp_path, map_1):
    write_map(tmp_path / "a.mrc", map_1.numpy(), pixel_size=2.0)
    write_map(tmp_path / "b.mrc", map_1.numpy(), pixel_size=2.5)
    with pytest.raises(CryorestoreError, match=r"2\.5"):
        read_pair(tmp_path / "a.mrc", tmp_path / "b.mrc")
