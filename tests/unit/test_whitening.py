import csv

import numpy as np
import pytest
import torch

from cryorestore.errors import CryorestoreError
from cryorestore.fourier import radial_average, spread_shells, to_fourier, to_real
from cryorestore.io.mrc import MrcStackWriter
from cryorestore.io.star import StarBlock, write_star
from cryorestore.masks import background_mask
from cryorestore.normalize import normalize_particles
from cryorestore.particles import ParticleTable
from cryorestore.whitening import colour_images, smooth_spectrum, whiten_images

BOX, COUNT, BG_RADIUS = 48, 160, 16
SHELLS = torch.arange(BOX // 2 + 1)
COLOURS = {"a.mrc": 0.3 + 4 * torch.exp(-SHELLS / 6.0), "b.mrc": 0.5 + 1.5 * torch.exp(-((SHELLS - 14.0) ** 2) / 30)}
HALVES, GROUPS = np.arange(COUNT) % 2 + 1, np.arange(COUNT) // 2 % 2 + 1


def coloured_noise(power, count, seed):
    white = torch.randn(count, BOX, BOX, generator=torch.Generator().manual_seed(seed))
    return to_real(to_fourier(white) * spread_shells(power.sqrt(), BOX)).numpy()


def write_table(folder, images, *, halves=HALVES, names=None):
    with MrcStackWriter(folder / "raw.mrcs", count=len(images), box_size=BOX, pixel_size=2.0) as writer:
        writer.append(images)
    optics = {"rlnOpticsGroupName": ["one", "two"], "rlnOpticsGroup": ["1", "2"], "rlnImagePixelSize": ["2.0", "2.0"]}
    rows = {
        "rlnImageName": [f"{number}@raw.mrcs" for number in range(1, len(images) + 1)],
        "rlnOpticsGroup": GROUPS,
        "rlnMicrographName": names or ["a.mrc"] * len(images),
    } | ({} if halves is None else {"rlnRandomSubset": halves})
    write_star(folder / "raw.star", {"optics": StarBlock.from_columns(optics), "particles": StarBlock.from_columns(rows)})


def normalize(folder, whiten):
    names = {"normalized_stack": "n.mrcs", "normalized_star": "n.star", "statistics_csv": "s.csv", "rejects_star": "r.star"}
    files = {key: folder / name for key, name in names.items()}
    normalize_particles(star=folder / "raw.star", **files, noise_spectra=folder / "spectra.csv", bg_radius=BG_RADIUS, whiten=whiten)
    return ParticleTable.read(folder / "n.star").load_images()


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_coloured_noise_of_each_micrograph_becomes_white(tmp_path):
    images = np.concatenate([coloured_noise(power, COUNT // 2, seed) for seed, power in enumerate(COLOURS.values())])
    write_table(tmp_path, 700 + 30 * images, names=[name for name in COLOURS for _ in range(COUNT // 2)])
    whitened = normalize(tmp_path, "micrograph")
    coefficients = (2 * torch.pi * SHELLS).clamp_min(1)
    for part in (whitened[: COUNT // 2], whitened[COUNT // 2 :]):
        power = radial_average(to_fourier(torch.from_numpy(part)).abs().square()).mean(0)
        error = 4 * (2 / (coefficients * COUNT / 2)).sqrt() + 0.06  # four errors of the measurement, and that of the spectrum
        assert ((power - 1).abs() < error)[2:].all()
        outside = part[:, background_mask(BOX, BG_RADIUS).numpy()]
        np.testing.assert_allclose(outside.std(1), 1, atol=1e-5)
        np.testing.assert_allclose(outside.mean(1), 0, atol=1e-5)


def test_without_whitening_that_noise_is_far_from_white(tmp_path):
    write_table(tmp_path, coloured_noise(COLOURS["a.mrc"], COUNT, 1))
    power = radial_average(to_fourier(torch.from_numpy(normalize(tmp_path, "none"))).abs().square()).mean(0)
    assert power[3] > 4 * power[20]
    assert len(read_rows(tmp_path / "spectra.csv")) == 1


def test_signal_is_transferred_by_one_over_the_root_of_the_spectrum():
    power = torch.linspace(4, 0.25, BOX // 2 + 1)
    axis = torch.arange(BOX) - BOX // 2
    for shell in (1, 5, 20):
        wave = torch.cos(2 * torch.pi * shell * axis / BOX).expand(1, BOX, BOX)
        torch.testing.assert_close(whiten_images(wave, power), wave / power[shell].sqrt(), atol=1e-5, rtol=0)


def test_the_applied_spectrum_and_the_statistics_give_the_raw_images_back(tmp_path):
    images = 700 + 30 * coloured_noise(COLOURS["a.mrc"], COUNT, 1)
    write_table(tmp_path, images)
    whitened = normalize(tmp_path, "micrograph")
    group, count, *power = read_rows(tmp_path / "spectra.csv")[1]
    assert (group, int(count)) == ("a.mrc", COUNT)
    y, x = np.indices((BOX, BOX)) - BOX // 2
    with (tmp_path / "s.csv").open(newline="") as file:
        for row in list(csv.DictReader(file))[:5]:
            value = {name: float(cell) for name, cell in row.items()}
            coloured = whitened[int(value["row"])] * value["whitened_sigma"] + value["whitened_mean"]
            undone = colour_images(torch.from_numpy(coloured)[None].float(), torch.tensor([float(cell) for cell in power]))[0].numpy()
            plane = value["mean"] + value["ramp_x"] * x + value["ramp_y"] * y
            np.testing.assert_allclose(undone * value["sigma"] + plane, images[int(value["row"])], atol=0.02)


def test_the_frequencies_of_the_file_are_those_of_the_shells(tmp_path):
    write_table(tmp_path, coloured_noise(COLOURS["a.mrc"], COUNT, 1))
    normalize(tmp_path, "micrograph")
    head = read_rows(tmp_path / "spectra.csv")[0]
    assert [float(cell) for cell in head[2:]] == pytest.approx([shell / (BOX * 2.0) for shell in range(BOX // 2 + 1)], rel=1e-5)


def test_changing_one_half_leaves_the_other_half_as_it_was(tmp_path):
    images = coloured_noise(COLOURS["a.mrc"], COUNT, 1)
    write_table(tmp_path, images)
    before = normalize(tmp_path, "half_and_optics_group")
    assert [row[0] for row in read_rows(tmp_path / "spectra.csv")[1:]] == [
        f"half {half}, optics group {group}" for half, group in ((1, 1), (2, 1), (1, 2), (2, 2))
    ]
    images[HALVES == 2] = coloured_noise(COLOURS["b.mrc"], COUNT // 2, 2)
    write_table(tmp_path, images)
    after = normalize(tmp_path, "half_and_optics_group")
    assert after[HALVES == 1].tobytes() == before[HALVES == 1].tobytes()
    assert not np.array_equal(after[HALVES == 2], before[HALVES == 2])


@pytest.mark.parametrize("halves", [None, np.where(np.arange(COUNT) == 3, 0, HALVES)])
def test_half_sets_that_are_not_known_are_refused_with_the_alternative(tmp_path, halves):
    write_table(tmp_path, coloured_noise(COLOURS["a.mrc"], COUNT, 1), halves=halves)
    with pytest.raises(CryorestoreError, match=r"rlnRandomSubset.*choose micrograph"):
        normalize(tmp_path, "half_and_optics_group")


def test_few_images_are_smoothed_over_neighbouring_shells():
    power = np.exp(np.random.default_rng(1).standard_normal(BOX // 2 + 1))
    np.testing.assert_allclose(smooth_spectrum(power, images=10**6)[1:], power[1:])
    smooth = smooth_spectrum(power, images=1)
    assert np.log(smooth).std() < 0.5 * np.log(power).std()
    np.testing.assert_allclose(smooth_spectrum(np.full(25, 3.0), images=2), 3.0)
