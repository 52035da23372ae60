import json
import math

import pytest
import torch

from cryorestore.config import input_files, load_configuration, step_parameters
from cryorestore.config.inputs import check_inputs
from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import read_map, write_map
from cryorestore.masks import soft_sphere
from cryorestore.resolution.filters import low_pass
from cryorestore.resolution.masking import automatic_threshold, make_fsc_mask, tight_mask

BOX = 48


def distance():
    axis = torch.arange(BOX) - BOX // 2
    return (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).float().sqrt()


def test_a_ball_grows_and_falls_as_a_cosine():
    mask = tight_mask((distance() <= 10).float(), threshold=0.5, extend_px=3.0, edge_px=6.0)
    middle = BOX // 2
    line = mask[middle, middle, middle:].tolist()
    # 10 px of ball, less than 3 px of growth, and half way down its edge 6 px beyond that
    assert line[:13] == [1.0] * 13
    assert line[13:19] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * step / 6) for step in range(1, 7)], abs=1e-6)
    assert line[19:] == [0.0] * 5


def test_a_low_pass_keeps_a_slow_wave_and_takes_a_fast_one():
    wave = torch.arange(BOX) / BOX * 2 * torch.pi
    slow, fast = torch.cos(3 * wave).expand(BOX, BOX, BOX), torch.cos(12 * wave).expand(BOX, BOX, BOX)
    filtered = low_pass(slow + fast, resolution=BOX * 2.0 / 6, pixel_size=2.0)
    assert torch.allclose(filtered, slow, atol=1e-4)
    assert torch.allclose(low_pass(slow, resolution=BOX * 2.0 / 3, pixel_size=2.0), 0.5 * slow, atol=1e-4)


def test_the_threshold_lies_between_noise_and_particle():
    noise = 0.1 * torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(1))
    level = automatic_threshold(soft_sphere(BOX, 8.0, 2.0) + noise, background=distance() > 16)
    assert level == pytest.approx(0.5, abs=0.03)
    flat = automatic_threshold(soft_sphere(BOX, 8.0, 2.0) + 1e-3 * noise, background=distance() > 16)
    assert flat == pytest.approx(0.15, abs=0.01)


@pytest.fixture
def made(tmp_path):
    volume = soft_sphere(BOX, 8.0, 4.0)
    for half in (1, 2):
        noise = 0.02 * torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(half))
        write_map(tmp_path / f"half{half}.mrc", (volume + noise).numpy(), pixel_size=3.0)

    def make(**options):
        halves = {f"half_map_{half}": tmp_path / f"half{half}.mrc" for half in (1, 2)}
        make_fsc_mask(**halves, mask=tmp_path / "mask.mrc", figures=tmp_path / "mask.json", mask_radius=36.0, mask_edge=12.0, **options)
        return torch.from_numpy(read_map(tmp_path / "mask.mrc")[0]), json.loads((tmp_path / "mask.json").read_text())

    return make


def test_an_automatic_mask_holds_the_particle_and_is_tighter_than_the_sphere(made):
    tight, figures = made(kind="auto")
    sphere, _ = made(kind="sphere")
    assert torch.allclose(sphere, soft_sphere(BOX, 12.0, 4.0))
    assert (tight[distance() < 10] == 1).all()
    assert float(tight.mean()) == pytest.approx(figures["share_of_box"], rel=1e-5)
    assert tight[distance() > 24].sum() == 0


def test_a_threshold_that_nothing_reaches_is_refused(made):
    with pytest.raises(CryorestoreError, match=r"fsc\.auto_mask\.threshold = 9: 0 voxels"):
        made(kind="auto", threshold=9.0)


def test_training_never_sees_the_mask_of_the_curves():
    parameters = [
        step_parameters("make_training_pairs", load_configuration({"fsc": {"mask": kind}}).settings["demo"], half=1) for kind in ("none", "auto")
    ]
    assert parameters[0] == parameters[1]


def test_a_mask_file_is_an_input_and_is_missed(tmp_path):
    configuration = load_configuration({"fsc": {"mask": "my_mask.mrc"}, "data_root": str(tmp_path)})
    assert input_files(configuration.settings["demo"])["fsc_mask"].endswith("my_mask.mrc")
    with pytest.raises(CryorestoreError, match=r"fsc_mask: .*my_mask\.mrc"):
        check_inputs(configuration)
