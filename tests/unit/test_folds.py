"""Cross-fitting: two folds of a half, and what memory of itself a particle loses by it."""

import numpy as np
import pytest
import torch

from cryorestore.errors import CryorestoreError
from cryorestore.folds import gather_folds, split_folds
from cryorestore.io.mrc import MrcStackReader
from cryorestore.pairs import make_training_pairs
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct import reconstruct_map
from cryorestore.restore import restore_particles
from cryorestore.sharding import shard_files
from helpers import BOX, POSES, simulate_particles, write_particles

COUNT = 120
SPHERE = {"mask_radius": 50.0, "mask_edge": 8.0}


def fold_files(folder):
    return {f"fold{fold}_{name}": folder / f"fold{fold}/{name}.star" for fold in (1, 2) for name in ("star", "learn_star")}


def write_half(folder, data):
    holdout = (np.arange(len(data["images"])) % 10 == 0).astype(int)
    extra = {"rlnCryorestoreRow": 3 + 2 * np.arange(len(holdout)), "rlnCryorestoreHoldout": holdout}
    return write_particles(folder, data, extra=extra)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    data = simulate_particles(COUNT, sigma=1.5, seed=1)
    star = write_half(folder, data)
    split_folds(star=star, **fold_files(folder), seed=3)
    return {"folder": folder, "data": data, "star": star}


def test_every_particle_is_in_one_fold_and_held_out_of_what_restores_it(half):
    source = ParticleTable.read(half["star"])
    folds = [ParticleTable.read(half["folder"] / f"fold{fold}/star.star") for fold in (1, 2)]
    rows = [fold.particles.ints("rlnCryorestoreRow").tolist() for fold in folds]
    assert sorted(rows[0] + rows[1]) == source.particles.ints("rlnCryorestoreRow").tolist()
    assert 40 < len(rows[0]) < 80
    for fold, own in enumerate(rows, 1):
        learn = ParticleTable.read(half["folder"] / f"fold{fold}/learn_star.star")
        held = learn.particles.ints("rlnCryorestoreHoldout") == 1
        numbers = learn.particles.ints("rlnCryorestoreRow")
        assert set(own) <= set(numbers[held])
        assert held.tolist() == [number in own or place % 10 == 0 for place, number in enumerate(numbers.tolist())]


def test_a_half_too_small_for_folds_is_refused(tmp_path):
    star = write_half(tmp_path, simulate_particles(5, sigma=1.0))
    with pytest.raises(CryorestoreError, match=r"set restore\.cross_fit to false"):
        split_folds(star=star, **fold_files(tmp_path))


def learn(half, fold):
    """Map and reference from what the table of one fold leaves to learn from."""
    folder = half["folder"] / f"learnt{fold}"
    folder.mkdir(exist_ok=True)
    star = half["folder"] / f"fold{fold}/learn_star.star"
    maps = {name: folder / f"{name}.mrc" for name in ("map", "map_odd", "map_even")}
    reconstruct_map(star=star, **maps, backend="native")
    reference = {"reference_map": folder / "reference.mrc", "noise_json": folder / "noise.json"}
    make_training_pairs(star=star, **maps, pairs=folder / "pairs.safetensors", **reference, bg_radius=12.0, count=10, **SPHERE, **POSES)
    return reference


def restore(star, reference, folder):
    restore_particles(star=star, **reference, **shard_files(folder, deviation=True), condition=["mean", "deviation"], **POSES)
    return MrcStackReader(folder / "particles.mrcs").read(range(len(ParticleTable.read(star))))


@pytest.mark.slow
def test_gathered_folds_are_the_half_in_its_order_and_no_particle_remembers_itself(half, tmp_path):
    """The map that a particle is in gives it back too well: a lower error than the same map gives to particles that it never saw."""
    clean = half["data"]["clean"].numpy()
    rows = {fold: (ParticleTable.read(half["folder"] / f"fold{fold}/star.star").particles.ints("rlnCryorestoreRow") - 3) // 2 for fold in (1, 2)}
    error = {"own map": 0.0, "the other fold's": 0.0}
    for fold in (1, 2):
        reference, other = learn(half, fold), 3 - fold
        crossed = restore(half["folder"] / f"fold{fold}/star.star", reference, tmp_path / f"{fold}")
        error["the other fold's"] += float(((crossed - clean[rows[fold]]) ** 2).sum())
        own = restore(half["folder"] / f"fold{other}/star.star", reference, tmp_path / f"own{other}")
        error["own map"] += float(((own - clean[rows[other]]) ** 2).sum())
    assert error["own map"] < 0.97 * error["the other fold's"]
    outputs = shard_files(tmp_path / "gathered", deviation=True)
    gather_folds(star=half["star"], fold_folders=[tmp_path / "1", tmp_path / "2"], **outputs)
    gathered, source = ParticleTable.read(outputs["restored_star"]), ParticleTable.read(half["star"])
    assert gathered.particles.column("rlnDefocusU") == source.particles.column("rlnDefocusU")
    assert len(outputs["evidence_csv"].read_text().splitlines()) == 1 + COUNT
    images = torch.from_numpy(gathered.load_images())
    for fold in (1, 2):
        alone = MrcStackReader(tmp_path / f"{fold}/particles.mrcs").read(range(len(rows[fold])))
        assert np.array_equal(images[rows[fold]].numpy(), alone)
    assert images.shape == (COUNT, BOX, BOX)


@pytest.mark.slow
def test_folds_of_another_half_are_refused(half, tmp_path):
    reference = learn(half, 1)
    restore(half["folder"] / "fold1/star.star", reference, tmp_path / "1")
    with pytest.raises(CryorestoreError, match="restore the folds again"):
        gather_folds(star=half["star"], fold_folders=[tmp_path / "1", tmp_path / "1"], **shard_files(tmp_path / "out", deviation=True))
