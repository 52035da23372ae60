"""Particles through the general network's sampling and back, and the command around it. The network here is one whose answer is known."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from cryorestore.ctf import ctf_2d
from cryorestore.errors import CryorestoreError
from cryorestore.general import use
from cryorestore.general.method import GeneralMethod
from cryorestore.general.restorer import GeneralRestorer
from cryorestore.general.sampling import WINDOW, WorkingSampling
from cryorestore.general.survey import contrast_sign, measure_diameter
from cryorestore.general.use import restore_general
from cryorestore.io.mrc import MrcStackWriter
from cryorestore.io.star import StarBlock, write_star
from cryorestore.particles import ParticleTable
from cryorestore.particles_cs import write_particles_cs
from cryorestore.rescale import fourier_crop, fourier_pad
from helpers import GENERAL_CARD, ctf_parameters, write_narrow_weights


class Identity(nn.Module):
    """Gives the image back, with a deviation of e and a log evidence of 3."""

    def forward(self, inputs):
        image = inputs[:, 0]
        return torch.stack([image, image], 1), torch.full((len(image), 2, *image.shape[1:]), 2.0), torch.full((len(image),), 3.0)


@pytest.fixture
def identity():
    return GeneralRestorer(Identity(), {"fingerprint": "identity"} | GENERAL_CARD, torch.device("cpu"), "float32")


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Weights of a narrow network that has learned nothing."""
    return write_narrow_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def with_identity(monkeypatch, identity):
    monkeypatch.setattr(use.GeneralRestorer, "load", lambda *_, **__: identity)


def discs(count, box, radius, *, height=1.0, seed=0):
    """White noise of sigma 1 with a round particle in the middle of the box."""
    generator = np.random.default_rng(seed)
    axis = np.arange(box) - box // 2
    inside = np.hypot(axis[:, None], axis) <= radius
    return (generator.standard_normal((count, box, box)) + height * inside).astype(np.float32)


def write_table(folder, images, *, pixel_size=3.0, ctf=True, name="particles", extra=None):
    count, box = len(images), images.shape[-1]
    with MrcStackWriter(folder / f"{name}.mrcs", count=count, box_size=box, pixel_size=pixel_size) as writer:
        writer.append(images)
    optics = {"rlnOpticsGroup": np.array([1]), "rlnOpticsGroupName": ["one"], "rlnImagePixelSize": np.array([pixel_size])}
    columns = {"rlnImageName": [f"{number:06d}@{folder}/{name}.mrcs" for number in range(1, count + 1)], "rlnOpticsGroup": np.ones(count, int)}
    if ctf:
        optics |= {"rlnVoltage": np.array([300.0]), "rlnSphericalAberration": np.array([2.7]), "rlnAmplitudeContrast": np.array([0.1])}
        columns |= {"rlnDefocusU": np.linspace(1e4, 2e4, count), "rlnDefocusV": np.linspace(1e4, 2e4, count), "rlnDefocusAngle": np.zeros(count)}
    path = folder / f"{name}.star"
    write_star(path, {"optics": StarBlock.from_columns(optics), "particles": StarBlock.from_columns(columns | (extra or {}))})
    return path


def outputs(folder):
    return {"restored_stack": folder / "out.mrcs", "restored_star": folder / "out.star", "figures": folder / "out.json"}


def without_plane(images):
    axis = np.arange(images.shape[-1]) - images.shape[-1] // 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    design = np.stack([np.ones(x.size), x.ravel(), y.ravel()], 1).astype(float)
    flat = images.reshape(len(images), -1).astype(float)
    return (flat - flat @ np.linalg.pinv(design).T @ design.T).reshape(images.shape)


