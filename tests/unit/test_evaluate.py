import json

import numpy as np
import pytest

from cryorestore.errors import CryorestoreError
from cryorestore.particles import ParticleTable
from results_tree import BOX, COUNT, JUNK_EVERY, make_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def evaluation(tree):
    return json.loads(tree.evaluate()[0].read_text())


def test_only_held_out_true_particles_are_scored(evaluation):
    picks = np.arange(1, COUNT)
    held_out = (picks - 1) % 2 == 1
    assert evaluation["scored_particles"] == int((held_out & (picks % JUNK_EVERY != 0)).sum())
    assert evaluation["particles_restored"] == COUNT - 1


def test_a_tenth_of_the_noise_is_a_hundredth_of_the_error(evaluation):
    # restored = clean + 0.1 noise, raw = clean + noise: 20 dB between them, for each particle
    gain = evaluation["paired_psnr_restored_minus_raw"]
    assert gain["mean"] == pytest.approx(20.0, abs=0.05)
    assert evaluation["nmse"]["restored"]["mean"] == pytest.approx(evaluation["nmse"]["raw"]["mean"] / 100, rel=0.01)


def test_methods_rank_as_they_must(evaluation):
    psnr = {name: value["mean"] for name, value in evaluation["psnr"].items()}
    assert psnr["raw"] < psnr["wiener"] < psnr["restored"]
    assert evaluation["paired_psnr_restored_minus_wiener"]["ci95"][0] > 0
    assert evaluation["frc05"]["restored"] is None or evaluation["frc05"]["restored"] < evaluation["frc05"]["raw"]


def test_what_noise_is_left_lowers_the_slope(evaluation):
    # clean on clean + noise: slope = var(clean) / (var(clean) + var(noise)) = 1 / (1 + NMSE)
    assert evaluation["slope"]["restored"] == pytest.approx(1 / (1 + evaluation["nmse"]["restored"]["mean"]), abs=0.02)
    assert evaluation["offset"]["restored"] == pytest.approx(0.0, abs=0.01)


def test_evidence_is_counted_over_all_particles(evaluation):
    assert evaluation["evidence"]["accepted_true_fraction"] == 1.0
    assert evaluation["evidence"]["accepted_junk_fraction"] == 0.0
    assert sum(evaluation["evidence"]["histograms"]["junk"]) == len(range(JUNK_EVERY, COUNT, JUNK_EVERY))


def test_the_montage_shows_the_named_particles(tree):
    _, montage = tree.evaluate()
    with np.load(montage, allow_pickle=False) as archive:
        shown = dict(archive)
    assert shown["raw"].shape == (6, BOX, BOX)
    assert set(shown) == {"raw", "wiener", "restored", "truth", "deviation", "image_names"}
    table = ParticleTable.read(tree.root / "normalized/particles.star")
    rows = [table.particles.column("rlnImageName").index(name) for name in shown["image_names"]]
    assert np.array_equal(shown["raw"], table.load_images(rows))
    assert np.allclose(shown["restored"] - shown["truth"], 0.1 * (shown["raw"] - shown["truth"]), atol=0.05)


def test_the_same_seed_gives_the_same_bytes(tree):
    first = [path.read_bytes() for path in tree.evaluate()]
    assert first == [path.read_bytes() for path in tree.evaluate()]


def test_without_truth_there_are_no_scores(tmp_path):
    tree = make_tree(tmp_path)
    evaluation, montage = tree.evaluate(truth=False)
    content = json.loads(evaluation.read_text())
    assert content["truth"] is False
    assert content["psnr"] is content["frc"] is content["slope"] is None
    assert content["evidence"]["accepted_junk_fraction"] is None
    with np.load(montage, allow_pickle=False) as archive:
        assert "truth" not in archive


def test_restored_rows_in_another_order_are_refused(tmp_path):
    tree = make_tree(tmp_path)
    path = tree.root / "restored.ours/half1/particles.star"
    table = ParticleTable.read(path)
    table.take(np.arange(len(table))[::-1]).write(path)
    with pytest.raises(CryorestoreError, match="same order"):
        tree.evaluate()


def test_a_truth_of_other_picks_is_refused(tmp_path):
    tree = make_tree(tmp_path)
    path = tree.root / "truth/truth.star"
    table = ParticleTable.read(path)
    table.with_columns({"rlnCoordinateY": np.full(len(table), 900)}).write(path)
    with pytest.raises(CryorestoreError, match="row 1: found a particle"):
        tree.evaluate()


def test_statistics_of_other_particles_are_refused(tmp_path):
    tree = make_tree(tmp_path)
    path = tree.root / "normalized/statistics.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(CryorestoreError, match="normalize them again"):
        tree.evaluate()
