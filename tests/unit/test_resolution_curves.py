import csv
import json
from xml.etree import ElementTree

import pytest
import torch

from cryorestore.errors import CryorestoreError
from cryorestore.fourier import radial_shells_3d
from cryorestore.fsc import FscCurve
from cryorestore.io.mrc import write_map
from cryorestore.io.star import read_star
from cryorestore.masks import soft_sphere
from cryorestore.resolution.correction import corrected_curve, masked_curves, randomise_phases
from cryorestore.resolution.curves import write_fsc

BOX, PIXEL_SIZE = 48, 2.0
NAMES = {
    "curve": "fsc.csv",
    "plot": "fsc.svg",
    "figures": "fsc.json",
    "star": "fsc.star",
    "xml": "fsc.xml",
    "picture": "fsc.png",
}


def white(seed):
    return torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(seed))


def blob():
    """A particle that has power in the lowest shells only."""
    return 20 * soft_sphere(BOX, 4.0, 14.0)


@pytest.fixture
def half_maps():
    return blob() + white(1), blob() + white(2)


@pytest.fixture
def files(tmp_path, half_maps):
    for name, volume in zip(("half_map_1", "half_map_2"), half_maps, strict=True):
        write_map(tmp_path / f"{name}.mrc", volume.numpy(), pixel_size=PIXEL_SIZE)
    write_map(tmp_path / "mask.mrc", soft_sphere(BOX, 12.0, 4.0).numpy(), pixel_size=PIXEL_SIZE)

    def write(folder="out", *, masked=True, **changes):
        (tmp_path / folder).mkdir(exist_ok=True)
        outputs = {key: tmp_path / folder / name for key, name in NAMES.items()}
        halves = {name: tmp_path / f"{name}.mrc" for name in ("half_map_1", "half_map_2")}
        write_fsc(**(halves | outputs | {"mask_file": tmp_path / "mask.mrc" if masked else None} | changes))
        return outputs

    return write


def test_random_phases_keep_amplitudes_and_all_below_their_shell():
    volume = blob() + white(1)
    before, after = torch.fft.rfftn(volume), torch.fft.rfftn(randomise_phases(volume, from_shell=9, seed=5))
    assert torch.allclose(before.abs(), after.abs(), atol=0.02)
    below = radial_shells_3d(BOX) < 9
    assert torch.allclose(before[below], after[below], atol=0.02)
    beyond = radial_shells_3d(BOX) > 9
    cosine = (before * after.conj()).real[beyond] / before.abs()[beyond] ** 2
    assert abs(float(cosine.mean())) < 0.02
    assert float(cosine.std()) == pytest.approx(0.5**0.5, abs=0.02)


def test_the_correction_begins_two_shells_above_the_first_randomised_one():
    frequency = torch.arange(6) / 96
    masked, noise = FscCurve(frequency, torch.tensor([1, 0.9, 0.8, 0.6, 0.6, 0.2])), FscCurve(frequency, torch.tensor([1, 0.9, 0.7, 0.5, 0.2, 0.2]))
    assert corrected_curve(masked, noise, randomised_from=2).correlation.tolist() == pytest.approx([1, 0.9, 0.8, 0.6, 0.5, 0.0])


def test_what_a_hard_tight_mask_adds_is_taken_away_again(half_maps):
    """Beyond shell 12 the halves share nothing but the mask, whose edge carries the blob there."""
    mask = (soft_sphere(BOX, 9.0, 0.0) > 0.5).float()
    curves = masked_curves(*half_maps, mask, pixel_size=PIXEL_SIZE, seed=1)
    assert curves.randomised_from is not None
    assert curves.randomised_from < 9
    far = slice(12, 24)
    assert abs(float(curves.unmasked.correlation[far].mean())) < 0.05
    assert float(curves.masked.correlation[far].mean()) > 0.3
    assert abs(float(curves.corrected.correlation[far].mean())) < 0.1


def test_maps_that_agree_everywhere_leave_nothing_to_randomise():
    curves = masked_curves(white(1), white(1), soft_sphere(BOX, 12.0, 4.0), pixel_size=PIXEL_SIZE, seed=1)
    assert curves.randomised is None
    assert curves.headline.resolution(0.143) is None


def test_without_a_mask_the_headline_is_the_unmasked_curve(files):
    outputs = files(masked=False)
    rows = list(csv.DictReader(outputs["curve"].open()))
    assert len(rows) == BOX // 2 + 1
    assert float(rows[4]["resolution"]) == pytest.approx(BOX * PIXEL_SIZE / 4)
    assert all(row["fsc"] == row["fsc_unmasked"] and row["fsc_masked"] == "" for row in rows)
    figures = json.loads(outputs["figures"].read_text())
    assert (figures["headline"], figures["mask"], set(figures["curves"])) == ("unmasked", None, {"unmasked"})
    assert "rlnFourierShellCorrelationCorrected" not in read_star(outputs["star"]).blocks["fsc"]


def test_under_a_mask_the_headline_is_the_corrected_curve_and_the_unmasked_one_stands_beside(files):
    outputs = files()
    rows = list(csv.DictReader(outputs["curve"].open()))
    assert all(row["fsc"] == row["fsc_corrected"] for row in rows)
    figures = json.loads(outputs["figures"].read_text())
    assert figures["headline"] == "corrected"
    assert figures["resolutions"] == figures["curves"]["corrected"]
    assert figures["curves"]["unmasked"]["0.143"] > 0
    star, points = read_star(outputs["star"]).blocks, ElementTree.parse(outputs["xml"]).getroot().findall("coordinate")
    values = star["fsc"].floats("rlnFourierShellCorrelationCorrected")
    assert [float(point.findtext("y")) for point in points] == pytest.approx(values.tolist())
    assert float(star["general"].column("rlnRandomiseFrom")[0]) == pytest.approx(figures["randomised_from"], rel=1e-5)
    assert outputs["picture"].read_bytes().startswith(b"\x89PNG")


def test_two_runs_give_the_same_bytes_and_another_seed_another_randomised_curve(files):
    first, second, other = files("first"), files("second"), files("other", seed=2)
    assert all(first[name].read_bytes() == second[name].read_bytes() for name in NAMES)
    columns = [[row["fsc_randomised"] for row in csv.DictReader(outputs["curve"].open())] for outputs in (first, other)]
    assert columns[0] != columns[1]


def test_a_mask_so_hard_that_it_correlates_at_the_resolution_is_told(files, tmp_path):
    write_map(tmp_path / "hard.mrc", (soft_sphere(BOX, 9.0, 0.0) > 0.5).float().numpy(), pixel_size=PIXEL_SIZE)
    assert any("mask" in warning for warning in json.loads(files(mask_file=tmp_path / "hard.mrc")["figures"].read_text())["warnings"])


@pytest.mark.parametrize(("values", "expected"), [(torch.ones(32, 32, 32), "expected the maps' "), (torch.full((BOX,) * 3, 2.0), "expected 0")])
def test_a_mask_that_does_not_fit_is_refused(files, tmp_path, values, expected):
    write_map(tmp_path / "wrong.mrc", values.numpy(), pixel_size=PIXEL_SIZE)
    with pytest.raises(CryorestoreError, match=expected):
        files(mask_file=tmp_path / "wrong.mrc")
