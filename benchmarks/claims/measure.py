"""The claims of the paper (arXiv 2401.01097), tested with its method re-implemented: what training brings, with and without a second network.

usage: python benchmarks/claims/measure.py [--quick] [--list] [--most N] [--claims a b ...] [--work FOLDER]

A cell is one training, of a diffusion network alone, of one followed by a post-processing network, or of a rival, and the scores of what it
restores; a JSON under cells/, keyed as the cells of benchmarks/restoration. Lengths are numbers of steps, counted in those of the diffusion network:
a step of the light second network costs less, and the pairs that are restored for it cost time, too (training.py); the processor seconds that were
really spent stand in the cell.
Cells serve several claims (`claim_cells`); --claims leaves out those that serve none of the named ones, and measures in their order.
--quick makes every kind of cell, tiny, in results/bench-claims-quick, in at most four minutes.
"""

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "restoration"))

import numpy as np
import torch
from halves import FILES, MASK, MODULES, POSES, SETTINGS, Half, Scale
from keys import key_of, lock
from lanes import run
from scoring import score
from simulation import BOX, PIXEL, gain, second_conformer, simulate
from torch import Tensor
from training import CRITIC_STEP, Length, trained

from cryorestore.ctf import ctf_2d
from cryorestore.files import read_json, write_json
from cryorestore.fsc import fourier_shell_correlation
from cryorestore.masks import soft_sphere
from cryorestore.metrics import mean_interval, score_images
from cryorestore.particles import ParticleTable
from cryorestore.pose_tensors import pose_tensors
from cryorestore.provenance import code_commit
from cryorestore.reconstruct.native import BackProjector
from cryorestore.restore import Restorer, load_restorer

HERE = Path(__file__).parent
CELLS = HERE / "cells"
WORK, QUICK = Path("results/bench-claims"), Path("results/bench-claims-quick")
SNR = 0.05
TOTAL = 704
"""Steps of the diffusion network that fill the whole time: about two minutes of a core."""
SCALE = Scale(count=128, half=3000, pairs=2048, seconds=0.0, tiers=((SNR, "none"),))
QUICK_SCALE = Scale(count=16, half=300, pairs=128, seconds=0.0, tiers=((SNR, "none"),))
OWN_FILES = ("measure.py", "training.py", "frames.py")
NETWORK_MODULES = ("training", "pairs", "diffusion.sampler", "metrics")
MAPPED = 1000
"""Particles of the half that are restored and mapped."""
UNTRAINED = ("raw", "wiener", "wiener-masked", "cwf", "map-bayes")


@dataclass(frozen=True)
class Cell:
    """One training: the lane's name, the steps of its first network, those of its second one (0: none), and the seed."""

    lane: str
    length: Length
    seed: int = 1
    whole: bool = False
    """whether conformers, maps and experimental frames are restored, too"""

    @property
    def name(self) -> str:
        """Name of its file."""
        second = f"+{self.length.second}" if self.length.second else ""
        return f"{self.lane}_{self.length.first}{second}_seed{self.seed}"


def after(first: int, total: int = TOTAL) -> Length:
    """A diffusion network of `first` steps, and the post-processing network that the rest of the time allows."""
    return Length.within(first, total)


