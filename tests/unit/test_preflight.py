import json
import struct
import sys

import numpy as np
import pytest
import torch

from cryorestore.cli import main
from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import write_map
from cryorestore.particles import ParticleTable
from cryorestore.preflight import judge_contrast, judge_ctf, judge_poses, judge_shifts, preflight
from cryorestore.preflight_map import flipped, judge_hand, judge_pixel_size, read_given_map
from cryorestore.preflight_particles import load_small_particles, odd_even_agreement
from helpers import PIXEL, simulate_particles, write_particles

pytestmark = pytest.mark.slow

COUNT = 200


@pytest.fixture(scope="module")
def data():
    return simulate_particles(COUNT, sigma=2.0, shift=3.0)


@pytest.fixture(scope="module")
def star(data, tmp_path_factory):
    return write_particles(tmp_path_factory.mktemp("right"), data)


@pytest.fixture(scope="module")
def right(star):
    """The particles as they are, on a box of 20 px."""
    return load(ParticleTable.read(star))


@pytest.fixture(scope="module")
def agreement(right):
    return odd_even_agreement(right)


def load(table):
    return load_small_particles(table, count=COUNT, symmetry="C1", seed=1, box_size=20)


def with_origins(star, factor):
    table = ParticleTable.read(star)
    return table.with_columns({name: table.particles.floats(name) * factor for name in ("rlnOriginXAngst", "rlnOriginYAngst")})


def write_reference(path, volume, pixel_size=PIXEL):
    write_map(path, volume.numpy(), pixel_size=pixel_size)
    return read_given_map([path])


def test_right_particles_are_ok_in_every_respect(star, data, tmp_path):
    write_reference(tmp_path / "map.mrc", data["volume"])
    findings = preflight(star, reference_map=tmp_path / "map.mrc", largest_box=20)
    assert {finding.subject for finding in findings} == {"contrast", "poses", "shift units", "CTF", "hand", "pixel size"}
    assert [finding for finding in findings if finding.level != "ok"] == []


def test_inverted_contrast_is_found(data, tmp_path):
    inverted = load(ParticleTable.read(write_particles(tmp_path, data | {"images": -data["images"]})))
    finding = judge_contrast(inverted, odd_even_agreement(inverted))
    assert finding.level == "error"
    assert "invert" in finding.mend


@pytest.mark.parametrize(("factor", "mend"), [(1 / PIXEL, "origins stand in px"), (PIXEL, "twice"), (-1, "negate")])
def test_origins_of_another_unit_or_sign_are_found(star, factor, mend):
    particles = load(with_origins(star, factor))
    finding = judge_shifts(particles, odd_even_agreement(particles))
    assert finding.level == "error"
    assert mend in finding.mend


def test_phase_flipped_images_are_found(tmp_path):
    clear = simulate_particles(COUNT, sigma=0.3)
    box_size = clear["images"].shape[-1]
    images = torch.fft.irfft2(torch.fft.rfft2(clear["images"]) * clear["ctf"].sign(), s=(box_size, box_size))
    particles = load(ParticleTable.read(write_particles(tmp_path, clear | {"images": images})))
    finding = judge_ctf(particles, odd_even_agreement(particles))
    assert finding.level == "error"
    assert "phase-flipped" in finding.mend


def test_shuffled_poses_are_found(star):
    table = ParticleTable.read(star)
    order = np.random.default_rng(5).permutation(COUNT)
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    particles = load(table.with_columns({name: table.particles.floats(name)[order] for name in names}))
    finding = judge_poses(particles, odd_even_agreement(particles), seed=1)
    assert finding.level == "error"
    assert "no signal" in finding.found


def test_images_with_reversed_rows_are_found(data, tmp_path):
    reversed_rows = data["images"].flip(1).roll(1, 1)
    mirrored = data | {"images": reversed_rows, "shifts": data["shifts"] * np.array([1, -1])}
    particles = load(ParticleTable.read(write_particles(tmp_path, mirrored)))
    finding = judge_poses(particles, odd_even_agreement(particles), seed=1)
    assert finding.level == "error"
    assert "Y-flip" in finding.mend


