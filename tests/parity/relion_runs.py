"""relion_preprocess and our two steps on one input: scenes, runs of both, and what has to be equal."""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from cryorestore.extract import extract_particles
from cryorestore.io.mrc import MrcStackReader
from cryorestore.io.star import StarBlock, read_star, write_star
from cryorestore.masks import background_mask
from cryorestore.normalize import normalize_particles
from cryorestore.particles import ParticleTable

TOLERANCE = 1e-4
"""background sigmas, in every pixel"""
NUMBER_TOLERANCE = {"rtol": 1e-6, "atol": 1e-5}
"""RELION writes at least five decimals"""
needs_relion = [
    pytest.mark.relion,
    pytest.mark.skipif(shutil.which("relion_preprocess") is None, reason="relion_preprocess is not installed"),
]


class Settings(NamedTuple):
    """What both programs are told; `bg_radius` None: not normalized."""

    box_size: int
    scale: int | None = None
    bg_radius: int | None = None
    invert: bool = False
    ramp: bool = True

    def __str__(self) -> str:
        parts = [str(self.box_size), f"scale{self.scale}" if self.scale else "", f"bg{self.bg_radius}" if self.bg_radius else ""]
        return "-".join(part for part in [*parts, "invert" if self.invert else "", "" if self.ramp else "no_ramp"] if part)


@dataclass(frozen=True)
class Scene:
    """A folder with micrographs, a table of them, and coordinate files at `picks`/<micrograph without its ending><suffix>."""

    folder: Path
    suffix: str = "_pick.star"
    picks: str = "picks/"
    micrographs: str = "micrographs.star"

    def coordinate_files(self) -> list[Path]:
        names = read_star(self.folder / self.micrographs).blocks["micrographs"].column("rlnMicrographName")
        files = [self.folder / self.picks / (str(Path(name).with_suffix("")) + self.suffix) for name in names]
        return [path for path in files if path.is_file()]


@dataclass(frozen=True)
class Particles:
    """What a program wrote."""

    rows: StarBlock
    optics: StarBlock
    images: np.ndarray


def star(path: Path, **tables: dict) -> Path:
    """Write tables given as columns; the name `plain` stands for the table without a name."""
    write_star(path, {"" if name == "plain" else name: StarBlock.from_columns(columns) for name, columns in tables.items()})
    return path


def optics_table(pixel_sizes: list[float], **more: list[str]) -> dict:
    """Optics groups that differ in voltage and pixel size."""
    count = len(pixel_sizes)
    return {
        "rlnOpticsGroupName": ["one", "two", "three"][:count],
        "rlnOpticsGroup": ["1", "2", "3"][:count],
        "rlnMicrographPixelSize": [str(size) for size in pixel_sizes],
        "rlnMicrographOriginalPixelSize": [str(size / 2) for size in pixel_sizes],
        "rlnVoltage": ["300.0", "200.0", "120.0"][:count],
        "rlnSphericalAberration": ["2.7", "1.4", "2.0"][:count],
        "rlnAmplitudeContrast": ["0.1", "0.07", "0.1"][:count],
        **more,
    }


def run_relion(scene: Scene, settings: Settings, *options: str, reextract: str | None = None, check: bool = True) -> Particles | str:
    """Run relion_preprocess in the scene's folder; what it said, if it fails and `check` is false."""
    folder = Path(tempfile.mkdtemp(dir=scene.folder, prefix="relion_"))
    command = ["relion_preprocess", "--i", scene.micrographs, "--part_star", f"{folder.name}/all.star", "--part_dir", f"{folder.name}/", "--extract"]
    command += ["--extract_size", str(settings.box_size), *options]
    command += ["--reextract_data_star", reextract] if reextract else ["--coord_dir", scene.picks, "--coord_suffix", scene.suffix]
    command += ["--scale", str(settings.scale)] if settings.scale else []
    command += ["--norm", "--bg_radius", str(settings.bg_radius)] if settings.bg_radius else []
    command += ["--invert_contrast"] if settings.invert else []
    command += [] if settings.ramp else ["--no_ramp"]
    done = subprocess.run(command, cwd=scene.folder, check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode and not check:
        return done.stderr
    assert done.returncode == 0, done.stderr[-2000:]
    blocks = read_star(folder / "all.star").blocks
    return Particles(blocks["particles"], blocks["optics"], _images(scene.folder, blocks["particles"].column("rlnImageName")))


def _images(folder: Path, names: list[str]) -> np.ndarray:
    stacks = {stack: MrcStackReader(folder / stack) for stack in dict.fromkeys(name.partition("@")[2] for name in names)}
    return np.concatenate([stacks[name.partition("@")[2]].read([int(name.partition("@")[0]) - 1]) for name in names])


def run_ours(scene: Scene, settings: Settings, *, dust: dict | None = None, **extraction: object) -> Particles:
    """Run extract_particles and, with a `bg_radius`, normalize_particles."""
    folder = Path(tempfile.mkdtemp(dir=scene.folder, prefix="ours_"))
    table = folder / "extracted.star"
    inputs = {} if "particles_star" in extraction else {"coordinates": scene.coordinate_files()}
    extract_particles(
        micrographs_star=scene.folder / scene.micrographs,
        stack=folder / "extracted.mrcs",
        star=table,
        rejects_star=folder / "rejects.star",
        box_size=settings.box_size,
        scale=settings.scale,
        invert_contrast=settings.invert,
        **inputs,
        **extraction,
    )
    if settings.bg_radius:
        outputs = {"normalized_stack": "n.mrcs", "normalized_star": "n.star", "statistics_csv": "n.csv", "rejects_star": "nr.star"}
        paths = {name: folder / file for name, file in outputs.items()}
        normalize_particles(star=table, **paths, bg_radius=settings.bg_radius, remove_ramp=settings.ramp, **(dust or {}))
        table = paths["normalized_star"]
    found = ParticleTable.read(table)
    return Particles(found.particles, found.optics, found.load_images())


def background_sigmas(images: np.ndarray) -> np.ndarray:
    """Sigma outside three quarters of the radius, (n, 1, 1): what an image's differences are measured with."""
    box_size = images.shape[-1]
    background = background_mask(box_size, 0.375 * box_size).numpy()
    return images[:, background].astype(np.float64).std(1)[:, None, None]


def assert_same_columns(theirs: StarBlock, ours: StarBlock, *, leave_out: tuple[str, ...] = ()) -> None:
    """Every column that RELION writes is there with an equal number, or text."""
    for name in theirs.columns:
        if name in leave_out:
            continue
        assert name in ours, f"RELION writes {name}"
        expected, found = theirs.column(name), ours.column(name)
        try:
            numbers = np.array(expected, float)
        except ValueError:
            assert found == expected, name
        else:
            np.testing.assert_allclose(np.array(found, float), numbers, err_msg=name, **NUMBER_TOLERANCE)


def assert_same_particles(theirs: Particles, ours: Particles, *, tolerance: float | np.ndarray = TOLERANCE) -> None:
    """The same particles in the same order, the same columns, the same optics, and every pixel within the tolerance (background sigmas)."""
    assert len(theirs.rows) == len(ours.rows) > 0
    assert_same_columns(theirs.rows, ours.rows, leave_out=("rlnImageName",))
    assert_same_columns(theirs.optics, ours.optics)
    assert theirs.images.shape == ours.images.shape
    worst = np.abs(ours.images - theirs.images) / background_sigmas(theirs.images)
    print(f"largest difference {worst.max():.1e} background sigmas in {len(worst)} images")
    assert (worst < tolerance).all()
