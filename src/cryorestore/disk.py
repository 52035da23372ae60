"""How many bytes a run will write, from the configuration and the headers of its input, and whether they fit the disk."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryorestore.config import (
    CHANGED_MAPS,
    fused_stacks,
    has_deviation,
    has_poses,
    has_posterior,
    input_files,
    particle_box_size,
    pick_files,
)
from cryorestore.errors import CryorestoreError
from cryorestore.io.coordinates import read_coordinates
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable

FLOAT32, FLOAT16 = 4, 2
SAMPLED_FILES = 100
"""Of more pick files than these, evenly spaced ones are counted and the rest taken to be like them."""
TABLE_BYTES = 600
"""A row of a particle table and of what stands beside it; the apoferritin set's are 250 to 430."""
NETWORK_BYTES = {"tiny": 10**7, "small": 104 * 10**6, "paper": 1390 * 10**6}
"""Of one network, rounded up: its weights and, while it trains, weights, their running mean, the best so far and two moments."""
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True)
class DiskUse:
    """Bytes of each stage of one data set, by folder; `temporary` are those that go again before the run ends."""

    stages: dict[str, int]
    temporary: int

    @property
    def total(self) -> int:
        """Bytes of all stages: the most that stands on the disk at once is at most that."""
        return sum(self.stages.values())


def predict_disk_use(settings: Mapping[str, Any], *, keep_intermediates: bool = True) -> DiskUse:
    """Bytes that a data set's run writes, stage by stage.

    Parameters
    ----------
    settings
        Complete settings of one data set; its input is there.
    keep_intermediates
        Whether the extracted stack stays when it is normalized.

    Raises
    ------
    CryorestoreError
        If a table or stack of the input cannot be read.
    """
    particles, box_size = input_size(settings)
    return disk_use(settings, particles=particles, box_size=box_size, keep_intermediates=keep_intermediates)


def disk_use(settings: Mapping[str, Any], *, particles: int, box_size: int, keep_intermediates: bool = True) -> DiskUse:
    """As `predict_disk_use`, of a number of particles of a box (px, after rescaling)."""
    table = particles * TABLE_BYTES
    stack = particles * box_size**2 * FLOAT32
    half_maps = 2 * 3 * box_size**3 * FLOAT32 * has_poses(settings)
    stages: dict[str, int] = {}
    kind, methods = settings["input"]["kind"], {name: settings["methods"][name] for name in settings["denoisers"]}
    if kind == "simulation":
        stages["simulated"] = settings["simulate"]["count"] * settings["simulate"]["micrograph_size"] ** 2 * FLOAT32 + table
        stages["truth"] = 2 * stack + box_size**3 * FLOAT32 + table
    if kind in ("simulation", "micrographs"):
        stages["extracted"] = stack + table
    else:
        stages["imported"] = table
    narrow = settings["normalize"]["dtype"] == "float16"
    stages["normalized"] = stack // (2 if narrow else 1) + table
    if has_poses(settings):
        stages["raw"] = half_maps + table
    fused = fused_stacks(dict(settings))
    if fused:
        stages["fused"] = len(fused) * half_maps + table
    if (methods and has_poses(settings)) or fused:
        stages["pairs"] = 2 * (settings["pairs"]["count"] * box_size**2 * FLOAT16 * _pair_arrays(settings) + box_size**3 * FLOAT32)
    for name, method in methods.items():
        networks = [
            settings[section]["size"]
            for section, used in (("diffusion", method["network"] != "none"), ("postprocess", method["postprocess"]))
            if used
        ]
        stages[f"models/{name}"] = 2 * sum(NETWORK_BYTES[size] for size in networks)
        stages[f"work/{name}"] = 2 * settings["pairs"]["count"] * box_size**2 * FLOAT32 * method["postprocess"]
        stages[f"restored.{name}"] = stack * (1 + has_deviation(method)) + half_maps + 2 * table
    learnt = stages.get("pairs", 0) // 2 + half_maps // 2
    weights = sum(stages[f"models/{name}"] for name in methods) // 2
    if settings["controls"]["level"] == "full" and methods:
        stages["controls"] = len(CHANGED_MAPS) * (learnt + weights)
    if settings["restore"]["cross_fit"]:
        restored = sum(stages[f"restored.{name}"] - half_maps for name in methods)
        stages["folds"] = 4 * (learnt + weights) + 3 * table + restored
    temporary = stack if not keep_intermediates and "extracted" in stages else 0
    return DiskUse(stages, temporary)


