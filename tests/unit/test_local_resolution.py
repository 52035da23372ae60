import json
import math

import pytest
import torch

from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import read_map, write_map
from cryorestore.resolution.filters import squared_radius
from cryorestore.resolution.local import local_frequency, map_local_resolution

BOX, PIXEL_SIZE, FALL = 64, 2.0, 0.15
SIGMAS = (0.3, 1.5)
"""Noise of the near and the far half of the box; the signal has the amplitude 4 exp(-(f / FALL)^2), f in 1/px."""


def white(seed):
    return torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def half_maps():
    amplitude = 4 * torch.exp(-squared_radius(BOX) / (BOX * FALL) ** 2)
    signal = torch.fft.irfftn(torch.fft.rfftn(white(1)) * amplitude, s=(BOX,) * 3)
    sigma = torch.full((BOX,) * 3, SIGMAS[0])
    sigma[..., BOX // 2 :] = SIGMAS[1]
    return signal + sigma * white(2), signal + sigma * white(3)


def expected(sigma):
    """Frequency (1/px) where signal and noise have the same power, so that their FSC is 0.5."""
    return FALL * math.sqrt(-math.log(sigma / 4))


def test_each_region_has_the_resolution_of_its_own_noise(half_maps, tmp_path):
    for half, volume in enumerate(half_maps, start=1):
        write_map(tmp_path / f"half{half}.mrc", volume.numpy(), pixel_size=PIXEL_SIZE)
    files = {"half_map_1": tmp_path / "half1.mrc", "half_map_2": tmp_path / "half2.mrc", "map": tmp_path / "l.mrc", "figures": tmp_path / "l.json"}
    map_local_resolution(**files, radius=16.0, edge=14.0, sampling=16.0, mask_radius=54.0, mask_edge=4.0)
    volume, pixel_size = read_map(files["map"])
    assert pixel_size == pytest.approx(PIXEL_SIZE)
    middle = slice(BOX // 2 - 8, BOX // 2 + 8)
    near, far = volume[middle, middle, 12:18].mean(), volume[middle, middle, 46:52].mean()
    assert near == pytest.approx(PIXEL_SIZE / expected(SIGMAS[0]), rel=0.06)
    assert far == pytest.approx(PIXEL_SIZE / expected(SIGMAS[1]), rel=0.06)
    assert volume[0, 0, 0] == 0
    figures = json.loads(files["figures"].read_text())
    assert near < figures["quantiles"]["0.5"] < far


def test_maps_that_agree_everywhere_reach_nyquist_and_noise_the_window(half_maps):
    window = torch.ones(16, 16, 16)
    inside = torch.ones(BOX, BOX, BOX, dtype=torch.bool)
    same = local_frequency(half_maps[0], half_maps[0], inside, window=window, step=20, threshold=0.5)
    assert torch.allclose(same, torch.tensor(0.5))
    noise = local_frequency(white(4), white(5), inside, window=window, step=20, threshold=0.9)
    assert float(noise.median()) < 1.5 / 16


def test_windows_are_computed_only_where_they_are_asked_for_and_give_the_same_there(half_maps):
    inside = torch.zeros(BOX, BOX, BOX, dtype=torch.bool)
    inside[20:30, 20:30, 20:30] = True
    options = {"window": torch.ones(16, 16, 16), "step": 7, "threshold": 0.5}
    some = local_frequency(*half_maps, inside, **options)
    everywhere = local_frequency(*half_maps, torch.ones_like(inside), **options)
    assert torch.allclose(some[inside], everywhere[inside])


def test_a_window_larger_than_the_box_is_refused(half_maps, tmp_path):
    for half, volume in enumerate(half_maps, start=1):
        write_map(tmp_path / f"half{half}.mrc", volume.numpy(), pixel_size=PIXEL_SIZE)
    files = {"half_map_1": tmp_path / "half1.mrc", "half_map_2": tmp_path / "half2.mrc", "map": tmp_path / "l.mrc", "figures": tmp_path / "l.json"}
    with pytest.raises(CryorestoreError, match=r"local_resolution\.radius"):
        map_local_resolution(**files, radius=60.0, edge=20.0, mask_radius=54.0, mask_edge=4.0)