def claim_cells(total: int) -> dict[str, list[Cell]]:
    """The cells of each claim."""
    parts = [total // 16, total // 8, total // 4, total // 2, 3 * total // 4, total]
    alone = [Cell("sr3", Length(steps), whole=steps == total) for steps in parts]
    both = [Cell("sr3+post", after(part // 2, part), whole=part == total) for part in parts if part in (total // 8, total // 4, total // 2, total)]
    plain = [Cell("unet", Length(steps), whole=steps == total) for steps in parts if steps in (total // 8, total // 4, total // 2, total)]
    switched = [Cell("sr3+post", after(first, total), whole=first == total // 2) for first in (parts[1], parts[2], parts[3], parts[4])]
    rivals = [Cell("gan", Length(round(total / CRITIC_STEP)), seed, whole=seed == 1) for seed in (1, 2, 3)]
    seeds = [Cell("sr3+post", after(total // 2, total), seed, whole=seed == 1) for seed in (1, 2, 3)]
    noisy = [Cell("noise2noise", Length(total), whole=True)]
    untrained = [Cell(lane, Length(0), whole=True) for lane in UNTRAINED]
    kept = [cell for cell in (*alone, *both, *plain, *rivals, *noisy) if cell.whole]
    return {
        "a": alone,
        "b": [*both, *alone, *plain],
        "c": [*switched, alone[-1]],
        "f": [*seeds, *rivals],
        "d": [*noisy, plain[-1], *untrained],
        "e": [*kept, *untrained],
        "g": [*kept, *untrained],
    }


def main() -> None:
    """Measure what is missing, print a line a cell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--most", type=int, default=-1)
    parser.add_argument("--claims", nargs="+", choices=tuple("abcdefg"), default=list("abcfdeg"))
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder, work, scale, total = (QUICK / "cells", QUICK, QUICK_SCALE, 16) if options.quick else (CELLS, WORK, SCALE, TOTAL)
    work, by_claim, left = options.work or work, claim_cells(total), options.most
    chosen = dict.fromkeys(cell for claim in options.claims for cell in by_claim[claim])
    for cell in chosen:
        half = Half(work, scale, SNR, "none", 1)
        settings, key = settings_and_key(cell, half)
        path = folder / f"{cell.name}.json"
        done = path.exists() and read_json(path)["key"] == key
        if options.list:
            print(f"{'done' if done else 'stale' if path.exists() else 'missing':8}{cell.name}")
        elif not done and left:
            left -= measured(cell, half, path, settings, key)


def settings_and_key(cell: Cell, half: Half) -> tuple[dict[str, Any], str]:
    """What a cell's JSON says of itself, and what it is known by."""
    settings = {**asdict(cell), "snr": half.snr, **{name: getattr(half.scale, name) for name in ("count", "half", "pairs")}}
    own = [hashlib.sha256((HERE / name).read_bytes()).hexdigest() for name in OWN_FILES]
    inputs = {"method": SETTINGS["methods"][cell.lane], "diffusion": SETTINGS["diffusion"], "postprocess": SETTINGS["postprocess"], "files": own}
    files = (*FILES, "scoring.py", "lanes.py")
    return settings, key_of(settings | inputs, (*MODULES, *NETWORK_MODULES, "baselines.wiener", "reconstruct.native"), files)


def measured(cell: Cell, half: Half, path: Path, settings: dict[str, Any], key: str) -> int:
    """Train, restore, score and write, unless another process is at it; returns how many cells were measured."""
    with lock(half.work / "locks" / cell.name, wait=False) as held:
        if not held:
            return 0
        begun = time.process_time()
        restorer, spent = restorer_of(cell, half)
        scored = half.scored
        restored, _, evaluations = run(restorer, scored, scored.given_rotations, scored.given_shifts_px)
        facts: dict[str, Any] = {"scores": score(restored, scored, seed=cell.seed), "evaluations": evaluations, "training": spent}
        if cell.whole:
            facts |= {"conformers": conformers(restorer, half), "map": map_of(restorer, half), "frames": on_frames(restorer, cell.lane)}
        content = {"key": key, "settings": settings, "commit": code_commit(), "processor_seconds": round(time.process_time() - begun, 1)}
        write_json(path, content | facts)
    print(cell.name, f"PSNR {facts['scores']['psnr']['mean']:.2f}", json.dumps(spent), flush=True)
    return 1


def restorer_of(cell: Cell, half: Half) -> tuple[Restorer, dict[str, Any]]:
    """The trained lane, and the processor seconds of its trainings."""
    method = SETTINGS["methods"][cell.lane]
    weights, spent = trained(cell.lane, cell.length, cell.seed, half) if cell.length.first else ({}, {})
    sampler = (
        {"sampler": "ddim", "sampler_steps": 10}
        if method["sampler"] == "ancestral"
        else {name: method[name] for name in ("sampler", "sampler_steps")}
    )
    restorer = load_restorer(
        **half.reference("own"),
        diffusion_weights=weights.get("diffusion_weights"),
        postprocess_weights=weights.get("postprocess_weights"),
        condition=method["condition"],
        samples=1,
        **sampler,
        **POSES,
        **MASK,
        posterior_rotations=SETTINGS["posterior"]["rotations"],
        device="cpu",
        precision="auto",
        particles=ParticleTable.read(half.star),
    )
    return restorer, spent


def conformers(restorer: Restorer, half: Half) -> dict[str, Any]:
    """NMSE of particles whose chain A is turned, either way: conformers that neither map nor network has seen."""
    scale, result = gain(half.atoms, half.snr), {}
    for number, (name, angle) in enumerate((("as in the map", 0.0), ("turned by 20 degrees", 20.0), ("turned by -20 degrees", -20.0))):
        molecule = second_conformer(half.atoms, angle) if angle else half.atoms
        particles = simulate(molecule, half.scale.count // 2, snr=half.snr, seed=2000, scale=scale)  # the same poses and noise
        restored = run(restorer, particles, particles.given_rotations, particles.given_shifts_px)[0]
        result[name] = mean_interval(score_images(restored, particles.clean).nmse.numpy(), seed=number)
    return result


def map_of(restorer: Restorer, half: Half) -> dict[str, Any]:
    """Map of the first particles of the half, restored, at their given poses: FSC to the true map, in its sphere; half-maps would be no evidence."""
    table = ParticleTable.read(half.star)
    table = table.take(np.arange(min(MAPPED, len(table))))
    rotations, shifts = pose_tensors(table)
    images, projector = torch.from_numpy(table.load_images(np.arange(len(table)))), BackProjector(BOX)
    ctf, coefficients = ctf_2d(table.ctf_parameters(), box_size=BOX, pixel_size=PIXEL), projector.coefficients
    with torch.no_grad():
        for start in range(0, len(images), 16):
            rows = slice(start, start + 16)
            restored = restorer(images[rows], ctf[rows], rotations[rows], shifts[rows], list(range(len(images))[rows])).images
            centred = coefficients.from_images(restored) * coefficients.shift_phases(-shifts[rows])
            projector.insert(centred, coefficients.select(ctf[rows]), rotations[rows])
    sphere = soft_sphere(BOX, MASK["mask_radius"] / PIXEL, MASK["mask_edge"] / PIXEL)
    curve = fourier_shell_correlation(projector.volume() * sphere, half.volume * sphere, pixel_size=PIXEL)
    found: Tensor = curve.correlation
    return {"particles": len(images), "fsc_to_truth": found.tolist(), "resolution_05": curve.resolution(0.5)}


def on_frames(restorer: Restorer, lane: str) -> dict[str, Any] | None:
    """Correlation of restored experimental frames with the rest of their exposures; None without the data, or for a lane that asks 7PBL's own map."""
    from frames import correlations, experimental

    boxes = None if restorer.conditions.has_posterior or lane == "cwf" else experimental()
    return None if boxes is None else correlations(restorer, boxes)


if __name__ == "__main__":
    main()