@pytest.mark.parametrize(
    ("box", "pixel_size", "diameter", "field", "width"),
    [
        (64, 3.0, 110, 64, 36.7),  # as trained
        (200, 1.0, 110, 64, 35.2),  # the whole box fits the window
        (256, 1.0, 90, 106, 37.3),  # a large box: the window shows its middle
        (512, 0.66, 250, 64, 47.35),
        (32, 6.0, 110, 64, 36.7),  # small data are sampled more finely
        (96, 4.0, 112, 96, 28.0),  # never finer than data in which the particle has 24 px
        (100, 1.0, 95, 64, 60.8),  # the particle fills its box
    ],
)
def test_the_sampling_follows_the_particle(box, pixel_size, diameter, field, width):
    sampling = WorkingSampling.choose(box_size=box, pixel_size=pixel_size, diameter=diameter)
    assert sampling.field_size == field
    assert diameter / sampling.working_pixel_size == pytest.approx(width, abs=0.05)


@pytest.mark.parametrize(("box", "diameter", "told"), [(63, 90, "box of 63 px"), (8, 20, "box of 8 px"), (64, 200, "at most the box's 192")])
def test_a_box_or_diameter_that_cannot_be_is_refused(box, diameter, told):
    with pytest.raises(CryorestoreError, match=told):
        WorkingSampling.choose(box_size=box, pixel_size=3.0, diameter=diameter)


def test_padding_undoes_a_crop_of_what_the_smaller_box_holds():
    image = fourier_pad(np.random.default_rng(0).standard_normal((2, 30, 30)).astype(np.float32) + 100, 64)
    assert fourier_pad(fourier_crop(image, 32), 64) == pytest.approx(image, abs=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("box", "diameter"), [(64, 110), (100, 180), (32, 60)])
def test_what_the_network_leaves_as_it_is_comes_back_as_it_was(identity, sign, box, diameter):
    sampling = WorkingSampling.choose(box_size=box, pixel_size=3.0, diameter=diameter)
    images = sign * (7 * discs(5, box, 10) + 40)
    found = GeneralMethod(identity, sampling, sign=sign)(images, None)
    band = images if sampling.is_finer else fourier_pad(fourier_crop(images, sampling.field_size), box)
    # upsampled data lose their Nyquist frequency, and a plane is none any more in another sampling
    assert without_plane(found.images.numpy() - band).std() < 7 * (0.6 if sampling.is_finer else 0.005)
    assert found.images.numpy().mean() == pytest.approx(band.mean(), abs=1.0)
    if not sampling.is_finer:
        assert float(found.deviation.mean()) == pytest.approx(7 * np.e * sampling.to_working(discs(5, box, 0)).std(), rel=0.2)


def test_a_large_box_is_its_background_outside_of_the_window(identity):
    sampling = WorkingSampling.choose(box_size=128, pixel_size=3.0, diameter=84)
    images = discs(3, 128, 14) + 5
    found = GeneralMethod(identity, sampling)(images, None).images.numpy()
    assert sampling.field_size == 128
    assert np.ptp(found[:, :30], axis=(1, 2)) == pytest.approx(0, abs=1e-4)
    assert found[:, 0, 0] == pytest.approx(5, abs=0.2)
    inner = slice(64 - 26, 64 + 26)
    assert without_plane(found[:, inner, inner] - images[:, inner, inner]).std() < 1e-4


def test_the_data_beyond_the_working_band_are_left_out_or_carried(identity):
    sampling = WorkingSampling.choose(box_size=128, pixel_size=1.5, diameter=110)
    images = discs(3, 128, 30)
    left_out, carried = (GeneralMethod(identity, sampling, beyond=beyond)(images, None).images.numpy() for beyond in ("nothing", "raw"))
    power = np.abs(np.fft.rfft2(left_out)) ** 2
    assert power[:, 33:96].max() < 1e-3 * power[:, 1:5, 1:5].mean()
    assert without_plane(carried - images).std() < 0.01


