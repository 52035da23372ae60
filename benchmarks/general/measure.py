"""The general restorer on structures that it was never shown, cell by cell: a lane, an SNR, plain or structural noise, ten structures.

usage: python benchmarks/general/measure.py [--quick] [--list] [--lanes NAME ...] [--weights FILE] [--data FOLDER] [--peer-python PYTHON]

Every cell is a JSON under cells/ with a key made of the code that it runs, its settings and, for lanes of the general restorer, the weights; only
cells that are missing or stale are measured. One row a structure stands in it, so that differences of lanes are paired. Two cells more, of the empty
boxes and of the evidence, are the general restorer's own. A lane whose program is missing is left out, and says so.
--quick measures few particles of two structures into results/bench-general-quick, at most four minutes, and checks the order.
"""

import argparse
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lanes import EXTERNAL, LANES, MODULES, restore
from particles import NOISES, Particles, at_snr, drawn, empty_boxes
from torch import Tensor

from cryorestore.checkpoint import fingerprint
from cryorestore.config import code_version
from cryorestore.errors import CryorestoreError
from cryorestore.files import read_json, write_json
from cryorestore.general.restorer import GeneralRestorer, Restored
from cryorestore.general.structures import VALIDATION, find_model, read_models, shipped_models
from cryorestore.general.weights import shipped_weights
from cryorestore.metrics import GreyScaleRegression, first_crossing, fourier_ring_correlation, score_images
from cryorestore.provenance import code_commit

HERE = Path(__file__).parent
CELLS, QUICK = HERE / "cells", Path("results/bench-general-quick")
DATA = Path(os.environ.get("CRYORESTORE_DATA", HERE.parents[1] / "../shared/data")) / "models"
SNRS = (0.1, 0.05, 0.02, 0.01)
SEED = 1
PIPELINE = ("molecule", "ctf", "geometry", "fourier", "metrics")
COVERED = 1.645
"""Deviations on either side of the mean that hold 90 % of a normal distribution."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    structures: int
    particles: int
    empty: int


FULL, SMALL = Scale(10, 100, 1000), Scale(2, 40, 200)
QUICK_LANES = ("raw", "low-pass", "wiener", "wiener-masked", "general")


@dataclass(frozen=True)
class Cell:
    """What is measured at once."""

    lane: str
    snr: float
    noise: str

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.lane}_{self.noise}_snr{self.snr:g}"


def main() -> None:
    """Measure what is missing or stale."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--lanes", nargs="+", choices=LANES)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--peer-python", default=".venv-peers/bin/python")
    options = parser.parse_args()
    torch.set_num_threads(1)
    scale, folder = (SMALL, QUICK) if options.quick else (FULL, CELLS)
    lanes = [lane for lane in (QUICK_LANES if options.quick else LANES) if options.lanes is None or lane in options.lanes]
    snrs = (0.1,) if options.quick else SNRS
    cells = [Cell(lane, snr, noise) for noise in NOISES for snr in snrs for lane in lanes]
    keys = {cell: key_of(cell, scale, options.weights) for cell in cells}
    stale = [cell for cell in cells if not is_done(folder / f"{cell.name}.json", keys[cell])]
    if options.list:
        print("\n".join(f"{'stale' if cell in stale else 'done':6}{cell.name}" for cell in cells))
        return
    folder.mkdir(parents=True, exist_ok=True)
    for noise in NOISES:
        measure_noise([cell for cell in stale if cell.noise == noise], keys, scale, folder, options)
    if options.lanes is None or "general" in options.lanes:
        measure_empty(scale, folder, options)
    if options.quick:
        check_order(folder)


def key_of(cell: Cell, scale: Scale, weights: Path | None) -> str:
    """What a cell is known by."""
    own = {"general": weights_hash(weights)} if cell.lane.startswith("general") else {}
    files = {name: hashlib.sha256((HERE / name).read_bytes()).hexdigest() for name in ("particles.py", "lanes.py")}
    code = [code_version(module) for module in (*PIPELINE, *MODULES[cell.lane])]
    return fingerprint({"cell": vars(cell), "scale": vars(scale), "seed": SEED, "files": files, "code": code, **own})[:16]


def weights_hash(weights: Path | None) -> str:
    """Of the bytes of the weights."""
    return hashlib.sha256((weights or shipped_weights()).read_bytes()).hexdigest()


def is_done(path: Path, key: str) -> bool:
    """Whether a cell is there and not stale."""
    return path.exists() and read_json(path)["key"] == key


def measure_noise(cells: list[Cell], keys: dict[Cell, str], scale: Scale, folder: Path, options: argparse.Namespace) -> None:
    """All cells of one noise: each structure is projected once for them."""
    if not cells:
        return
    rows: dict[Cell, list[dict[str, Any]]] = {cell: [] for cell in cells}
    missing: set[str] = set()
    for model in validation_models(scale):
        if all(cell.lane in missing for cell in cells):
            return
        drawing = drawn(find_model(model, options.data), scale.particles, noise=cells[0].noise, seed=SEED)
        for cell in cells:
            if cell.lane in missing:
                continue
            particles = at_snr(drawing, cell.snr)
            try:
                images, restored, seconds = restore(cell.lane, particles, weights=options.weights, peer_python=options.peer_python)
            except CryorestoreError as error:
                if cell.lane not in EXTERNAL:
                    raise
                missing.add(cell.lane)
                print(f"{cell.lane} left out: {error}", flush=True)
                continue
            rows[cell].append({"structure": model.id, "pixel_size": drawing.pixel_size, **scores(images, particles, drawing.pixel_size)})
            rows[cell][-1] |= {"particles_a_second": len(images) / max(seconds, 1e-9)}
            if restored is not None:
                rows[cell][-1] |= confidence(restored, particles)
        print(f"{cells[0].noise}: {model.id} done after {time.process_time():.0f} s", flush=True)
    for cell in cells:
        if cell.lane not in missing:
            settings = {"lane": cell.lane, "snr": cell.snr, "noise": cell.noise, "seed": SEED, **vars(scale)}
            write_json(folder / f"{cell.name}.json", {"key": keys[cell], "settings": settings, "commit": code_commit(), "rows": rows[cell]})


