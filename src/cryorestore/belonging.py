"""Whether particles may be restored with what a half-set learned: asked before any image is touched."""

from collections.abc import Sequence
from pathlib import Path

from cryorestore.checkpoint import description_path
from cryorestore.errors import CryorestoreError
from cryorestore.files import read_json
from cryorestore.io.relion import PREMULTIPLIED
from cryorestore.particles import ParticleTable
from cryorestore.reference import Reference

_PIXEL_TOLERANCE = 1e-3
"""relative; a map's header holds float32"""


def check_restorable(table: ParticleTable, reference: Reference, weights: Sequence[str | Path]) -> None:
    """Refuse particles that the reference and the networks were not made for.

    Parameters
    ----------
    table
        Particles of one half.
    reference
        What is to restore them.
    weights
        Networks, each with its JSON beside it. One that was trained on pairs without a half is taken for any.

    Raises
    ------
    CryorestoreError
        If the images are multiplied by their CTF already, their box or pixel size is not the reference's, or a network learned from the other half.
    """
    refuse_premultiplied(table)
    found, expected = table.pixel_size, reference.pixel_size
    if abs(found - expected) > _PIXEL_TOLERANCE * expected:
        raise CryorestoreError(
            f"{table.path}: found a pixel size of {found:g} angstrom, expected {expected:g}, the reference's; train on such particles"
        )
    box_size = reference.volume.shape[-1]
    if table.box_size != box_size:
        raise CryorestoreError(f"{table.path}: found a box of {table.box_size} px, expected {box_size}, the reference's; train on such particles")
    for path in weights:
        _refuse_other_half(table, path)


def refuse_premultiplied(table: ParticleTable) -> None:
    """Refuse images that are multiplied by their CTF already, naming column, optics group and value."""
    if not table.ctf_premultiplied:
        return
    optics, used = table.optics, set(table.optics_groups().tolist())
    rows = zip(optics.ints("rlnOpticsGroup").tolist(), optics.floats(PREMULTIPLIED).tolist(), strict=True)
    group, value = next((group, value) for group, value in rows if value and group in used)
    raise CryorestoreError(
        f"{table.path}: optics group {group}: found {PREMULTIPLIED} {value:g}, expected 0: the networks and the posterior model the CTF once; "
        "extract the particles without CTF premultiplication (reconstruction alone takes them)"
    )


def _refuse_other_half(table: ParticleTable, weights: str | Path) -> None:
    learned = read_json(description_path(weights)).get("pairs_config", {}).get("half")
    strange = sorted(set(table.halves().tolist()) - {0, learned})
    if learned is not None and strange:
        raise CryorestoreError(
            f"{weights}: learned from half {learned}, found particles of rlnRandomSubset {strange[0]} in {table.path}; "
            "a half is restored with its own networks only: give those"
        )