def test_the_result_follows_the_grey_scale_of_its_input(weights):
    restorer = GeneralRestorer.load(weights, device="cpu", precision="float32")
    method = GeneralMethod(restorer, WorkingSampling.choose(box_size=64, pixel_size=3.0, diameter=110))
    images, ctf = discs(4, 64, 18), ctf_2d(ctf_parameters(4, np.random.default_rng(0)), box_size=64, pixel_size=3.0)
    one, other = method(images, ctf), method(1000 * images - 300, ctf)
    assert other.images.numpy() == pytest.approx(1000 * one.images.numpy() - 300, abs=0.5)
    assert other.deviation.numpy() == pytest.approx(1000 * one.deviation.numpy(), rel=1e-3)
    assert other.log_evidence.numpy() == pytest.approx(one.log_evidence.numpy(), abs=1e-3)
    assert float((one.images - torch.from_numpy(images)).std()) > 0.5


def test_whitening_is_undone(identity):
    method = GeneralMethod(identity, WorkingSampling.choose(box_size=64, pixel_size=3.0, diameter=110))
    images = discs(4, 64, 18)
    spectra = torch.stack([1 + 9 * torch.exp(-torch.arange(33) / 6), torch.ones(33)])[[0, 1, 0, 1]]
    found = method(images, None, noise_power=spectra).images.numpy()
    assert without_plane(found - method(images, None).images.numpy()).std() < 0.02


def test_an_image_without_variation_holds_nothing(identity):
    images = discs(3, 64, 18)
    images[1] = 4
    found = GeneralMethod(identity, WorkingSampling.choose(box_size=64, pixel_size=3.0, diameter=110))(images, None)
    assert found.constant.tolist() == [False, True, False]
    assert found.images[1].numpy() == pytest.approx(4)


@pytest.mark.parametrize(("box", "pixel_size", "diameter"), [(128, 1.5, 110), (128, 3.0, 84)])
def test_the_ctf_of_the_window_is_that_of_its_frequencies(box, pixel_size, diameter):
    parameters = ctf_parameters(3, np.random.default_rng(0))
    sampling = WorkingSampling.choose(box_size=box, pixel_size=pixel_size, diameter=diameter)
    found = sampling.working_ctf(ctf_2d(parameters, box_size=box, pixel_size=pixel_size))
    expected = ctf_2d(parameters, box_size=WINDOW, pixel_size=sampling.working_pixel_size)
    low = slice(0, 10)
    assert float((found - expected)[:, low, low].abs().mean()) < (1e-5 if sampling.field_size == WINDOW else 0.05)


@pytest.mark.parametrize("radius", [12, 20])
def test_the_diameter_is_measured(tmp_path, radius):
    table = ParticleTable.read(write_table(tmp_path, discs(300, 64, radius, height=0.4)))
    measured = measure_diameter(table)
    assert measured.is_seen
    assert measured.angstrom == pytest.approx(2 * radius * 3.0, rel=0.2)
    assert not measure_diameter(ParticleTable.read(write_table(tmp_path, discs(300, 64, 0, height=0), name="noise"))).is_seen


def test_dark_particles_are_seen_to_be_dark(tmp_path):
    table = ParticleTable.read(write_table(tmp_path, -discs(60, 64, 15)))
    assert contrast_sign(table, "auto", diameter=90) == -1
    assert contrast_sign(table, False, diameter=90) == 1


def test_every_row_and_column_comes_back_with_its_evidence(tmp_path, weights):
    names = {
        "rlnMicrographName": [f"mic {number}.mrc".replace(" ", "") for number in range(70)],
        "rlnSomething": [f"{number}.50" for number in range(70)],
    }
    star = write_table(tmp_path, discs(70, 100, 18), pixel_size=2.0, extra=names)
    restore_general(
        star=star, **outputs(tmp_path), deviation_stack=tmp_path / "deviation.mrcs", weights=str(weights), dtype="float16", diameter=130.0
    )
    before, after = ParticleTable.read(star), ParticleTable.read(tmp_path / "out.star")
    for name in before.particles.columns:
        if name != "rlnImageName":
            assert after.particles.column(name) == before.particles.column(name)
    assert after.particles.column("rlnImageOriginalName") == before.particles.column("rlnImageName")
    assert after.particles.column("rlnCryorestoreRestoredCtf") == ["applied"] * 70
    evidence, accepted = after.particles.floats("rlnCryorestoreLogEvidence"), after.particles.ints("rlnCryorestoreAccepted")
    assert (accepted == (evidence > 0)).all()
    assert after.load_images().shape == (70, 100, 100)  # and their hashes are right
    assert (after.box_size, after.pixel_size) == (100, 2.0)
    figures = json.loads((tmp_path / "out.json").read_text())
    assert (figures["particles"], figures["weights"], figures["shared_by_both_halves"]) == (70, "narrow", True)
    assert figures["sets"][0]["finest_resolution"] == pytest.approx(2 * 200 / 64)


