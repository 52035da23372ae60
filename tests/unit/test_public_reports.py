"""Faults that users of other programs reported in public, each as the smallest input that would bring it out here.

Where a case is proved beside the module that it concerns, its test is there and not here:

01 picks missing: test_extract (case_01), test_coordinates. 02 digits kept: test_star (untouched and odd cells), test_cryosparc
(STAR -> .cs -> STAR); here through a step.
03 image numbers: test_particles (outside the stack); here before any output. 04 order and subset: test_particles
(order; exchanged rows and replaced stacks by their hashes), test_joining; here through the steps.
05 mixed pixel sizes: test_particles; here the steps refuse. 06 RELION 3.0: test_particles; here the restored files.
07 extended header: test_mrc (reading); here what is written. 08 damaged stacks: test_mrc, test_particles, fuzz, and through the
command line bad_input; here micrographs.
09 halves kept: test_split (case_09); here the other half's networks. 10, 11 edges and re-centring: test_extract (case_10, case_11).
12 aberrations: test_particles (text, warning), test_cryosparc (what a .cs loses), test_metadata_relion (RELION reads them); here scaling
and restoration. 13 CTF applied already: test_pairs, test_reconstruct; here too.
14 worker seeds: test_training (order, draws); here restoration. 15 resume: test_training (stopped twice, sigterm, learning rate).
16 no accounting: slurm/test_profile (case_16).
17 two GPUs, second task, missing GPU: slurm/test_profile (case_17), test_training.
18 two writers: test_files; here restoration. 19 paths: test_particles; here the import and after.
"""

import multiprocessing
import os
import signal
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cryorestore import restore
from cryorestore.errors import CryorestoreError
from cryorestore.extract import extract_particles
from cryorestore.importing import import_particles
from cryorestore.io.mrc import MrcStackReader, write_micrograph
from cryorestore.io.star import StarBlock, write_star
from cryorestore.normalize import normalize_particles
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct import reconstruct_map
from cryorestore.reference import Reference
from cryorestore.split import split_particles
from cryorestore.training import train_diffusion
from helpers import blob_map

pytestmark = pytest.mark.slow

ORDER = [7, 2, 9, 1, 10, 4]
FLAG = "rlnCtfDataAreCtfPremultiplied"


