"""Maps from nothing: what one half finds, how a run goes on, and how two halves are judged."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryorestore.ab_initio.agreement import last_shell_above
from cryorestore.ab_initio.alignment import MapMove
from cryorestore.ab_initio.annealing import Region, held_out_evidence, in_box_for, make_bank, random_blob
from cryorestore.ab_initio.finding import CLASS, POSE_EVIDENCE, ROTATION_SIGMA, Seeds, find_poses
from cryorestore.ab_initio.half import HalfParticles, load_half
from cryorestore.ab_initio.judging import judge_poses, placed_table, verdict_of
from cryorestore.ab_initio.near import FoundPoses, near_pass
from cryorestore.ab_initio.passes import first_state, moved_on, run_passes, usable_levels
from cryorestore.ab_initio.solving import ClassSums, FittedMap, solve_map
from cryorestore.ab_initio.spreading import map_at_poses, spread_over_equals
from cryorestore.ab_initio.volumes import masked_map, resized_map
from cryorestore.adopting import adopt_poses
from cryorestore.baselines.wiener import estimate_signal_power
from cryorestore.errors import CryorestoreError
from cryorestore.files import read_json, write_json
from cryorestore.fsc import fourier_shell_correlation
from cryorestore.geometry import perturb_rotations, random_rotations
from cryorestore.masks import soft_sphere
from cryorestore.particles import ParticleTable
from cryorestore.posterior.grid import make_pose_grid
from cryorestore.posterior.search import pose_weights
from helpers import BOX, PIXEL, blob_map, simulate_particles, write_particles

CPU = torch.device("cpu")
REGION = Region(13.0, 1.0)
OPTIONS = {"mask_radius": 44, "mask_edge": 8, "bg_radius": 14, "shift_range": 4, "max_resolution": 25, "seeds": 2, "iterations": 2, "images": 30}


@pytest.fixture(scope="module")
def simulated():
    """Signal and noise as after normalization: noise of sigma 1."""
    return simulate_particles(240, sigma=1.0, volume=blob_map() * soft_sphere(BOX, 10, 3.0) / 1.2, shift=0.8)


@pytest.fixture(scope="module")
def half(simulated):
    noise = torch.ones(BOX // 2 + 1)
    signal = estimate_signal_power([(simulated["images"], simulated["ctf"])], noise_power=noise)
    return HalfParticles(simulated["images"], simulated["parameters"], PIXEL, noise, signal)


def map_after_one_pass(half, volume, *, rows=240):
    small, place = in_box_for(half, REGION, 8)
    grid = make_pose_grid(step=14, max_shell=8, box_size=small.box_size, shift_range_px=place.shift_px)
    bank = make_bank(resized_map(volume, small.box_size), small, grid, place, max_shell=8, rings=8, device=CPU)
    sums = ClassSums(bank)
    for part in np.array_split(np.arange(rows), 20):
        matched = bank.match(small.images[part], small.ctf(part))
        sums.add(matched, pose_weights(bank, matched))
    return solve_map(sums, bank, signal_power=small.signal_power, radius_px=place.radius_px, max_shell=8).volume


def test_one_pass_from_the_true_map_gives_it_back_in_its_grey_scale(half, simulated):
    solved = map_after_one_pass(half, simulated["volume"])
    truth = resized_map(simulated["volume"], solved.shape[-1])
    curve = fourier_shell_correlation(truth, solved, pixel_size=1.0).correlation
    assert float(curve[1:6].min()) > 0.9
    scale = float((truth * solved).sum() / (solved * solved).sum())
    assert scale == pytest.approx(1, abs=0.15)


def test_a_smaller_box_keeps_transforms_and_spectra(half):
    small = half.at_box(24)
    assert small.pixel_size == pytest.approx(PIXEL * BOX / 24)
    for shell in (1, 5):
        assert float(small.signal_power[shell]) == float(half.signal_power[shell])
    large, reduced = (torch.fft.rfft2(part.images[:3], norm="ortho") for part in (half, small))
    assert torch.allclose(large[:, 2, 3], reduced[:, 2, 3], atol=1e-3)


def test_a_blob_is_as_strong_as_the_signal_and_knows_nothing_of_it(half, simulated):
    small, place = in_box_for(half, REGION, 8)
    blob = random_blob(small, place, np.random.default_rng(1))
    truth = resized_map(simulated["volume"], small.box_size)
    evidence = [held_out_evidence(volume, half, REGION, symmetry="C1", device=CPU).mean() for volume in (blob, truth)]
    assert evidence[1] > evidence[0] + 5
    assert 0.3 < float(blob.norm() / truth.norm()) < 3


def test_levels_end_at_the_wanted_shell_near_the_poses_of_the_last_grid():
    def shells(box_size, max_shell=None):
        return [(level.max_shell, level.near) for level in usable_levels(box_size, max_shell=max_shell)]

    grids = [(8, False), (10, False), (14, False)]
    assert shells(64) == [*grids, (20, False), (30, True), (30, True)]
    assert shells(64, 12) == [(8, False), (10, False), (12, False), (12, True), (12, True)]
    assert shells(32) == [*grids, (14, True), (14, True)]
    assert shells(32, 6) == [(6, False), (6, True), (6, True)]
    assert [level.everything for level in usable_levels(32)] == [False, False, False, False, True]
    assert usable_levels(64, max_shell=12)[2].step > usable_levels(64, max_shell=14)[2].step


def test_a_level_ends_where_two_passes_in_a_row_gain_nothing_or_one_gains_a_small_share():
    levels = usable_levels(32)
    start = first_state(torch.zeros(24, 24, 24), torch.zeros(3, 2))
    after = {
        (1.0,): (0, 1),
        (1.0, 3.0, 3.01): (0, 1),
        (1.0, 3.0, 3.01, 3.02): (1, 0),
        (1.0, 3.0, 2.9, 3.2): (0, 1),
        (98.0, 100.0): (0, 1),
        (98.0, 98.5): (1, 0),
        (98.0, 100.0, 99.0): (1, 0),
    }
    for evidence, (level, passes) in after.items():
        state = moved_on(replace(start, evidence=evidence), levels)
        assert (state.level, state.passes) == (level, passes)
    assert moved_on(replace(start, level=len(levels) - 1, evidence=(1.0,)), levels).finished


def one_sided_half(volume, shapes):
    """Particles of a map that is the same after `shapes` turns about z, each at the equivalent pose whose view lies nearest to one side."""
    data = simulate_particles(240, sigma=1.0, volume=volume, shift=0.0)
    turns = Rotation.from_rotvec([[0, 0, 2 * np.pi * turn / shapes] for turn in range(shapes)]).as_matrix()
    equal = np.einsum("nij,tjk->ntik", data["rotations"], turns)
    rotations = equal[np.arange(240), equal[:, :, 2, 0].argmax(1)]
    noise = torch.ones(BOX // 2 + 1)
    signal = estimate_signal_power([(data["images"], data["ctf"])], noise_power=noise)
    particles = HalfParticles(data["images"], data["parameters"], PIXEL, noise, signal)
    known = {name: torch.zeros(240) for name in ("rotation_sigma", "far_sigma", "shift_sigma", "log_evidence")}
    return particles, FoundPoses(torch.from_numpy(rotations).float(), torch.zeros(240, 2), **known)


def test_particles_of_a_symmetric_map_are_spread_over_its_sides_and_those_of_another_stay():
    one = blob_map() * soft_sphere(BOX, 10, 3.0) / 4
    volume = sum(torch.rot90(one[1:, 1:, 1:], turn, (1, 2)) for turn in range(4))
    volume = torch.nn.functional.pad(volume, (1, 0, 1, 0, 1, 0))
    particles, found = one_sided_half(volume, 4)
    everything = np.ones(240, bool)
    one_sided = map_at_poses(found, particles, everything, radius_px=REGION.radius_px, max_shell=9).volume
    options = {"max_shell": 9, "seed": 1, "device": CPU}
    spread = spread_over_equals(one_sided, found, particles, everything, REGION, **options)
    assert spread is not None
    poses, fitted, alike = spread
    assert alike == 4
    before, after = (fourier_shell_correlation(volume, part, pixel_size=1.0).correlation[1:6] for part in (one_sided, fitted.volume))
    assert float(after.min()) > 0.95
    assert float((1 - after).mean()) < 0.6 * float((1 - before).mean())
    assert torch.bincount(poses.rotations[:, 2, :2].sign().add(1).long() @ torch.tensor([1, 3]), minlength=9)[[0, 2, 6, 8]].min() > 30
    particles, found = one_sided_half(4 * one, 1)
    assert spread_over_equals(4 * one, found, particles, everything, REGION, **options) is None


def test_passes_that_go_on_from_a_state_are_those_of_one_run(half, simulated):
    few = replace(half, images=half.images[:60], parameters=half.parameters.take(np.arange(60)))
    levels = tuple(replace(level, step=30.0 * (not level.near), most_passes=1) for level in usable_levels(BOX, max_shell=9))
    start = first_state(resized_map(simulated["volume"], 24), torch.zeros(60, 2))
    options = {"symmetry": "C1", "seed": 1, "device": CPU}
    whole = list(run_passes(start, few, REGION, levels, **options))
    assert [(told["max_shell"], told["poses"]) for _, told in whole] == [(8, "all"), (9, "all"), (9, "near"), (9, "near")]
    again = list(run_passes(whole[1][0], few, REGION, levels, **options))
    assert torch.equal(again[-1][0].volume, whole[-1][0].volume)
    assert torch.equal(again[-1][0].found.rotations, whole[-1][0].found.rotations)
    assert whole[-1][0].finished


def test_poses_near_those_of_a_grid_are_nearer_the_truth_than_they(half, simulated):
    volume = simulated["volume"]
    true, shifts = torch.from_numpy(simulated["rotations"]).float(), torch.from_numpy(simulated["shifts"]).float()
    off = torch.from_numpy(perturb_rotations(simulated["rotations"], rotation_error=3.0, generator=np.random.default_rng(5))).float()
    count = len(half)
    start = FoundPoses(off, shifts + 0.1, torch.full((count,), 3.0), torch.zeros(count), torch.ones(count), torch.ones(count))
    before = FittedMap(masked_map(volume, radius_px=REGION.radius_px), torch.ones(BOX // 2 + 1))
    mapped = np.ones(count, bool)
    found, _, fitted = near_pass(before, half, start, mapped, radius_px=REGION.radius_px, max_shell=12, symmetry="C1", seed=1)

    def errors(rotations):
        return torch.rad2deg((((rotations * true).sum((1, 2)) - 1) / 2).clamp(-1, 1).acos()).square().mean().sqrt()

    assert float(errors(found.rotations)) < 0.7 * float(errors(off))
    assert float(errors(found.rotations)) == pytest.approx(float(found.rotation_sigma.square().mean().sqrt()), rel=0.4)
    curve = fourier_shell_correlation(volume, fitted.volume, pixel_size=1.0).correlation
    assert float(curve[1:7].min()) > 0.95
    assert float((volume * fitted.volume).sum() / fitted.volume.square().sum()) == pytest.approx(1, abs=0.15)


def test_a_half_writes_poses_that_a_table_holds_and_goes_on_where_it_stopped(tmp_path, simulated):
    few = {name: part[:60] if name not in ("volume", "parameters") else part for name, part in simulated.items()}
    few["parameters"] = simulated["parameters"].take(np.arange(60))
    star = write_particles(tmp_path, few, extra={"rlnRandomSubset": np.ones(60, int)})
    written = {"found_star": tmp_path / "found.star", "found_map": tmp_path / "found.mrc", "figures_json": tmp_path / "found.json"}
    written["class_averages"] = tmp_path / "classes.mrcs"
    find_poses(star=star, **written, work_dir=tmp_path / "work", **OPTIONS)
    first = {name: path.read_bytes() for name, path in written.items()}
    found, figures = ParticleTable.read(written["found_star"]), read_json(written["figures_json"])
    assert found.has_poses.all()
    assert np.ptp(found.particles.floats(ROTATION_SIGMA)) > 0
    assert np.isfinite(found.particles.floats(POSE_EVIDENCE)).all()
    assert len(figures["seeds"]) == 2
    assert sum(row["particles"] for row in figures["classes"]) == 60
    assert np.bincount(found.particles.ints(CLASS), minlength=11)[1:].tolist() == [row["particles"] for row in figures["classes"]]
    assert figures["passes"][-1]["max_shell"] == figures["max_shell"] == 5
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
    find_poses(star=star, **written, work_dir=tmp_path / "work", **OPTIONS)
    assert {name: path.read_bytes() for name, path in written.items()} == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()} == stamps


def test_premultiplied_images_and_too_few_particles_are_refused(tmp_path, simulated):
    few = {name: part[:20] if name not in ("volume", "parameters") else part for name, part in simulated.items()}
    few["parameters"] = simulated["parameters"].take(np.arange(20))
    star = write_particles(tmp_path, few)
    written = {"found_star": tmp_path / "a.star", "found_map": tmp_path / "a.mrc", "figures_json": tmp_path / "a.json"}
    written["class_averages"] = tmp_path / "classes.mrcs"
    with pytest.raises(CryorestoreError, match="found 20 particles"):
        find_poses(star=star, **written, work_dir=tmp_path / "work", **OPTIONS)
    table = ParticleTable.read(star)
    premultiplied = replace(table, optics=table.optics.with_columns({"rlnCtfDataAreCtfPremultiplied": np.array([1])}))
    with pytest.raises(CryorestoreError, match="multiplied with their CTF"):
        load_half(premultiplied, bg_radius=14, largest_box=32)


def good_figures():
    return {"passes": [{"with_evidence": 0.98}], "seeds": [{"as_good_as_best": False, "agreed_shell": 8}], "max_shell": 20, "start": "from nothing"}


def curve_to(shell):
    return torch.where(torch.arange(21) <= shell, 0.95, 0.1)


def test_halves_that_agree_and_explain_their_particles_are_reliable():
    verdict = verdict_of(curve_to(12), [good_figures()] * 2, diameter_px=42, box_size=64)
    assert verdict["reliable"]
    assert verdict["agreed_shell"] == 12 >= verdict["wanted_shell"] == 8


@pytest.mark.parametrize(
    ("shell", "figures", "doubt"),
    [
        (5, {}, "agree to shell 5 only"),
        (12, {"passes": [{"with_evidence": 0.1}]}, "10 % of the held-out particles"),
        (12, {"seeds": [{"as_good_as_best": True, "agreed_shell": 3}]}, "another map that is as good"),
    ],
)
def test_each_doubt_is_told_and_is_enough(shell, figures, doubt):
    verdict = verdict_of(curve_to(shell), [good_figures(), good_figures() | figures], diameter_px=42, box_size=64)
    assert not verdict["reliable"]
    assert doubt in verdict["statement"]
    assert verdict["statement"].startswith("no reliable map")


def test_seeds_are_told_apart_by_the_evidence_of_the_same_particles():
    volumes = [blob_map(0, 24), blob_map(0, 24), blob_map(5, 24)]
    base = np.random.default_rng(0).normal(60, 20, 200)
    tried = Seeds(volumes, np.stack([base, base - 0.01 * np.random.default_rng(1).normal(0, 1, 200), base - 10]))
    assert tried.best in (0, 1)
    rows = tried.figures(symmetry="C1")
    assert rows[2]["lack"] == pytest.approx(10, abs=0.1)
    assert not rows[2]["as_good_as_best"]
    assert rows[1 - tried.best]["agreed_shell"] >= 7 > rows[2]["agreed_shell"]


def test_poses_are_handed_on_only_where_the_map_is_reliable(tmp_path, simulated):
    few = {name: part[:6] if name not in ("volume", "parameters") else part for name, part in simulated.items()}
    star = write_particles(tmp_path, few | {"parameters": simulated["parameters"].take(np.arange(6))}, extra={"rlnCryorestoreRow": np.arange(6)})
    table, verdict = ParticleTable.read(star), tmp_path / "verdict.json"
    files = {"source_star": star, "joined_star": tmp_path / "all.star", "joined_cs": tmp_path / "all.cs"}
    for half, rows in ((1, [0, 3, 4]), (2, [1, 2, 5])):
        files |= {f"placed{half}_star": tmp_path / f"placed{half}.star", f"half{half}_star": tmp_path / f"{half}.star"}
        found = np.array(rows, float)
        table.take(np.array(rows)).with_columns({"rlnAngleRot": found, "rlnRandomSubset": [str(half)] * 3}).write(files[f"placed{half}_star"])
    write_json(verdict, {"reliable": False, "statement": "no reliable map: the halves' maps agree to shell 2 only"})
    with pytest.raises(CryorestoreError, match=r"no reliable map.*no resolution is reported"):
        adopt_poses(verdict_json=verdict, **files)
    assert not files["half1_star"].exists()
    write_json(verdict, {"reliable": True, "statement": "the two halves found one map"})
    adopt_poses(verdict_json=verdict, **files)
    assert files["half2_star"].read_bytes() == files["placed2_star"].read_bytes()
    joined = ParticleTable.read(files["joined_star"])
    assert joined.halves().tolist() == [1, 2, 2, 1, 1, 2]
    assert joined.particles.floats("rlnAngleRot").tolist() == [0, 1, 2, 3, 4, 5]
    assert files["joined_cs"].exists()


def test_two_halves_of_one_map_are_laid_onto_each_other_whatever_their_frame_and_hand(tmp_path, simulated):
    """Half 2 is half 1 in another frame and hand: afterwards both tables have the same poses."""
    from cryorestore.ab_initio.alignment import moved_map
    from cryorestore.io.mrc import write_map

    few = {name: part[:30] if name not in ("volume", "parameters") else part for name, part in simulated.items()}
    table = ParticleTable.read(write_particles(tmp_path, few | {"parameters": simulated["parameters"].take(np.arange(30))}))
    move = MapMove(random_rotations(1, np.random.default_rng(4))[0], np.array([0.7, -1.0, 0.4]), True, 1.0, 0.0)
    names = {}
    other = moved_map(simulated["volume"], move), placed_table(table, move, pixel_size=PIXEL)
    for number, (volume, part) in enumerate([(simulated["volume"], table), other], start=1):
        part.write(tmp_path / f"{number}.star")
        write_map(tmp_path / f"{number}.mrc", volume.numpy(), pixel_size=PIXEL)
        write_json(tmp_path / f"{number}.json", good_figures() | {"max_shell": 9})
        names |= {f"half{number}_{key}": tmp_path / f"{number}.{end}" for key, end in (("star", "star"), ("map", "mrc"), ("figures", "json"))}
        names |= {f"placed{number}_{key}": tmp_path / f"placed{number}.{end}" for key, end in (("star", "star"), ("map", "mrc"))}
    judge_poses(**names, verdict_json=tmp_path / "verdict.json", mask_radius=40, mask_edge=8)
    verdict = read_json(tmp_path / "verdict.json")
    assert verdict["reliable"]
    assert verdict["moves"][1]["mirrored"]
    assert "cannot tell" in verdict["hand"]
    assert verdict["start"] == "from nothing"
    one, two = (ParticleTable.read(names[f"placed{number}_star"]) for number in (1, 2))
    turned = np.einsum("nij,nij->n", one.rotation_matrices(), two.rotation_matrices())
    assert np.degrees(np.arccos(np.clip((turned - 1) / 2, -1, 1))).max() < 4
    assert np.abs(one.origins() - two.origins()).max() < 0.3 * PIXEL


def test_the_last_shell_is_the_one_before_the_first_fall():
    assert last_shell_above(torch.tensor([1.0, 0.9, 0.8, 0.4, 0.9])) == 2
    assert last_shell_above(torch.tensor([1.0, 0.2])) == 0
    assert last_shell_above(torch.ones(5)) == 4
