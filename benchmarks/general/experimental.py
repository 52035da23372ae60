"""A test without a truth, on experimental data: single frames of apoferritin micrographs against the rest of their exposures, experimental.json.

usage: python benchmarks/general/experimental.py [--weights FILE] [--data FOLDER]

A box of the single frame is restored and correlated with the same box of sum - a x frame, whose noise is independent of the frame's: a is the
regression of the sum on the frame at frequencies that hold noise alone. Apoferritin was not trained on. Filters are the best of their kind by this
very correlation, over cut-offs and mask radii; the general restorer chooses nothing.
"""

import argparse
import hashlib
import os
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import torch
from torch import Tensor

from cryorestore.baselines.low_pass import low_pass
from cryorestore.baselines.wiener import estimate_signal_power, wiener_filter
from cryorestore.ctf import CtfParameters, ctf_2d
from cryorestore.files import write_json
from cryorestore.general.restorer import GeneralRestorer
from cryorestore.general.weights import shipped_weights
from cryorestore.io.star import read_star
from cryorestore.masks import background_mask, soft_disc
from cryorestore.metrics import mean_interval
from cryorestore.noise import estimate_noise_power
from cryorestore.rescale import fourier_crop

HERE = Path(__file__).parent
RESULT = HERE / "experimental.json"
DATA = Path(os.environ.get("CRYORESTORE_DATA", HERE.parents[1] / "../shared/data")) / "apoferritin-empiar10146"
PIXEL, CUT, BOX = 1.5, 160, 64
"""Angstrom; px of the micrograph, px of the working sampling: 130 angstrom are 54 % of the box."""
BG_RADIUS = 26.0
NOISE_FROM = 0.4
"""cycles per px of the micrograph beyond which there is noise alone"""
RADII = (20, 29)
MASKS = (16, 18, 20, 22, 24, 28, 40)


def main() -> None:
    """Cut, restore, correlate."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = [pairs(path, options.data) for path in sorted(options.data.glob("*_single_frame.mrc"))]
    frames, rests, ctf = (torch.cat(columns) for columns in zip(*parts, strict=True))
    restored = GeneralRestorer.load(options.weights, device="cpu").restore(frames, ctf)
    noise = estimate_noise_power([frames], bg_radius=BG_RADIUS)
    signal = estimate_signal_power([(frames, ctf)], noise_power=noise)
    filtered = {"raw": [frames], "low-pass": [masked for shell in range(3, 24) for masked in masks(low_pass(frames, shell=shell))]}
    filtered["wiener"] = list(masks(wiener_filter(frames, ctf, signal_power=signal, noise_power=noise)))
    figures: dict[str, Any] = {}
    for radius in RADII:
        ours = correlations(restored.mean, rests, radius)
        lanes = {lane: max((correlations(images, rests, radius) for images in some), key=np.mean) for lane, some in filtered.items()}
        best = max(lanes, key=lambda lane: float(np.mean(lanes[lane])))
        figures[str(radius)] = {lane: float(np.mean(found)) for lane, found in lanes.items()} | {"general": float(ours.mean()), "best_filter": best}
        figures[str(radius)]["gain"] = mean_interval(ours - lanes[best], seed=1)
    weights = hashlib.sha256((options.weights or shipped_weights()).read_bytes()).hexdigest()
    write_json(RESULT, {"weights": weights, "particles": len(frames), "evidence_median": float(restored.evidence.median()), "radius": figures})
    print(figures)


def pairs(frame_path: Path, data: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of one single frame, normalized, particles white; those of the rest of the exposure; the CTF."""
    stem = frame_path.name.removesuffix("_single_frame.mrc")
    frame, total = (micrograph(path) for path in (frame_path, data / f"micrographs/{stem}.mrc"))
    spectra = [np.fft.rfft2(image) for image in (frame, total)]
    frequency = np.hypot(np.fft.fftfreq(frame.shape[0])[:, None], np.fft.rfftfreq(frame.shape[1]))
    noisy = (frequency > NOISE_FROM) & (frequency < 0.5)
    factor = float((spectra[0].conj() * spectra[1])[noisy].real.sum() / (np.abs(spectra[0][noisy]) ** 2).sum())
    rest = total - factor * frame
    picks = next(iter(read_star(data / f"micrographs/{stem}_manualpick.star").blocks.values()))
    places = np.stack([np.array(picks.column(f"rlnCoordinate{axis}"), float) for axis in "YX"], 1).round().astype(int) - CUT // 2
    inside = ((places >= 0) & (places + CUT <= np.array(frame.shape))).all(1)
    boxes = [np.stack([image[y : y + CUT, x : x + CUT] for y, x in places[inside]]).astype(np.float32) for image in (frame, rest)]
    frames, rests = (torch.from_numpy(fourier_crop(stack, BOX)) for stack in boxes)
    outside = frames[:, background_mask(BOX, BG_RADIUS)]
    frames = (frames - outside.mean(1)[:, None, None]) / outside.std(1)[:, None, None]
    return frames, rests, ctf_2d(parameters(stem, data, int(inside.sum())), box_size=BOX, pixel_size=PIXEL * CUT / BOX)


def micrograph(path: Path) -> np.ndarray:
    """White particles on mean 0."""
    with mrcfile.open(path, permissive=True) as file:
        image = -file.data.astype(np.float64)
    return image - image.mean()


def parameters(stem: str, data: Path, count: int) -> CtfParameters:
    """Of one micrograph, for each of its boxes."""
    blocks = read_star(data / "micrographs.star").blocks
    table, optics = blocks["micrographs"], blocks["optics"]
    row = table.column("rlnMicrographName").index(f"micrographs/{stem}.mrc")
    ones = np.ones(count)
    values = [float(table.column(f"rlnDefocus{name}")[row]) for name in ("U", "V", "Angle")]
    values += [float(optics.column(name)[0]) for name in ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")]
    return CtfParameters(*(value * ones for value in (*values, 0.0, 0.0, 1.0)))


def masks(images: Tensor) -> list[Tensor]:
    """Under discs of some radii; the widest holds the whole box."""
    return [images * soft_disc(BOX, radius, 3.0) for radius in MASKS]


def correlations(images: Tensor, rests: Tensor, radius: float) -> np.ndarray:
    """Of each pair within a disc."""
    disc = ~background_mask(BOX, radius)
    a, b = (stack[:, disc].double() - stack[:, disc].double().mean(1, keepdim=True) for stack in (images, rests))
    return ((a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt().clamp_min(1e-30)).numpy()


if __name__ == "__main__":
    main()