def test_the_result_does_not_depend_on_how_many_are_read_at_once(tmp_path, weights):
    star = write_table(tmp_path, discs(70, 64, 18))
    stacks = []
    for batch_size in (64, 17):
        restore_general(star=star, **outputs(tmp_path), weights=str(weights), batch_size=batch_size, precision="float32")
        stacks.append(ParticleTable.read(tmp_path / "out.star").load_images())
    assert stacks[0] == pytest.approx(stacks[1], abs=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")
def test_a_gpu_restores_as_the_processor_does(tmp_path, weights):
    star = write_table(tmp_path, discs(70, 64, 18))
    stacks = []
    for device in ("cpu", "cuda"):
        restore_general(star=star, **outputs(tmp_path), weights=str(weights), device=device, precision="float32")
        stacks.append(ParticleTable.read(tmp_path / "out.star").load_images())
    assert stacks[0] == pytest.approx(stacks[1], abs=1e-2)


def test_a_table_of_cryosparc_is_restored_like_one_of_relion(tmp_path, weights):
    star = write_table(tmp_path, discs(5, 64, 18))
    table = ParticleTable.read(star)
    write_particles_cs(tmp_path / "particles.cs", table.with_columns({"rlnPhaseShift": np.zeros(5)}))
    stacks = []
    for path in (star, tmp_path / "particles.cs"):
        restore_general(star=[path], **outputs(tmp_path), weights=str(weights), diameter=110.0, whiten="none", invert_contrast=False)
        stacks.append(ParticleTable.read(tmp_path / "out.star").load_images())
    assert stacks[0] == pytest.approx(stacks[1], abs=2e-3)


def test_without_a_defocus_the_worse_mode_is_told(tmp_path, weights, caplog):
    star = write_table(tmp_path, discs(5, 64, 18), ctf=False)
    restore_general(star=star, **outputs(tmp_path), weights=str(weights), diameter=110.0)
    assert "without knowing their CTF" in caplog.text
    assert ParticleTable.read(tmp_path / "out.star").particles.column("rlnCryorestoreRestoredCtf") == ["unknown"] * 5
    assert json.loads((tmp_path / "out.json").read_text())["ctf"] == "unknown"
    with pytest.raises(CryorestoreError, match="_rlnDefocusU is missing"):
        restore_general(star=star, **outputs(tmp_path), weights=str(weights), ctf="corrected")


def test_a_corrected_particle_has_a_ctf_of_one_in_its_table(tmp_path, weights):
    star = write_table(tmp_path, discs(5, 64, 18))
    restore_general(star=star, **outputs(tmp_path), weights=str(weights), diameter=110.0, ctf="corrected")
    table = ParticleTable.read(tmp_path / "out.star")
    assert ctf_2d(table.ctf_parameters(), box_size=64, pixel_size=3.0).numpy() == pytest.approx(1)
    assert table.particles.floats("rlnCryorestoreOriginalDefocusU") == pytest.approx(np.linspace(1e4, 2e4, 5))
    assert table.optics.floats("rlnCryorestoreOriginalAmplitudeContrast").tolist() == [0.1]


def test_particles_of_two_pixel_sizes_go_into_two_stacks_and_keep_their_order(tmp_path, with_identity):
    images = discs(6, 64, 18)
    star = write_table(tmp_path, images)
    optics = ParticleTable.read(star).optics
    twice = {name: optics.column(name) * 2 for name in optics.columns} | {"rlnOpticsGroup": ["1", "2"], "rlnImagePixelSize": ["3.0", "2.5"]}
    particles = ParticleTable.read(star).particles.with_columns({"rlnOpticsGroup": np.array([2, 1, 1, 2, 1, 2])})
    write_star(star, {"optics": StarBlock.from_columns(twice), "particles": particles})
    restore_general(star=star, **outputs(tmp_path), diameter=110.0, whiten="none", invert_contrast=False)
    table = ParticleTable.read(tmp_path / "out.star")
    assert [name.rpartition("/")[2] for name in table.particles.column("rlnImageName")] == [f"out_{1 + (row in (1, 2, 4))}.mrcs" for row in range(6)]
    assert without_plane(table.load_images() - images).std() < 1e-3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"beyond": "all"}, "beyond: found 'all', expected one of nothing, raw"),
        ({"ctf": "none"}, "ctf: found 'none'"),
        ({"whiten": "yes"}, "whiten: found 'yes'"),
        ({"invert_contrast": "maybe"}, "invert_contrast: found 'maybe'"),
        ({"diameter": 900.0}, "diameter: found 900 angstrom"),
        ({"weights": "absent.safetensors"}, "absent.safetensors"),
        ({"star": "absent.star"}, "absent.star"),
    ],
)
def test_what_cannot_be_is_refused_in_one_message_and_nothing_is_written(tmp_path, weights, change, told):
    star = write_table(tmp_path, discs(5, 64, 18))
    with pytest.raises(CryorestoreError, match=told):
        restore_general(**{"star": star, **outputs(tmp_path), "weights": str(weights), "diameter": 110.0, **change})
    assert not any(path.exists() for path in outputs(tmp_path).values())