def test_a_mirrored_map_is_found(data, right, agreement, tmp_path):
    given = write_reference(tmp_path / "mirror.mrc", flipped(data["volume"], (1, 1, -1)))
    finding, fit = judge_hand(agreement, given, pixel_size=right.pixel_size)
    assert finding.level == "error"
    assert "other hand" in finding.mend
    assert fit is not None


def test_a_map_of_something_else_is_not_taken_for_a_judge(right, agreement, tmp_path):
    noise = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(2))
    finding, fit = judge_hand(agreement, write_reference(tmp_path / "noise.mrc", noise), pixel_size=right.pixel_size)
    assert finding.level == "warning"
    assert fit is None


@pytest.mark.parametrize("factor", [0.95, 1.04])
def test_a_wrong_pixel_size_of_the_map_is_measured(data, right, agreement, tmp_path, factor):
    given = write_reference(tmp_path / "map.mrc", data["volume"], PIXEL * factor)
    _, fit = judge_hand(agreement, given, pixel_size=right.pixel_size)
    finding = judge_pixel_size(agreement, given, fit, pixel_size=right.pixel_size, full_pixel_size=right.full_pixel_size)
    assert finding.level == "error"
    measured = float(finding.found.split("enlarged by ")[1].split()[0])
    assert measured == pytest.approx(1 / factor, abs=0.01)


def test_without_a_map_hand_and_pixel_size_are_not_guessed(star, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cryorestore", "preflight", str(star), "--count", "40", "--largest-box", "16"])
    with pytest.raises(SystemExit) as stopped:
        main()
    shown = capsys.readouterr().out
    assert stopped.value.code in (0, None)
    assert "too few" in shown
    assert "hand" in shown


def test_the_command_ends_with_1_on_an_error(data, tmp_path, monkeypatch, capsys):
    star = write_particles(tmp_path, data | {"images": -data["images"]})
    monkeypatch.setattr(sys, "argv", ["cryorestore", "preflight", str(star), "--largest-box", "16"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    shown = capsys.readouterr()
    assert "invert" in shown.out
    assert "contrast: " in shown.err
    assert "preflight.refuse" in shown.err


def test_a_refused_run_leaves_its_findings_and_refuse_false_only_warns(data, tmp_path):
    star, written = write_particles(tmp_path, data | {"images": -data["images"]}), tmp_path / "preflight.json"
    with pytest.raises(CryorestoreError, match=r"(?s)preflight finds an error.*contrast: .*invert"):
        preflight(star, preflight_json=written, largest_box=16)
    levels = {finding["subject"]: finding["level"] for finding in json.loads(written.read_text())["findings"]}
    assert levels["contrast"] == "error"
    assert "error" in {finding.level for finding in preflight(star, largest_box=16, refuse=False)}


def test_noise_with_poses_is_a_warning_and_no_refusal(data, tmp_path):
    noise = torch.randn(data["images"].shape, generator=torch.Generator().manual_seed(3))
    levels = {finding.subject: finding.level for finding in preflight(write_particles(tmp_path, data | {"images": noise}), largest_box=16)}
    assert (levels["contrast"], levels["poses"]) == ("warning", "warning")


def test_picks_that_extraction_gave_no_pose_are_not_reconstructed(data, tmp_path):
    table = ParticleTable.read(write_particles(tmp_path, data, extra={"rlnCryorestoreHasPose": np.arange(COUNT) % 2}))
    assert len(load(table)) == COUNT // 2
    unposed = load(table.with_columns({"rlnCryorestoreHasPose": np.zeros(COUNT, int)}))
    assert not unposed.posed
    assert len(unposed) == COUNT


def test_an_image_with_nan_is_left_out(data, tmp_path):
    star = write_particles(tmp_path, data)
    with (tmp_path / "particles.mrcs").open("r+b") as stack:
        stack.seek(1024 + 40)
        stack.write(struct.pack("<f", float("nan")))
    assert len(load(ParticleTable.read(star))) == COUNT - 1


def test_two_runs_write_the_same_findings(star, tmp_path):
    for name in ("a.json", "b.json"):
        preflight(star, preflight_json=tmp_path / name, count=60, largest_box=16)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_without_poses_only_the_contrast_is_judged(data_root):
    findings = preflight(data_root / "metadata-cryodrgn/empiar_10076_7.cs")
    assert [finding.subject for finding in findings] == ["contrast", "poses"]
    assert all(finding.level != "error" for finding in findings)
