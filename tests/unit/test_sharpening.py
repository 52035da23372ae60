import csv
import json

import numpy as np
import pytest
import torch

from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import read_map, write_map
from cryorestore.io.star import read_star
from cryorestore.resolution.curves import write_fsc
from cryorestore.resolution.filters import squared_radius
from cryorestore.resolution.sharpening import fsc_weights, sharpen_map

BOX, PIXEL_SIZE, BFACTOR = 48, 1.5, 120.0


def falling_map():
    """Random phases, amplitudes that fall by a B-factor of 120 angstrom^2."""
    phases = torch.fft.rfftn(torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(1)))
    squared_frequency = squared_radius(BOX) / (BOX * PIXEL_SIZE) ** 2
    return torch.fft.irfftn(phases / phases.abs() * torch.exp(-BFACTOR / 4 * squared_frequency), s=(BOX,) * 3)


@pytest.fixture
def sharpen(tmp_path):
    halves = {f"half_map_{half}": tmp_path / f"half{half}.mrc" for half in (1, 2)}
    for path in halves.values():
        write_map(path, falling_map().numpy(), pixel_size=PIXEL_SIZE)
    fsc = {"curve": tmp_path / "fsc.csv", "figures": tmp_path / "fsc.json"}
    write_fsc(**halves, **fsc, plot=tmp_path / "fsc.svg")
    outputs = {"map": "s.mrc", "guinier": "g.csv", "plot": "g.svg", "star": "g.star", "sharpening": "s.json"}

    def run(**options):
        sharpen_map(**halves, **fsc, **{name: tmp_path / file for name, file in outputs.items()}, **options)
        return {name: tmp_path / file for name, file in outputs.items()}

    return run


def test_the_b_factor_is_found_and_undone(sharpen):
    outputs = sharpen()
    made = json.loads(outputs["sharpening"].read_text())
    assert made["bfactor"] == pytest.approx(-BFACTOR, rel=0.02)
    assert made["bfactor_from"] == "fitted"
    volume, pixel_size = read_map(outputs["map"])
    assert pixel_size == pytest.approx(PIXEL_SIZE)
    amplitudes = torch.fft.rfftn(torch.from_numpy(volume)).abs()
    radius = squared_radius(BOX).sqrt()
    low, high = (float(amplitudes[(radius > at - 0.5) & (radius < at + 0.5)].mean()) for at in (8, 22))
    assert high / low == pytest.approx(1.0, abs=0.05)


def test_the_guinier_plot_is_the_line_that_was_put_in(sharpen):
    outputs = sharpen()
    rows = list(csv.DictReader(outputs["guinier"].open()))
    x, y = (np.array([float(row[name]) for row in rows[8:]]) for name in ("squared_frequency", "ln_amplitude"))
    assert np.polyfit(x, y, 1)[0] == pytest.approx(-BFACTOR / 4, rel=0.02)
    flat = np.array([float(row["ln_amplitude_sharpened"]) for row in rows[8:-1]])  # the last shell is cut at Nyquist
    assert np.ptp(flat) < 0.05
    assert len(read_star(outputs["star"]).blocks["guinier"]) == BOX // 2 + 1


def test_a_given_b_factor_is_applied_as_it_is(sharpen):
    outputs = sharpen(bfactor=-40.0)
    assert json.loads(outputs["sharpening"].read_text())["bfactor"] == -40.0
    volume, expected = torch.from_numpy(read_map(outputs["map"])[0]), falling_map()
    frequency = squared_radius(BOX) / (BOX * PIXEL_SIZE) ** 2
    ratio = torch.fft.rfftn(volume).abs() / torch.fft.rfftn(expected).abs() / torch.exp(10.0 * frequency)
    assert torch.allclose(ratio[squared_radius(BOX) < 20**2], torch.ones(()), atol=0.01)


def test_too_few_shells_are_not_fitted_and_that_is_said(sharpen):
    made = json.loads(sharpen(fit_from=3.1)["sharpening"].read_text())
    assert (made["bfactor"], made["fit"]) == (0.0, None)
    assert "nothing was fitted" in made["bfactor_from"]


def test_the_low_pass_takes_what_lies_beyond(sharpen):
    amplitudes = torch.fft.rfftn(torch.from_numpy(read_map(sharpen(lowpass=6.0)["map"])[0])).abs()
    assert float(amplitudes[squared_radius(BOX) > 13**2 + 1].max()) < 1e-3 * float(amplitudes[squared_radius(BOX) < 11**2].mean())


def test_weights_end_at_the_first_shell_without_signal():
    weights = fsc_weights(torch.tensor([-1.0, 0.6, 0.0, 0.9]))
    assert weights.tolist() == pytest.approx([1.0, (1.2 / 1.6) ** 0.5, 0.0, 0.0])


def test_a_curve_of_another_box_is_refused(sharpen, tmp_path):
    lines = (tmp_path / "fsc.csv").read_text().splitlines()
    (tmp_path / "fsc.csv").write_text("\n".join(lines[:-3]) + "\n")
    with pytest.raises(CryorestoreError, match="found 22 shells, expected 25"):
        sharpen()