def write_reference(folder, *, box_size, pixel_size):
    """A map and white noise, as if a half had learned them."""
    shells = {name: torch.ones(box_size // 2 + 1) for name in ("noise_power", "signal_power", "map_error_power", "fsc_weights")}
    paths = {"reference_map": folder / "reference.mrc", "noise_json": folder / "noise.json"}
    Reference(volume=blob_map(box=box_size), pixel_size=pixel_size, max_shell=5, amplitude=1.0, **shells).write(*paths.values())
    return paths


def restore_case(star, *, box_size=32, pixel_size=1.06, folder=None, **options):
    """Restore the particles of `star` and return the table written."""
    folder = star.parent / "out" if folder is None else folder
    options = {"condition": ["mean", "deviation"], "posterior_rotations": (8, 8, 8), **options}
    restore.restore_particles(
        star=star,
        **write_reference(star.parent, box_size=box_size, pixel_size=pixel_size),
        restored_stack=folder / "r.mrcs",
        restored_star=folder / "r.star",
        evidence_csv=folder / "e.csv",
        **{"rotation_sigma": 3.0, "shift_sigma": 2.0, "batch_size": 4, **options},
    )
    return ParticleTable.read(folder / "r.star")


def normalize_case(star, *, bg_radius=12, folder=None, **options):
    folder = star.parent / "normalized" if folder is None else folder
    names = {"normalized_stack": "n.mrcs", "normalized_star": "n.star", "statistics_csv": "s.csv", "rejects_star": "r.star"}
    normalize_particles(star=star, **{key: folder / name for key, name in names.items()}, bg_radius=bg_radius, **options)
    return ParticleTable.read(folder / "n.star")


def extract_case(star, folder, **options):
    """Extract the rows of `star` from an empty micrograph that holds all of them."""
    write_micrograph(folder / "mics/a.mrc", np.zeros((256, 3400)), pixel_size=1.06)
    write_star(folder / "mics.star", {"micrographs": StarBlock.from_columns({"rlnMicrographName": ["mics/a.mrc"]})})
    outputs = {"stack": folder / "e.mrcs", "star": folder / "e.star", "rejects_star": folder / "x.star"}
    extract_particles(micrographs_star=folder / "mics.star", particles_star=star, box_size=32, **outputs, **options)
    return ParticleTable.read(folder / "e.star")


def train_case(folder, *, half):
    """An untrained network that shows its draws, said to come from half `half`."""
    generator = torch.Generator().manual_seed(1)
    images = {name: torch.randn(10, 32, 32, generator=generator) for name in ("clean", "noisy")}
    save_file(images, folder / "pairs.safetensors", {"config": f'{{"half": {half}, "validation_from": 8}}'})
    plan = {"steps": 0, "batch_size": 2, "learning_rate": 1e-3, "warmup_steps": 1, "ema_decay": 0.9, "patience": 1, "validation_every": 1, "seed": 1}
    files = {"pairs": folder / "pairs.safetensors", "weights": folder / "diffusion.safetensors", "history": folder / "h.csv"}
    train_diffusion(**files, work_dir=folder / "work", condition=["noisy"], prediction="epsilon", size="tiny", device="cpu", **plan)
    return files["weights"]


def text_of(block):
    return {name: block.column(name) for name in block.columns}


def test_case_02_every_digit_survives_restoration(make_case):
    star = make_case("case-02-digits-kept") / "case-02-digits-kept-particles.star"
    before, after = text_of(ParticleTable.read(star).particles), text_of(restore_case(star).particles)
    assert before.pop("rlnImageName") == after["rlnImageOriginalName"]
    assert {name: after[name] for name in before} == before


def test_case_02_recentring_keeps_neighbours_apart(make_case, tmp_path):
    star = make_case("case-02-digits-kept") / "case-02-digits-kept-particles.star"
    places = extract_case(star, tmp_path, recentre=True).particles.column("rlnCoordinateX")
    assert places == ["3374.201417", "3374.201419", "3374.2014175"]


@pytest.mark.parametrize(("name", "facts"), [("from-zero", "row 1: .*000000@.*from 1 to 4"), ("beyond-end", "row 4: .*000005@.*from 1 to 4")])
def test_case_03_wrong_image_numbers_are_refused_before_any_output(make_case, name, facts):
    star = make_case("case-03-zero-index") / f"case-03-zero-index-{name}.star"
    for step in (normalize_case, restore_case):
        with pytest.raises(CryorestoreError, match=facts):
            step(star)
    assert not (star.parent / "normalized").exists()
    assert not (star.parent / "out").exists()


def test_case_04_images_stay_with_their_rows_through_every_step(make_case, tmp_path):
    star = make_case("case-04-order-and-subset") / "case-04-order-and-subset-particles.star"
    table = normalize_case(star)
    _, mean, sigma, ramp_x, ramp_y = np.loadtxt(tmp_path / "normalized/s.csv", delimiter=",", skiprows=1).T
    raw = table.load_images()[:, 0, 0] * sigma + mean - 16 * (ramp_x + ramp_y)
    np.testing.assert_allclose(raw, ORDER, atol=1e-4)
    outputs = {f"{kind}{half}_star": tmp_path / f"normalized/{kind}{half}.star" for kind in ("half", "unposed") for half in (1, 2)}
    split_particles(star=table.path, **outputs)
    for half, numbers in ((1, [7, 9, 10]), (2, [2, 1, 4])):
        part = restore_case(outputs[f"half{half}_star"], folder=tmp_path / f"restored{half}")
        assert part.particles.floats("rlnDefocusU").tolist() == [10000 + 100 * number for number in numbers]
        assert [name.partition("@")[0] for name in part.particles.column("rlnImageName")] == ["000001", "000002", "000003"]
        assert [int(name.partition("@")[0]) for name in part.particles.column("rlnImageOriginalName")] == numbers


def test_case_05_no_step_makes_one_result_of_two_pixel_sizes(make_case, tmp_path):
    star = make_case("case-05-mixed-pixel-sizes") / "case-05-mixed-pixel-sizes-optics-last.star"
    maps = {name: tmp_path / f"out/{name}.mrc" for name in ("map", "map_odd", "map_even")}
    steps = [lambda: normalize_case(star), lambda: restore_case(star), lambda: reconstruct_map(star=star, **maps, backend="native")]
    for step in steps:
        with pytest.raises(CryorestoreError, match=r"scopeA \(group 1\) 0.784, scopeB \(group 2\) 0.764"):
            step()
    assert not (tmp_path / "out").exists()
    ParticleTable.read(star).take([1, 2]).write(tmp_path / "b.star")
    with pytest.raises(CryorestoreError, match=r"b\.star: found a pixel size of 0.764 angstrom, expected 0.784"):
        restore_case(tmp_path / "b.star", pixel_size=0.784)


def test_case_06_old_units_are_written_as_new_ones(make_case):
    star = make_case("case-06-relion-30-units") / "case-06-relion-30-units-particles.star"
    table = restore_case(star, pixel_size=4.400025)
    assert table.optics.floats("rlnImagePixelSize") == pytest.approx([4.400025], abs=1e-6)
    assert table.origins()[1] == pytest.approx([13.200075, -6.600038], abs=2e-6)
    assert MrcStackReader(star.parent / "out/r.mrcs").pixel_size == pytest.approx(4.400025, abs=1e-6)


def test_case_07_an_extended_header_is_not_written_without_its_bytes(make_case):
    star = make_case("case-07-extended-header") / "case-07-extended-header-particles.star"
    restore_case(star, box_size=16, pixel_size=1.5)
    stack = star.parent / "out/r.mrcs"
    assert stack.stat().st_size == 1024 + 3 * 16 * 16 * 4
    assert mrcfile.validate(stack)


def test_case_08_all_damaged_micrographs_are_named_at_once(make_case, tmp_path):
    stem = make_case("case-08-truncated-stack") / "case-08-truncated-stack"
    (tmp_path / "mics").mkdir()
    write_micrograph(tmp_path / "mics/good.mrc", np.zeros((64, 64)), pixel_size=1.0)
    for name in ("short", "mode", "empty"):
        stem.with_name(f"{stem.name}-{name}.mrcs").rename(tmp_path / f"mics/{name}.mrc")
    (tmp_path / "good.box").write_text("20 20 16 16\n")
    outputs = {"stack": tmp_path / "out/p.mrcs", "star": tmp_path / "out/p.star", "rejects_star": tmp_path / "out/x.star"}
    with pytest.raises(CryorestoreError, match=r"empty\.mrc: found 1024 (.|\n)*mode\.mrc: .*mode 154285104(.|\n)*short\.mrc: found 8704 ") as error:
        extract_particles(micrographs_star=tmp_path / "mics", coordinates=[tmp_path / "good.box"], box_size=16, pixel_size=1.0, **outputs)
    assert "good.mrc" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_case_09_a_half_is_not_restored_with_the_others_network(make_case, tmp_path):
    star = make_case("case-09-split-kept") / "case-09-split-kept-all.star"
    table = ParticleTable.read(star)
    for half in (1, 2):
        table.take(table.halves() == half).write(tmp_path / f"half{half}.star")
    box, learned = table.box_size, {"condition": ["noisy"], "sampler": "ddim", "sampler_steps": 1, "pixel_size": table.pixel_size}
    weights = train_case(tmp_path, half=1)
    with pytest.raises(CryorestoreError, match=r"learned from half 1, found particles of rlnRandomSubset 2 in .*half2\.star"):
        restore_case(tmp_path / "half2.star", box_size=box, diffusion_weights=weights, **learned)
    assert not (tmp_path / "out").exists()
    assert len(restore_case(tmp_path / "half1.star", box_size=box, diffusion_weights=weights, **learned)) == 6


def test_case_12_scaling_changes_the_pixel_dependent_values_only(make_case, tmp_path):
    star = make_case("case-12-aberrations-survive") / "case-12-aberrations-survive-particles.star"
    before, after = ParticleTable.read(star), extract_case(star, tmp_path, scale=16)
    optics, scaled = text_of(before.optics), text_of(after.optics)
    assert [name for name in optics if scaled[name] != optics[name]] == ["rlnImagePixelSize", "rlnImageSize"]
    assert (after.pixel_size, scaled["rlnImageSize"]) == (2.12, ["16", "16"])
    particles, cut = text_of(before.particles), text_of(after.particles)
    assert [name for name in particles if cut[name] != particles[name]] == ["rlnImageName"]


def test_case_12_aberrations_and_own_columns_survive_restoration(make_case):
    star = make_case("case-12-aberrations-survive") / "case-12-aberrations-survive-particles.star"
    before, after = ParticleTable.read(star), restore_case(star)
    assert text_of(after.optics) == text_of(before.optics)
    particles, restored = text_of(before.particles), text_of(after.particles)
    assert [name for name in particles if restored[name] != particles[name]] == ["rlnImageName"]
    tilts = dict(zip(after.optics.ints("rlnOpticsGroup").tolist(), after.optics.column("rlnBeamTiltX"), strict=True))
    assert [tilts[group] for group in after.optics_groups().tolist()] == ["-0.15198", "0.145056"] * 2


def test_case_13_images_multiplied_by_their_ctf_are_not_restored(make_case):
    star = make_case("case-13-ctf-premultiplied") / "case-13-ctf-premultiplied-flag1.star"
    with pytest.raises(CryorestoreError, match=f"optics group 1: found {FLAG} 1, expected 0"):
        restore_case(star)
    assert not (star.parent / "out").exists()


def test_case_13_the_flag_at_zero_changes_nothing_and_is_kept(make_case, tmp_path):
    star = make_case("case-13-ctf-premultiplied") / "case-13-ctf-premultiplied-flag0.star"
    flagged = restore_case(star)
    assert flagged.optics.column(FLAG) == ["0"]
    table = ParticleTable.read(star)
    ParticleTable(table.particles, table.optics.without_columns([FLAG]), star).write(tmp_path / "plain.star")
    assert np.array_equal(restore_case(tmp_path / "plain.star", folder=tmp_path / "plain").load_images(), flagged.load_images())


def test_case_14_equal_images_get_draws_of_their_own_whatever_the_batch(make_case, tmp_path):
    star = make_case("case-14-worker-seeds") / "case-14-worker-seeds-particles.star"
    learned = {"condition": ["noisy"], "sampler": "ddim", "sampler_steps": 2, "diffusion_weights": train_case(tmp_path, half=1)}
    images, others = (restore_case(star, folder=tmp_path / f"{size}", batch_size=size, **learned).load_images() for size in (8, 3))
    again = restore_case(star, folder=tmp_path / "seed", batch_size=8, seed=2, **learned).load_images()
    np.testing.assert_allclose(others, images, atol=1e-4)
    distance = np.abs(images[:, None] - images[None]).max((2, 3))
    assert distance[~np.eye(8, dtype=bool)].min() > 0.1
    assert np.abs(again - images).max((1, 2)).min() > 0.1


def in_other_processes(count, work):
    """Run `work` in forked processes at once; their exit codes."""
    processes = [multiprocessing.get_context("fork").Process(target=work) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    return [process.exitcode for process in processes]


def after_the_first_batch(monkeypatch, action):
    """Let the restoration call `action` when its first batch is done."""
    real = restore._restored_batches

    def batches(*arguments, **options):
        for number, batch in enumerate(real(*arguments, **options)):
            yield batch
            if number == 0:
                action()

    monkeypatch.setattr(restore, "_restored_batches", batches)


def test_case_18_a_killed_restoration_leaves_no_output_and_the_next_one_tidies_up(make_case, monkeypatch):
    star = make_case("case-18-double-writer") / "case-18-double-writer-particles.star"
    with monkeypatch.context() as patched:
        after_the_first_batch(patched, lambda: os.kill(os.getpid(), signal.SIGKILL))
        assert in_other_processes(1, lambda: restore_case(star)) == [-signal.SIGKILL]
    left = [path.name for path in (star.parent / "out").iterdir()]
    assert [name for name in left if "partial" not in name] == []
    assert len(left) == 1
    assert len(restore_case(star)) == 40
    assert sorted(path.name for path in (star.parent / "out").iterdir()) == ["e.csv", "r.mrcs", "r.star"]


def test_case_18_two_restorations_at_once_give_what_one_gives(make_case, monkeypatch):
    star = make_case("case-18-double-writer") / "case-18-double-writer-particles.star"
    restore_case(star)
    names = ("e.csv", "r.mrcs", "r.star")
    once = [(star.parent / "out" / name).read_bytes() for name in names]
    for name in names:
        (star.parent / "out" / name).unlink()
    after_the_first_batch(monkeypatch, multiprocessing.get_context("fork").Barrier(2).wait)
    assert in_other_processes(2, lambda: restore_case(star)) == [0, 0]
    assert sorted(path.name for path in (star.parent / "out").iterdir()) == sorted(names)
    assert [(star.parent / "out" / name).read_bytes() for name in names] == once


@pytest.mark.parametrize("name", ["from-root", "beside-star", "dotted"])
@pytest.mark.parametrize("inside", [True, False])
def test_case_19_outputs_lie_where_they_were_asked_for_from_any_folder(make_case, monkeypatch, tmp_path, name, inside):
    root = make_case("case-19-link-and-paths") / "case-19-link-and-paths-project"
    before = set(root.rglob("*"))
    monkeypatch.chdir(root if inside else tmp_path)
    star = root / f"Select/job005/{name}.star"
    import_particles(particles=os.path.relpath(star), star="results/particles.star", project_root=None if inside else root)
    table = normalize_case(Path.cwd() / "results/particles.star")
    assert len(table) == 4
    assert table.micrograph_names() == ["mics/a.mrc"] * 4
    assert all(image.endswith("/n.mrcs") and image.count(".mrcs") == 1 for image in table.particles.column("rlnImageName"))
    assert all("results" in path.parts for path in set(root.rglob("*")) - before)
