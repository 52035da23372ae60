"""Restoration in shards: which rows each one restores, and how they become one stack that is the same whatever their number."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path, files_together
from cryorestore.io.binding import IMAGE_HASH
from cryorestore.io.mrc import MrcStackReader, MrcStackWriter
from cryorestore.io.packed import pack_lines
from cryorestore.io.star import StarBlock
from cryorestore.logs import progress
from cryorestore.particles import ParticleTable

IMAGES_AT_ONCE = 256


def shard_files(folder: Path, *, deviation: bool) -> dict[str, Path]:
    """What `restore_particles` writes for a shard, by keyword, as `gather_shards` looks for it."""
    names = {"restored_stack": "particles.mrcs", "restored_star": "particles.star", "evidence_csv": "evidence.csv"}
    return {name: folder / file for name, file in {**names, **({"deviation_stack": "deviation.mrcs"} if deviation else {})}.items()}


def shard_rows(count: int, batch_size: int, *, shard: int, shards: int) -> slice:
    """Rows that a shard (from 1) of a table of `count` restores: whole batches, so that every batch is the same as without shards.

    Raises
    ------
    CryorestoreError
        If there is no such shard.
    """
    if not 1 <= shard <= shards:
        raise CryorestoreError(f"shard is {shard} of {shards}; expected a number from 1 to shards")
    batches = -(-count // batch_size)
    return slice(*(min(count, batch_size * (part * batches // shards)) for part in (shard - 1, shard)))


@files_together()
def gather_shards(
    *,
    star: str | Path,
    shard_folders: Sequence[str | Path],
    restored_stack: str | Path,
    restored_star: str | Path,
    evidence_csv: str | Path,
    deviation_stack: str | Path | None = None,
) -> None:
    """Put the shards of a restored half together; the result is the same bytes as that of `restore_particles` in one piece.

    Parameters
    ----------
    star
        Particles that were restored in shards.
    shard_folders
        Folders of all shards in order, each with the files that `restore_particles` wrote for it, named as by `shard_files`.
    restored_stack, restored_star, evidence_csv, deviation_stack
        Outputs, as of `restore_particles`; the last only for methods that look at poses.

    Raises
    ------
    CryorestoreError
        If shards are missing, or their tables differ in their columns.
    """
    parts = [shard_files(Path(folder), deviation=deviation_stack is not None) for folder in shard_folders]
    tables = [ParticleTable.read(part["restored_star"]) for part in parts]
    expected, found = len(ParticleTable.read(star)), sum(map(len, tables))
    if found != expected:
        raise CryorestoreError(f"{star}: found {found} restored particles in {len(parts)} shards, expected {expected}; restore the shards again")
    filled = [(part, table) for part, table in zip(parts, tables, strict=True) if len(table)]
    with atomic_path(evidence_csv) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(_evidence_lines([part["evidence_csv"] for part in parts]))
    if not filled:
        tables[0].write(restored_star)
        return
    first = filled[0][1]
    for _, table in filled[1:]:
        if table.particles.columns != first.particles.columns:
            raise CryorestoreError(f"{table.path} and {first.path} have different columns; restore both with the same configuration")
    hashes = _join_stacks(restored_stack, [part["restored_stack"] for part, _ in filled], count=expected)
    if deviation_stack is not None:
        _join_stacks(deviation_stack, [part["deviation_stack"] for part, _ in filled], count=expected)
    block = StarBlock(first.particles.columns, pack_lines(chain.from_iterable(table.particles.lines for _, table in filled)), str(restored_star))
    _check_hashes(block, hashes)
    joined = ParticleTable(block, first.optics, Path(restored_star))
    joined.with_images(restored_stack, box_size=first.box_size, hashes=hashes).write(restored_star)


def _join_stacks(path: str | Path, stacks: Sequence[Path], *, count: int) -> list[str]:
    """Write all images as one stack; return their hashes."""
    readers = [MrcStackReader(stack) for stack in stacks]
    with MrcStackWriter(path, count=count, box_size=readers[0].shape2d[0], pixel_size=readers[0].pixel_size) as writer:
        for number, reader in enumerate(readers, start=1):
            for first in progress(range(0, reader.count, IMAGES_AT_ONCE), description=f"joining shard {number} of {len(readers)}"):
                writer.append(reader.read(range(first, min(reader.count, first + IMAGES_AT_ONCE))))
    return writer.hashes


def _check_hashes(block: StarBlock, hashes: Sequence[str]) -> None:
    for row, (found, expected) in enumerate(zip(hashes, block.column(IMAGE_HASH), strict=True), start=1):
        if found != expected:
            raise CryorestoreError(
                f"{block.source}: row {row}: found an image of hash {found} in its shard, expected {expected}; restore the shards again"
            )


def _evidence_lines(paths: Sequence[Path]) -> Iterator[str]:
    for number, path in enumerate(paths):
        with path.open(encoding="utf-8") as file:
            header = next(file)
            if number == 0:
                yield header
            yield from file
