"""What is done with a file of each kind: read it as the steps do, to the last value."""

import shutil
from collections.abc import Callable
from pathlib import Path

from cryorestore.checkpoint import load_checkpoint, load_weights
from cryorestore.config.loading import load_configuration
from cryorestore.files import read_json
from cryorestore.io.coordinates import read_coordinates
from cryorestore.io.micrograph_file import inspect_micrograph
from cryorestore.io.mrc import MrcStackReader, read_map, read_micrograph
from cryorestore.molecule import read_atoms
from cryorestore.particles import ParticleTable


def read_mrc(path: Path) -> None:
    """As map, stack or micrograph, by the name."""
    if path.stem == "map":
        read_map(path)
    elif path.stem == "stack":
        stack = MrcStackReader(path)
        stack.read(range(stack.count))
    else:
        read_micrograph(path)
        inspect_micrograph(path).pixels()


def read_tiff(path: Path) -> None:
    """Header and pixels."""
    inspect_micrograph(path).pixels()


def read_particles(path: Path) -> None:
    """Everything that the steps ask of a table, its images too."""
    table = ParticleTable.read(path)
    table.origins()
    table.halves()
    table.signs.sum()
    if table.has_poses.all():
        table.rotation_matrices()
    if "rlnDefocusU" in table.particles:
        table.ctf_parameters()
    if "rlnImageName" in table.particles:
        table.image_locations()
        table.load_images()


def read_picks(path: Path) -> None:
    """Coordinates of any form."""
    read_coordinates(path)


def read_configuration(path: Path) -> None:
    """A dataset file, a table of data sets, or JSON, by the name."""
    if path.suffix == ".json":
        read_json(path)
        return
    root = path.parent
    shutil.copy(path if path.suffix == ".yaml" else root / "dataset.yaml", root / "config/datasets/mine.yaml")
    table = {"datasets_table": path.name} if path.suffix == ".tsv" else {"datasets": ["mine"]}
    load_configuration({"datasets_dir": "config/datasets", **table}, root=root)


def read_molecule(path: Path) -> None:
    """Atoms of a PDB file."""
    read_atoms(path)


def read_weights(path: Path) -> None:
    """Weights and their description, or a checkpoint."""
    if path.stem == "checkpoint":
        load_checkpoint(path, key="k")
    else:
        load_weights(path.with_suffix(".safetensors"), kind="diffusion")


READERS: dict[str, Callable[[Path], None]] = {
    "mrc": read_mrc,
    "tiff": read_tiff,
    "star": read_particles,
    "cryosparc": read_particles,
    "coordinates": read_picks,
    "configuration": read_configuration,
    "molecule": read_molecule,
    "checkpoint": read_weights,
}
