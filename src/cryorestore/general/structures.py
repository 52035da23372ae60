"""The structures that the general network learns from: a list of PDB entries, their files, and their volumes ready to be sliced."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path
from cryorestore.general.restorer import DIAMETER_SHARE, WORKING_SIDE
from cryorestore.logs import progress
from cryorestore.molecule import load_molecule, molecule_volume

COLUMNS = ("id", "split", "assembly", "heavy_atoms")
TRAIN, VALIDATION = "train", "validation"
INSIDE = 99.0
"""Percent of the atoms that lie within a structure's radius: a tail that stands out does not set the size."""


@dataclass(frozen=True)
class Model:
    """One row of models.tsv."""

    id: str
    split: str
    assembly: str
    heavy_atoms: int


@dataclass(frozen=True)
class Structure:
    """A structure at the finest sampling at which it is shown: its diameter takes the greatest share of the working side."""

    name: str
    diameter: float
    """angstrom"""
    volume: Float[Tensor, "side side side"]


def shipped_models() -> Path:
    """The list of the package: the structures of the shipped weights, and those that they were never shown."""
    return Path(str(resources.files("cryorestore").joinpath("assets/general_models.tsv")))


def read_models(path: str | Path) -> list[Model]:
    """Read a tab-separated list of models.

    Raises
    ------
    CryorestoreError
        If a column is missing, a split is neither "train" nor "validation", or an id stands twice.
    """
    with Path(path).open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise CryorestoreError(f"{path}: found columns {reader.fieldnames}, expected {', '.join(COLUMNS)}; add {', '.join(missing)}")
        models = [Model(row["id"], row["split"], row["assembly"], int(row["heavy_atoms"])) for row in reader]
    for number, model in enumerate(models, 2):
        if model.split not in (TRAIN, VALIDATION):
            raise CryorestoreError(f"{path}, line {number}: split is '{model.split}', expected '{TRAIN}' or '{VALIDATION}'; mend the row")
    if len({model.id for model in models}) < len(models):
        raise CryorestoreError(f"{path}: an id stands twice; expected each structure once; remove one of the rows")
    return models


def find_model(model: Model, data_root: str | Path) -> Path:
    """The file `data_root`/ID.* of a model, in lower or upper case.

    Raises
    ------
    CryorestoreError
        If there is none, or more than one.
    """
    found = sorted({*Path(data_root).glob(f"{model.id.lower()}.*"), *Path(data_root).glob(f"{model.id.upper()}.*")})
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise CryorestoreError(
            f"{data_root}: found {names} for {model.id}, expected one file {model.id.lower()}.cif.gz, .cif, .pdb.gz or .pdb with {model.assembly}; "
            "download that assembly from the PDB, or take the row out of the list"
        )
    return found[0]


def load_structures(models: Sequence[Model], *, data_root: str | Path, cache_dir: str | Path) -> list[Structure]:
    """Volumes of the models; made once and kept in `cache_dir`.

    Raises
    ------
    CryorestoreError
        If a file is missing or has another number of heavy atoms than the list says.
    """
    return [_structure(model, find_model(model, data_root), Path(cache_dir)) for model in progress(models, description="volumes of structures")]


def _structure(model: Model, path: Path, cache_dir: Path) -> Structure:
    kept = cache_dir / f"{model.id.lower()}.npz"
    if kept.exists():
        with np.load(kept, allow_pickle=False) as arrays:
            return Structure(model.id, float(arrays["diameter"]), torch.from_numpy(arrays["volume"]))
    molecule = load_molecule(path)
    if len(molecule.weights) != model.heavy_atoms:
        raise CryorestoreError(
            f"{path}: found {len(molecule.weights)} heavy atoms, expected {model.heavy_atoms} ({model.assembly}); give that assembly without waters"
        )
    diameter = 2 * float(np.percentile(np.linalg.norm(molecule.positions, axis=1), INSIDE))
    pixel_size = diameter / (DIAMETER_SHARE[1] * WORKING_SIDE)
    volume = molecule_volume(molecule, box_size=WORKING_SIDE, pixel_size=pixel_size)
    cache_dir.mkdir(parents=True, exist_ok=True)
    with atomic_path(kept) as temporary, temporary.open("wb") as file:
        np.savez(file, diameter=diameter, volume=volume.numpy())
    return Structure(model.id, diameter, volume)
