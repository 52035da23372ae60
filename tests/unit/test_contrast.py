import numpy as np
import pytest
import torch

from cryorestore.contrast import FEWEST_BOXES, judge_contrast
from cryorestore.errors import CryorestoreError
from cryorestore.extract import cut_boxes
from cryorestore.io.mrc import read_micrograph
from cryorestore.io.star import read_star
from cryorestore.particles import ParticleTable
from helpers import simulate_particles


def picked_boxes(micrograph, picks, box_size):
    """Boxes wholly inside one micrograph."""
    image, _ = read_micrograph(micrograph)
    rows = list(read_star(picks).blocks.values())[-1]
    places = np.stack([rows.floats("rlnCoordinateX"), rows.floats("rlnCoordinateY")], 1)
    corners = np.trunc(places).astype(np.int64) - box_size // 2
    inside = ((corners >= 0) & (corners + box_size <= np.array(image.shape[::-1]))).all(1)
    return cut_boxes(image, corners[inside], box_size=box_size, edge_policy="replicate")


@pytest.fixture(scope="module")
def apoferritin(data_root):
    """Boxes of each of the nine micrographs: a hollow shell, crowded, dark."""
    folder = data_root / "apoferritin-empiar10146/micrographs"
    return [picked_boxes(path, path.with_name(f"{path.stem}_manualpick.star"), 144) for path in sorted(folder.glob("*.mrc"))]


def test_experimental_apoferritin_is_dark_and_its_negative_white(apoferritin):
    for boxes in apoferritin:
        contrast, score = judge_contrast(boxes)
        assert (contrast, judge_contrast(-boxes)[0]) == ("dark", "white")
        assert judge_contrast(-boxes)[1] == pytest.approx(-score)


@pytest.mark.parametrize("box_size", [96, 120, 160])
def test_the_verdict_does_not_turn_with_the_box(data_root, box_size):
    path = data_root / "apoferritin-empiar10146/micrographs/May08_04.32.27.mrc"
    assert judge_contrast(picked_boxes(path, path.with_name(f"{path.stem}_manualpick.star"), box_size))[0] == "dark"


def test_particles_in_a_contaminated_micrograph_are_dark(data_root):
    folder = data_root / "micrograph-contaminated"
    boxes = picked_boxes(folder / "Ucsf_stack_1142_DW.mrc", folder / "Ucsf_stack_1142_DW_autopick.star", 48)
    assert judge_contrast(boxes)[0] == "dark"


def test_extracted_tilts_of_a_ribosome_are_white(data_root):
    table = ParticleTable.read(data_root / "ribosome-tilts-c1/ribosome_tilts_1430.star")
    assert judge_contrast(table.load_images())[0] == "white"


def test_simulated_particles_are_white_and_dark_when_inverted():
    images = simulate_particles(200, sigma=2.0)["images"].numpy()
    assert judge_contrast(images)[0] == "white"
    assert judge_contrast(-images)[0] == "dark"


def test_gradients_and_grey_scales_do_not_change_the_verdict():
    images = simulate_particles(200, sigma=2.0)["images"].numpy()
    axis = np.arange(images.shape[-1]) - images.shape[-1] // 2
    generator = np.random.default_rng(2)
    slopes = generator.uniform(-5, 5, (2, len(images), 1, 1))
    scale = generator.uniform(1, 100, (len(images), 1, 1))
    shown = (100 + scale * (images + slopes[0] * axis + slopes[1] * axis[:, None])).astype(np.float32)
    assert judge_contrast(shown)[1] == pytest.approx(judge_contrast(images)[1], rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_unclear(seed):
    noise = torch.randn(300, 32, 32, generator=torch.Generator().manual_seed(seed)).numpy()
    assert judge_contrast(noise)[0] == "unclear"


def test_noise_on_a_drifting_background_is_unclear():
    generator = np.random.default_rng(4)
    y, x = np.mgrid[:900, :900]
    image = 1e3 + 0.4 * x - 0.2 * y + 30 * np.sin(x / 90) * np.cos(y / 110) + 5 * generator.standard_normal((900, 900))
    boxes = cut_boxes(image.astype(np.float32), generator.integers(0, 836, (300, 2)), box_size=64, edge_policy="replicate")
    assert judge_contrast(boxes)[0] == "unclear"


def test_boxes_that_cannot_be_used_are_left_out():
    images = simulate_particles(60, sigma=1.0)["images"].numpy()
    expected = judge_contrast(images)
    bad = np.concatenate([images, np.full((2, *images.shape[1:]), 7.0, np.float32), np.full((1, *images.shape[1:]), np.nan, np.float32)])
    assert judge_contrast(bad) == expected


def test_few_boxes_are_unclear():
    images = simulate_particles(FEWEST_BOXES - 1, sigma=0.5)["images"].numpy()
    assert judge_contrast(images) == ("unclear", 0.0)


def test_what_is_no_stack_is_refused():
    with pytest.raises(CryorestoreError, match=r"\(n, box, box\)"):
        judge_contrast(np.zeros((3, 8, 10), np.float32))