def _pair_arrays(settings: Mapping[str, Any]) -> int:
    """Images of a training pair: noisy, clean, phase-flipped and Wiener, and where a method looks at the posterior its mean and deviation."""
    return 4 + 2 * any(has_posterior(settings["methods"][name]) for name in settings["denoisers"])


def input_size(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Number of particles that come in, and their box after rescaling (px): counted in tables and headers, of many pick files estimated."""
    files, box_size = input_files(settings), particle_box_size(settings)
    if settings["input"]["kind"] == "simulation":
        return settings["simulate"]["count"] * settings["simulate"]["per_micrograph"], box_size or 0
    if settings["input"]["coordinates"]:
        return _picks_in(pick_files(settings)), box_size or 0
    paths = files.get("cs") or files["particles_star"]
    table = ParticleTable.read(paths, pixel_size=settings["input"]["pixel_size"], project_root=files.get("project_root"))
    return len(table), box_size or table.box_size


def _picks_in(files: list[str]) -> int:
    counted = files if len(files) <= SAMPLED_FILES else files[:: len(files) // SAMPLED_FILES]
    return round(sum(len(read_coordinates(path)) for path in counted) * len(files) / len(counted))


def check_disk(
    settings: Mapping[str, Mapping[str, Any]],
    *,
    results: str | Path,
    policy: str = "refuse",
    keep_intermediates: bool = True,
    free: int | None = None,
) -> None:
    """Say what a run will write, and refuse it where that does not fit.

    What is needed is everything that stays, less what stands there already, and the largest temporary stack.

    Parameters
    ----------
    settings
        Complete settings of each data set by name.
    results
        Folder of all results; it need not exist yet.
    policy
        "refuse", "warn", or "none": predict nothing.
    free
        Bytes that are free; None asks the file system of `results`.

    Raises
    ------
    CryorestoreError
        If it does not fit and `policy` is "refuse".
    """
    if policy == "none":
        return
    uses = {name: predict_disk_use(one, keep_intermediates=keep_intermediates) for name, one in settings.items()}
    needed = sum(max(0, use.total - use.temporary - _bytes_below(Path(results) / name)) for name, use in uses.items())
    needed += max(use.temporary for use in uses.values())
    free = free_bytes(results) if free is None else free
    get_logger().info("disk: %s", f"{bytes_text(needed)} still to be written to {results}, {bytes_text(free)} free there")
    for name, use in uses.items():
        largest = sorted(use.stages.items(), key=lambda stage: -stage[1])[:3]
        get_logger().info("  %s: %s", name, f"{bytes_text(use.total)} ({', '.join(f'{stage} {bytes_text(size)}' for stage, size in largest)})")
    if needed <= free:
        return
    found = f"{results}: {bytes_text(free)} free, expected {bytes_text(needed)} for {', '.join(uses)}"
    if policy == "warn":
        get_logger().warning("%s; the run goes on, since disk_check is warn", found)
        return
    without = sum(use.stages.get("extracted", 0) for use in uses.values())
    saving = f" (keep_intermediates: false saves up to {bytes_text(without)})" if keep_intermediates and without else ""
    raise CryorestoreError(f"{found}; free some, set results to another disk{saving}, run fewer data sets at a time, or set disk_check to warn")


def free_bytes(folder: str | Path) -> int:
    """Bytes that this user may still write to a folder's file system; the folder need not exist yet."""
    return shutil.disk_usage(_existing(Path(folder))).free


def bytes_text(count: int) -> str:
    """A number of bytes in the unit that leaves one to three digits before the point."""
    size, unit = float(count), 0
    while size >= 1000 and unit < len(UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g} {UNITS[unit]}"


def _bytes_below(folder: Path) -> int:
    return sum(os.lstat(Path(root) / name).st_size for root, _, names in os.walk(folder) for name in names)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
