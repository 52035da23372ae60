import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import MrcStackReader
from cryorestore.joining import join_particles
from cryorestore.particles import ParticleTable
from cryorestore.restore import Restorer, judge_evidence, restore_particles
from cryorestore.sharding import gather_shards, shard_files, shard_rows
from helpers import BOX, POSES, prepare_half

pytestmark = pytest.mark.slow

COUNT = 120


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    return [prepare_half(folder / f"half{seed}", seed) for seed in (1, 2)]


def restore(half, folder, outputs=None, **options):
    outputs = outputs or {
        "restored_stack": folder / "r.mrcs",
        "restored_star": folder / "r.star",
        "evidence_csv": folder / "e.csv",
        "deviation_stack": folder / "d.mrcs",
    }
    star = options.pop("star", half["star"])
    restore_particles(star=star, **half["reference"], **outputs, condition=["mean", "deviation"], **POSES, **options)
    return outputs


def test_restored_particles_are_nearer_the_truth_and_keep_order_and_metadata(halves, tmp_path):
    half = halves[0]
    outputs = restore(half, tmp_path)
    restored, source = ParticleTable.read(outputs["restored_star"]), ParticleTable.read(half["star"])
    for name in source.particles.columns:
        if name != "rlnImageName":
            assert restored.particles.column(name) == source.particles.column(name)
    assert restored.particles.column("rlnImageOriginalName") == source.particles.column("rlnImageName")
    images, clean = torch.from_numpy(restored.load_images()), half["data"]["clean"]
    error, signal = (images - clean)[:-10].square().mean(), clean[:-10].square().mean()
    assert float(error) < 0.3 * float(signal) < 0.3 * float((half["data"]["images"] - clean)[:-10].square().mean())
    assert restored.pixel_size == source.pixel_size


def test_noise_is_refused_by_the_evidence_and_particles_are_not(halves, tmp_path):
    outputs = restore(halves[0], tmp_path)
    rows = list(csv.DictReader(outputs["evidence_csv"].open()))
    accepted = np.array([int(row["accepted"]) for row in rows])
    assert [int(row["row"]) for row in rows[:3]] == [1, 3, 5]
    assert accepted[-10:].sum() == 0
    assert accepted[:-10].mean() > 0.97
    assert ParticleTable.read(outputs["restored_star"]).particles.ints("rlnCryorestoreAccepted").tolist() == accepted.tolist()


def test_a_particle_does_not_depend_on_the_rows_beside_it(halves, tmp_path):
    half = halves[0]
    table = ParticleTable.read(half["star"])
    star = half["folder"] / "some.star"
    table.take([40, 7, 99]).write(star)
    for name in ("all", "some"):
        (tmp_path / name).mkdir()
    everything = MrcStackReader(restore(half, tmp_path / "all")["restored_stack"]).read([40, 7, 99])
    some = MrcStackReader(restore(half, tmp_path / "some", star=star)["restored_stack"]).read([0, 1, 2])
    assert np.allclose(everything, some, atol=1e-4)


