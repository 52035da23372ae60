"""A half-set with a known answer: its particles, its maps, what it knows of itself, its training pairs. Kept in the work folder by what made it."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from keys import key_of, lock
from safetensors.torch import load_file, save_file
from simulation import PIXEL, ROTATION_ERROR, SHIFT_ERROR, Particles, gain, simulate, true_volume, write_half
from torch import Tensor

from cryorestore.config import load_configuration
from cryorestore.config.paths import data_path
from cryorestore.files import atomic_path
from cryorestore.io.mrc import write_map
from cryorestore.molecule import DEMO_MOLECULE, Molecule, load_molecule
from cryorestore.pairs import make_training_pairs
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct import reconstruct_map
from cryorestore.reference import estimate_reference

SETTINGS = load_configuration({"datasets": ["demo"]}).settings["demo"]
MODELS = data_path(SETTINGS, "models")
POSES = {"rotation_sigma": ROTATION_ERROR, "shift_sigma": SHIFT_ERROR * PIXEL}
MASK = {"mask_radius": 80.0, "mask_edge": 12.0}
BG_RADIUS = 24.0
BATCH = 16
MODULES = ("molecule", "project", "ctf", "geometry", "reconstruct.native", "reference")
FILES = ("simulation.py", "halves.py")


@dataclass(frozen=True)
class Scale:
    """How much is measured: scored particles of a cell, particles of a half, training pairs of all tiers together, processor seconds of a training,
    the tiers (SNR, structural noise) that a training covers, and, where the time is not to count, the steps of every training.
    """

    count: int
    half: int
    pairs: int
    seconds: float
    tiers: tuple[tuple[float, str], ...]
    steps: int | None = None


@dataclass(frozen=True)
class Half:
    """One half-set, made when it is first asked for, and the particles that are scored, which no map and no training has seen."""

    work: Path
    scale: Scale
    snr: float
    structure: str
    seed: int
    molecule: str = DEMO_MOLECULE

    def at(self, snr: float, structure: str) -> "Half":
        """The half that networks learn from, at another tier."""
        return replace(self, snr=snr, structure=structure, molecule=DEMO_MOLECULE)

    @cached_property
    def atoms(self) -> Molecule:
        """The embedded molecule, or one that no network has seen, from the data's folder."""
        return load_molecule(self.molecule if self.molecule == DEMO_MOLECULE else model_path(self.molecule))

    @cached_property
    def volume(self) -> Tensor:
        """The true map."""
        return true_volume(self.atoms, gain(self.atoms, self.snr))

    @cached_property
    def scored(self) -> Particles:
        """Particles projected from atoms."""
        return simulate(self.atoms, self.scale.count, seed=1000 + self.seed, snr=self.snr, structure=self.structure)

    @cached_property
    def folder(self) -> Path:
        """Where what is made of this half lies."""
        made = {"snr": self.snr, "structure": self.structure, "seed": self.seed, "molecule": self.molecule, "half": self.scale.half}
        return self.work / f"{self.molecule}_{self.structure}_snr{self.snr:g}_seed{self.seed}_{key_of(made, MODULES, FILES)}"

    @cached_property
    def star(self) -> Path:
        """The half that maps are made from: slices of the true map, given poses with their error."""
        star = self.folder / "particles.star"
        with lock(self.folder / "particles.lock"):
            if not star.exists():
                write_half(
                    self.folder, simulate(self.atoms, self.scale.half, volume=self.volume, seed=self.seed, snr=self.snr, structure=self.structure)
                )
        return star

    def maps(self, kind: str) -> dict[str, Path]:
        """Map, and maps of odd and even particles; the true map is all three of itself."""
        paths = {name: self.folder / kind / f"{name}.mrc" for name in ("map", "map_odd", "map_even")}
        star = self.star
        with lock(self.folder / f"{kind}.lock"):
            if all(path.exists() for path in paths.values()):
                return paths
            if kind == "true":
                for path in paths.values():
                    write_map(path, self.volume.numpy(), pixel_size=PIXEL)
            else:
                reconstruct_map(star=star, **paths, backend="native")
        return paths

    def reference(self, kind: str) -> dict[str, Path]:
        """What the half knows of itself."""
        maps = self.maps(kind)
        paths = {"reference_map": self.folder / kind / "reference_map.mrc", "noise_json": self.folder / kind / "noise.json"}
        with lock(self.folder / f"{kind}.lock"):
            if not all(path.exists() for path in paths.values()):
                table = ParticleTable.read(self.star)
                estimate_reference(table, **maps, **MASK, bg_radius=BG_RADIUS, seed=self.seed).write(**paths)
        return paths

    def pairs(self, kind: str, *, with_posterior: bool) -> Path:
        """Training pairs of all tiers, one after the other by turns, so that the held-out ones have all."""
        settings = {name: getattr(self.scale, name) for name in ("half", "pairs", "tiers")} | {"kind": kind, "seed": self.seed}
        settings |= {"posterior": SETTINGS["posterior"] if with_posterior else None}
        name = key_of(settings, ("pairs", *MODULES), FILES)
        path = self.work / "pairs" / f"{kind}_seed{self.seed}_{'posterior_' if with_posterior else ''}{name}.safetensors"
        with lock(path.with_suffix(".lock")):
            if not path.exists():
                self._make_pairs(path, kind, with_posterior=with_posterior)
        return path

    def _make_pairs(self, path: Path, kind: str, *, with_posterior: bool) -> None:
        parts = []
        for number, (snr, structure) in enumerate(self.scale.tiers):
            half, own = self.at(snr, structure), path.with_name(f"{path.stem}_tier{number}.safetensors")
            spare = {"reference_map": own.with_suffix(".mrc"), "noise_json": own.with_suffix(".json")}
            options = {"count": self.scale.pairs // len(self.scale.tiers), "with_posterior": with_posterior, "batch_size": BATCH, "seed": self.seed}
            options["posterior_rotations"] = SETTINGS["posterior"]["rotations"]
            if not own.exists():
                make_training_pairs(star=half.star, **half.maps(kind), pairs=own, **spare, **options, **MASK, **POSES, bg_radius=BG_RADIUS)
            parts.append(load_file(own))
        merged = {name: torch.stack([part[name] for part in parts], 1).flatten(0, 1) for name in parts[0]}
        config = {"kind": "simulated", "validation_from": int(0.9 * len(merged["clean"])), "half": 1}
        with atomic_path(path) as temporary:
            save_file(merged, temporary, metadata={"config": json.dumps(config)})
        for part in path.parent.glob(f"{path.stem}_tier*"):
            part.unlink()


def model_path(name: str) -> Path:
    """A structure of the data's folder."""
    return Path(MODELS) / f"{name}.cif.gz"