def validation_models(scale: Scale) -> list[Any]:
    """Structures that no training was shown."""
    return [model for model in read_models(shipped_models()) if model.split == VALIDATION][: scale.structures]


def scores(images: Tensor, particles: Particles, pixel_size: float) -> dict[str, Any]:
    """Means over the particles of one structure; slope of clean on restored; how much of the structural noise is left."""
    found = score_images(images, particles.clean)
    curve = fourier_ring_correlation(images, particles.clean).mean(0)
    line = GreyScaleRegression()
    line.add(images, particles.clean)
    slope, _ = line.slope_and_offset() or (None, None)
    result: dict[str, Any] = {name: float(getattr(found, name).mean()) for name in ("nmse", "psnr", "ssim")}
    box_size = images.shape[-1]
    crossing = first_crossing(curve, box_size=box_size, pixel_size=pixel_size, threshold=0.5)
    result |= {"frc05_nyquist": None if crossing is None else 2 * pixel_size / crossing, "frc05_angstrom": crossing, "slope": slope}
    power = float(particles.structural.square().sum())
    if power > 0:
        result["structural_residual"] = float(((images - particles.clean) * particles.structural).sum()) / power
    return result


def confidence(restored: Restored, particles: Particles) -> dict[str, Any]:
    """Coverage of 90 % intervals within a third of the box of its centre, predicted over actual error, and the evidence."""
    axis = torch.arange(particles.clean.shape[-1]) - particles.clean.shape[-1] // 2
    disc = (axis[:, None] ** 2 + axis**2) <= (particles.clean.shape[-1] / 3) ** 2
    error = (particles.clean - restored.mean)[:, disc]
    deviation = restored.deviation[:, disc]
    return {
        "coverage_90": float((error.abs() <= COVERED * deviation).float().mean()),
        "predicted_over_actual": float(deviation.square().mean() / error.square().mean()),
        "restored_power": float(restored.mean.square().mean()),
        "evidence": [round(value, 3) for value in restored.evidence.tolist()],
        "raw_variance": [round(value, 4) for value in particles.images.var((1, 2)).tolist()],
    }


def measure_empty(scale: Scale, folder: Path, options: argparse.Namespace) -> None:
    """Empty boxes: white noise through CTFs of a structure's set; how much comes out, and whether it is always the same."""
    path = folder / "empty_boxes.json"
    key = fingerprint({"weights": weights_hash(options.weights), "scale": vars(scale), "code": code_version("general.restorer")})[:16]
    if is_done(path, key):
        return
    drawing = drawn(find_model(validation_models(scale)[0], options.data), scale.particles, noise="plain", seed=SEED)
    images = empty_boxes(scale.empty, seed=SEED)
    ctf = drawing.ctf[torch.arange(scale.empty) % len(drawing.ctf)]
    restorer = GeneralRestorer.load(options.weights, device="cpu")
    started = time.process_time()
    restored = restorer.restore(images, ctf)
    seconds = time.process_time() - started
    flat = restored.mean.flatten(1).double().numpy()
    flat = flat - flat.mean(1, keepdims=True)
    total = flat.sum(0)
    alone = np.array([np.corrcoef(row, (total - row) / (len(flat) - 1))[0, 1] for row in flat])
    figures = {
        "restored_power": float(restored.mean.square().mean()),
        "template_correlation": {
            "mean": float(alone.mean()),
            "median_absolute": float(np.median(np.abs(alone))),
            "max_absolute": float(np.abs(alone).max()),
        },
        "template_share_above_0.1": float((np.abs(alone) > 0.1).mean()),
        "template_power_share": float((flat.mean(0) ** 2).sum() / (flat**2).sum(1).mean()),
        "evidence": [round(value, 3) for value in restored.evidence.tolist()],
        "raw_variance": [round(value, 4) for value in images.var((1, 2)).tolist()],
        "particles_a_second": len(images) / seconds,
    }
    write_json(path, {"key": key, "settings": vars(scale), "commit": code_commit(), **figures})


def check_order(folder: Path) -> None:
    """What every run must show: the general restorer before the masked Wiener filter, the mask before no mask, raw last."""
    for noise in NOISES:
        error = {lane: np.mean([row["nmse"] for row in read_json(folder / f"{Cell(lane, 0.1, noise).name}.json")["rows"]]) for lane in QUICK_LANES}
        order = [float(error[lane]) for lane in ("general", "wiener-masked", "wiener", "raw")]
        print(noise, {lane: round(float(value), 4) for lane, value in error.items()})
        if order != sorted(order):
            raise SystemExit(f"{noise}: found NMSE {order} of general, wiener-masked, wiener, raw; expected it to rise")


if __name__ == "__main__":
    main()