def test_the_same_bytes_twice(halves, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        restore(halves[0], tmp_path / name)
    for file in ("r.mrcs", "d.mrcs", "e.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("shards", [1, 2, 3, 10])
def test_the_bytes_do_not_depend_on_the_number_of_shards(halves, tmp_path, monkeypatch, shards):
    """120 particles in batches of 16 are 8 batches: 10 shards leave two empty."""
    monkeypatch.chdir(tmp_path)
    half, names = halves[0], shard_files(Path("r"), deviation=True)
    restore(half, Path("r"), outputs=names)
    folders = [Path(f"{shard}-of-{shards}") for shard in range(1, shards + 1)]
    for shard, folder in enumerate(folders, start=1):
        restore(half, folder, outputs=shard_files(folder, deviation=True), shard=shard, shards=shards)
    assert sum(not (folder / "particles.mrcs").exists() for folder in folders) == max(0, shards - 8)
    whole = {name: path.read_bytes() for name, path in names.items()}
    for path in names.values():
        path.unlink()
    gather_shards(star=half["star"], shard_folders=folders, **names)
    assert {name: path.read_bytes() for name, path in names.items()} == whole


def test_an_empty_table_is_gathered_as_it_is_restored(halves, tmp_path):
    ParticleTable.read(halves[0]["star"]).take([]).write(tmp_path / "empty.star")
    folders = [tmp_path / name for name in ("1", "2", "whole", "gathered")]
    for shard, folder in enumerate(folders[:2], start=1):
        restore(halves[0], folder, star=tmp_path / "empty.star", outputs=shard_files(folder, deviation=True), shard=shard, shards=2)
    whole, gathered = (shard_files(folder, deviation=True) for folder in folders[2:])
    restore(halves[0], folders[2], star=tmp_path / "empty.star", outputs=whole)
    gather_shards(star=tmp_path / "empty.star", shard_folders=folders[:2], **gathered)
    assert all(gathered[name].read_bytes() == whole[name].read_bytes() for name in ("restored_star", "evidence_csv"))
    assert not gathered["restored_stack"].exists()


def test_a_missing_or_damaged_shard_is_an_error(halves, tmp_path):
    folders = [tmp_path / name for name in ("1", "2", "all")]
    for shard, folder in enumerate(folders[:2], start=1):
        restore(halves[0], folder, outputs=shard_files(folder, deviation=True), shard=shard, shards=2)
    gathered = shard_files(folders[2], deviation=True)
    with pytest.raises(CryorestoreError, match="found 64 restored particles in 1 shards, expected 120"):
        gather_shards(star=halves[0]["star"], shard_folders=folders[:1], **gathered)
    with (folders[1] / "particles.mrcs").open("r+b") as stack:
        stack.seek(1024 + 5 * BOX * BOX * 4)
        stack.write(b"\0" * 4)
    with pytest.raises(CryorestoreError, match="row 70: found an image of hash"):
        gather_shards(star=halves[0]["star"], shard_folders=folders[:2], **gathered)
    assert not folders[2].exists() or not list(folders[2].iterdir())


def test_every_batch_belongs_to_one_shard():
    for count, shards in ((120, 3), (1, 2), (0, 3), (33, 5)):
        rows = [row for shard in range(1, shards + 1) for row in range(count)[shard_rows(count, 16, shard=shard, shards=shards)]]
        assert rows == list(range(count))
        starts = [shard_rows(count, 16, shard=shard, shards=shards).start for shard in range(1, shards + 1)]
        assert all(start % 16 == 0 or start == count for start in starts)
    with pytest.raises(CryorestoreError, match="shard is 3 of 2"):
        shard_rows(10, 16, shard=3, shards=2)


def test_out_of_gpu_memory_names_the_batch_size(halves, tmp_path, monkeypatch):
    def never(self, *arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Restorer, "__call__", never)
    with pytest.raises(CryorestoreError, match=r"lower compute\.batch_size"):
        restore(halves[0], tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_halfs_particles_change_nothing(halves, tmp_path):
    # the half's files are all that restoration reads: the other half's are not even named
    outputs = restore(halves[0], tmp_path)
    reads = json.dumps([str(halves[0]["star"]), *map(str, halves[0]["reference"].values())])
    assert "half2" not in reads
    assert outputs["restored_stack"].stat().st_size == 1024 + COUNT * BOX * BOX * 4


def test_join_gives_the_order_of_the_source_back(halves, tmp_path):
    stars = []
    for number, half in enumerate(halves, start=1):
        (tmp_path / f"h{number}").mkdir()
        stars.append(restore(half, tmp_path / f"h{number}")["restored_star"])
    first, second = (ParticleTable.read(half["star"]) for half in halves)
    lines = [line for pair in zip(second.particles.lines, first.particles.lines, strict=True) for line in pair]
    source = tmp_path / "source.star"
    ParticleTable(type(first.particles)(first.particles.columns, lines), first.optics, source).write(source)
    join_particles(half1_star=stars[0], half2_star=stars[1], source_star=source, joined_star=tmp_path / "joined.star")
    joined = ParticleTable.read(tmp_path / "joined.star")
    assert joined.particles.ints("rlnCryorestoreRow").tolist() == list(range(2 * COUNT))
    assert joined.particles.column("rlnDefocusU") == ParticleTable.read(source).particles.column("rlnDefocusU")


def test_join_refuses_tables_that_do_not_belong_together(halves, tmp_path):
    star = restore(halves[0], tmp_path)["restored_star"]
    with pytest.raises(CryorestoreError, match="share rows"):
        join_particles(half1_star=star, half2_star=star, source_star=halves[0]["star"], joined_star=tmp_path / "joined.star")
    assert not (tmp_path / "joined.star").exists()


def test_a_table_without_a_row_gives_tables_without_a_row(halves, tmp_path):
    table = ParticleTable.read(halves[0]["star"])
    table.take([]).write(tmp_path / "empty.star")
    outputs = restore(halves[0], tmp_path, star=tmp_path / "empty.star")
    assert len(ParticleTable.read(outputs["restored_star"])) == 0
    assert outputs["evidence_csv"].read_text() == "row,image_name,log_evidence,probability,accepted\n"
    assert not outputs["restored_stack"].exists()


def run_method(half, folder, condition, **options):
    """Restore by a method without network or evidence."""
    folder.mkdir(exist_ok=True)
    outputs = {"restored_stack": folder / "r.mrcs", "restored_star": folder / "r.star", "evidence_csv": folder / "e.csv"}
    restore_particles(star=half["star"], **half["reference"], **outputs, condition=condition, **POSES, **options)
    return torch.from_numpy(ParticleTable.read(outputs["restored_star"]).load_images())


def test_methods_without_a_network_stand_in_the_expected_order(halves, tmp_path):
    half, filters = halves[0], ("noisy", "low_pass", "wiener", "wiener_masked", "projection")
    images = {name: run_method(half, tmp_path / name, [name], mask_radius=50.0, mask_edge=8.0) for name in filters}
    clean = half["data"]["clean"][:-10]
    error = {name: float((restored[:-10] - clean).square().mean() / clean.square().mean()) for name, restored in images.items()}
    assert torch.equal(images["noisy"], half["data"]["images"])
    assert error["wiener_masked"] < error["wiener"] < error["low_pass"] < error["noisy"]
    # these poses are exact: the map at the pose is then as good as the map, and as ready where there is no particle
    assert error["projection"] < error["wiener_masked"]
    assert float(images["projection"][-10:].square().mean()) > 0.5 * float(images["projection"][:-10].square().mean())


def test_a_method_without_a_network_says_what_it_lacks(halves, tmp_path):
    with pytest.raises(CryorestoreError, match="expected one name"):
        run_method(halves[0], tmp_path, ["noisy", "wiener"])
    with pytest.raises(CryorestoreError, match="mask_radius: found none"):
        run_method(halves[0], tmp_path, ["wiener_masked"])
    with pytest.raises(CryorestoreError, match=r"topaz: .*leave the method out"):
        run_method(halves[0], tmp_path, ["topaz"], peer_python=sys.executable)
    with pytest.raises(CryorestoreError, match=r"set programs\.peer_python"):
        run_method(halves[0], tmp_path, ["bm3d"], peer_python="/nowhere/python")


def test_evidence_is_a_probability_and_its_absence_accepts():
    probability, accepted = judge_evidence(np.array([0.0, 1000.0, -1000.0, np.nan]), threshold=0.5)
    assert probability[:3].tolist() == [0.5, 1.0, pytest.approx(0.0)]
    assert accepted.tolist() == [False, True, False, True]