def test_images_that_are_multiplied_by_their_ctf_are_refused(tmp_path, weights):
    star = write_table(tmp_path, discs(5, 64, 18))
    table = ParticleTable.read(star)
    write_star(star, {"optics": table.optics.with_columns({"rlnCtfDataAreCtfPremultiplied": np.array([1])}), "particles": table.particles})
    with pytest.raises(CryorestoreError, match="rlnCtfDataAreCtfPremultiplied"):
        restore_general(star=star, **outputs(tmp_path), weights=str(weights))


def test_a_run_that_ends_early_leaves_nothing_and_what_was_there_stays(tmp_path, with_identity, monkeypatch):
    star = write_table(tmp_path, discs(70, 64, 18))
    restore_general(star=star, **outputs(tmp_path), diameter=110.0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls = []

    def fails(self, inputs):
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return torch.stack([inputs[:, 0]] * 2, 1) * 0, torch.zeros(len(inputs), 2, 64, 64), torch.zeros(len(inputs))

    monkeypatch.setattr(Identity, "forward", fails)
    with pytest.raises(KeyboardInterrupt):
        restore_general(star=star, **outputs(tmp_path), diameter=110.0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


PEAK = """
import sys
from pathlib import Path
from cryorestore.general.command import restore
restore(Path(sys.argv[1]), out=Path(sys.argv[2]), weights=sys.argv[3], deviation=True, threads=1)
status = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024)
"""


def test_memory_does_not_grow_with_the_number_of_particles(tmp_path, weights):
    peaks = []
    for count in (600, 3600):
        star = write_table(tmp_path, discs(count, 64, 18), name=f"of{count}")
        command = [sys.executable, "-c", PEAK, str(star), str(tmp_path / f"out{count}"), str(weights)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)}, check=True)
        peaks.append(float(done.stdout))
    # 3,000 images of 64 px are 47 MiB, their deviations as many; a row of the table may take 1 KiB
    assert peaks[1] - peaks[0] < 20
