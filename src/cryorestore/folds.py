"""Cross-fitting inside a half: what restores a particle was learned from the other fold of its half, so it never saw that particle."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path, files_together
from cryorestore.identity import identity_fractions, particle_identities
from cryorestore.io.mrc import MrcStackReader, MrcStackWriter
from cryorestore.io.packed import pack_lines
from cryorestore.io.star import StarBlock
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct.step import HOLDOUT_COLUMN, MINIMUM_PARTICLES
from cryorestore.restore import ROW_COLUMN
from cryorestore.sharding import IMAGES_AT_ONCE, shard_files

FOLDS = (1, 2)


@files_together()
def split_folds(
    *,
    star: str | Path,
    fold1_learn_star: str | Path,
    fold1_star: str | Path,
    fold2_learn_star: str | Path,
    fold2_star: str | Path,
    seed: int = 1,
) -> None:
    """Divide the particles of one half into two folds, by seed and identity.

    Parameters
    ----------
    star
        Particles of one half, with rlnCryorestoreRow and rlnCryorestoreHoldout.
    fold1_star, fold2_star
        Written: the particles of each fold, which are restored with what the other one taught.
    fold1_learn_star, fold2_learn_star
        Written: all particles of the half, those of the fold marked as held out (rlnCryorestoreHoldout 1), as whatever learns expects it.
    seed
        Of the draw.

    Raises
    ------
    CryorestoreError
        If a fold has too few particles to learn from.
    """
    table = ParticleTable.read(star)
    held = table.particles.ints(HOLDOUT_COLUMN) == 1
    fold = 1 + (identity_fractions(particle_identities(table), seed=seed, purpose="fold") >= 0.5)
    for number, learn_star, own_star in ((1, fold1_learn_star, fold1_star), (2, fold2_learn_star, fold2_star)):
        own = fold == number
        left = int((~own & ~held).sum())
        if left < MINIMUM_PARTICLES or not own.any():
            raise CryorestoreError(
                f"{star}: fold {number} has {int(own.sum())} particles and {left} of the other one to learn from, expected at least "
                f"{MINIMUM_PARTICLES}; set restore.cross_fit to false"
            )
        table.with_columns({HOLDOUT_COLUMN: (held | own).astype(np.int64)}).write(learn_star)
        table.take(np.flatnonzero(own)).write(own_star)
        get_logger().info("fold %d: %d particles, restored with what %d others teach", number, int(own.sum()), left)


@files_together()
def gather_folds(
    *,
    star: str | Path,
    fold_folders: Sequence[str | Path],
    restored_stack: str | Path,
    restored_star: str | Path,
    evidence_csv: str | Path,
    deviation_stack: str | Path | None = None,
) -> None:
    """Put the restored folds of a half together, in the order of its table.

    Parameters
    ----------
    star
        Particles of the half.
    fold_folders
        Folders of the folds, each with the files that `restore_particles` wrote for it, named as by `sharding.shard_files`.
    restored_stack, restored_star, evidence_csv, deviation_stack
        Outputs, as of `restore_particles`; the last only for methods that look at poses.

    Raises
    ------
    CryorestoreError
        If the folds do not hold every particle of the half once.
    """
    parts = [shard_files(Path(folder), deviation=deviation_stack is not None) for folder in fold_folders]
    source, tables = ParticleTable.read(star), [ParticleTable.read(part["restored_star"]) for part in parts]
    places = _places(source, tables)
    columns = tables[0].particles.columns
    lines = [list(table.particles.lines) for table in tables]
    evidence = [_evidence_rows(part["evidence_csv"]) for part in parts]
    with atomic_path(evidence_csv) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines([evidence[0][0], *(evidence[fold][1 + row] for fold, row in places.tolist())])
    hashes = _write_in_order(restored_stack, [part["restored_stack"] for part in parts], places)
    if deviation_stack is not None:
        _write_in_order(deviation_stack, [part["deviation_stack"] for part in parts], places)
    block = StarBlock(columns, pack_lines(lines[fold][row] for fold, row in places.tolist()), str(restored_star))
    joined = ParticleTable(block, tables[0].optics, Path(restored_star))
    joined.with_images(restored_stack, box_size=tables[0].box_size, hashes=hashes).write(restored_star)


def _places(source: ParticleTable, tables: Sequence[ParticleTable]) -> NDArray[np.int64]:
    """Fold (from 0) and row there of each particle of the half, (n, 2)."""
    found = {number: (fold, row) for fold, table in enumerate(tables) for row, number in enumerate(table.particles.ints(ROW_COLUMN).tolist())}
    wanted = source.particles.ints(ROW_COLUMN).tolist()
    if sorted(found) != sorted(wanted) or sum(map(len, tables)) != len(wanted):
        own = len(set(wanted) & set(found))
        raise CryorestoreError(
            f"{source.path}: found {sum(map(len, tables))} restored particles in its folds, {own} of its {len(wanted)} among them, "
            "expected each once; restore the folds again"
        )
    return np.array([found[number] for number in wanted], np.int64)


def _write_in_order(path: str | Path, stacks: Sequence[Path], places: NDArray[np.int64]) -> list[str]:
    """Write the images of both folds in the order of `places`; return their hashes."""
    readers = [MrcStackReader(stack) for stack in stacks]
    box_size = readers[0].shape2d[0]
    with MrcStackWriter(path, count=len(places), box_size=box_size, pixel_size=readers[0].pixel_size) as writer:
        for first in range(0, len(places), IMAGES_AT_ONCE):
            part = places[first : first + IMAGES_AT_ONCE]
            images = np.empty((len(part), box_size, box_size), np.float32)
            for fold, reader in enumerate(readers):
                here = part[:, 0] == fold
                images[here] = reader.read(part[here, 1])
            writer.append(images)
    return writer.hashes


def _evidence_rows(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [",".join(cells) + "\n" for cells in csv.reader(file)]
