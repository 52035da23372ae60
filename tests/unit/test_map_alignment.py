import json

import pytest
import torch

from cryorestore.fsc import fourier_shell_correlation
from cryorestore.io.mrc import write_map
from cryorestore.resolution.alignment import check_alignment
from cryorestore.resolution.curves import write_truth_fsc

BOX, PIXEL_SIZE = 40, 2.0


def particle(*, scale=1.0, degrees=0.0, shift=(0.0, 0.0, 0.0)):
    """Twelve blobs in no symmetry (z, y, x); turned about z, enlarged and shifted (px)."""
    centres = torch.randn(12, 3, generator=torch.Generator().manual_seed(7)) * 5
    angle = torch.deg2rad(torch.tensor(degrees))
    turn = torch.eye(3)
    turn[1:, 1:] = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    axis = torch.arange(BOX) - BOX // 2
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).float()
    places = scale * centres @ turn.T + torch.tensor(shift)
    return sum(torch.exp(-(grid - place).square().sum(-1) / (2 * (1.6 * scale) ** 2)) for place in places)


def noisy(seed):
    return particle() + 0.02 * torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def check():
    halves = fourier_shell_correlation(noisy(1), noisy(2), pixel_size=PIXEL_SIZE)
    return lambda reference: check_alignment(noisy(3), reference, halves, pixel_size=PIXEL_SIZE, name="reference")


def subjects(found):
    return [finding.subject for finding in found.findings]


def test_a_reference_that_lies_right_has_no_finding(check):
    found = check(particle())
    assert subjects(found) == []
    assert (found.frame, found.mirrored) == ("+z+y+x", False)
    assert found.correlation_as_given > 0.99


@pytest.mark.parametrize("shift", [(0.0, 1.5, -1.0), (6.0, 0.0, -7.0)])
def test_a_shift_is_measured(check, shift):
    found = check(particle(shift=shift))
    assert subjects(found) == ["shift"]
    assert found.shift == pytest.approx([-PIXEL_SIZE * value for value in reversed(shift)], abs=0.3)


def test_a_rotation_is_measured(check):
    found = check(particle(degrees=5.0))
    assert subjects(found) == ["rotation"]
    assert found.rotation == pytest.approx(5.0, abs=0.3)


def test_a_wrong_pixel_size_is_measured(check):
    found = check(particle(scale=1.03))
    assert subjects(found) == ["pixel size"]
    assert found.magnification == pytest.approx(1 / 1.03, abs=0.004)


def test_the_other_hand_and_another_frame_are_told(check):
    mirror = check(particle().flip(0).roll(1, 0))
    assert (subjects(mirror), mirror.frame, mirror.mirrored) == (["hand"], "-z+y+x", True)
    turned = check(torch.rot90(particle(), 1, (1, 2)).roll(1, 1))
    assert (subjects(turned), turned.mirrored) == (["frame"], False)


def test_another_structure_is_not_judged(check):
    found = check(torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(9)))
    assert [(finding.level, finding.subject) for finding in found.findings] == [("warning", "alignment")]


def test_the_figures_say_why_an_fsc_is_low(tmp_path):
    for half in (1, 2):
        write_map(tmp_path / f"half{half}.mrc", noisy(half).numpy(), pixel_size=PIXEL_SIZE)
    write_map(tmp_path / "truth.mrc", particle(shift=(0.0, 3.0, 0.0)).numpy(), pixel_size=2 * PIXEL_SIZE)
    outputs = {name: tmp_path / f"truth_{name}" for name in ("curve", "plot", "figures")}
    write_truth_fsc(half_map_1=tmp_path / "half1.mrc", half_map_2=tmp_path / "half2.mrc", truth_map=tmp_path / "truth.mrc", **outputs)
    figures = json.loads(outputs["figures"].read_text())
    assert figures["alignment"]["shift"][1] == pytest.approx(-6.0, abs=0.3)
    assert [warning.split(":")[0] for warning in figures["warnings"]] == ["pixel size", "shift"]
