"""What becomes of a conformer that is rare, and of one that no map shows: the pose posterior with one average map, and with one map a conformer.

usage: python benchmarks/restoration/conformers.py [--count N] [--snr X] [--seeds N ...]

30 % of the particles have chain A turned by 20 degrees; the average map is the true mean of both. With several maps, each has its own posterior,
and their means are averaged with the weights of their evidence. The third conformer, turned by -20 degrees, is in no map.
"""

import argparse
import json
from pathlib import Path

import torch
from keys import key_of, lock
from simulation import BOX, ROTATION_ERROR, SHIFT_ERROR, Particles, gain, second_conformer, simulate, true_volume
from torch import Tensor

from cryorestore.files import read_json, write_json
from cryorestore.metrics import mean_interval, score_images
from cryorestore.molecule import load_molecule
from cryorestore.posterior import LocalPosterior
from cryorestore.project import FourierVolume
from cryorestore.provenance import code_commit

CELLS = Path(__file__).with_name("conformers")
WORK = Path("results/bench-restoration")
MODULES = ("posterior.local", "metrics", "molecule", "project", "ctf", "geometry")
MINORITY = 0.3
BATCH = 16


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        settings = {"count": options.count, "snr": options.snr, "seed": seed, "minority": MINORITY}
        key = key_of(settings, MODULES, ("conformers.py", "simulation.py"))
        path = CELLS / f"snr{options.snr:g}_seed{seed}.json"
        with lock(WORK / "locks" / f"conformers_{path.stem}", wait=False) as held:
            if held and (not path.exists() or read_json(path)["key"] != key):
                write_json(path, {"key": key, "settings": settings, "commit": code_commit(), "nmse": measure(settings)})
                print(path.name, json.dumps(read_json(path)["nmse"]), flush=True)


def measure(settings: dict) -> dict:
    """NMSE of each kind of particle under each set of maps."""
    first = load_molecule("demo")
    molecules = {"majority": first, "minority": second_conformer(first), "unseen": second_conformer(first, -20.0)}
    scale = gain(first, settings["snr"])
    volumes = {name: true_volume(molecule, scale) for name, molecule in molecules.items()}
    average = (1 - MINORITY) * volumes["majority"] + MINORITY * volumes["minority"]
    shares = {"average map": [(average, 1.0)], "one map a conformer": [(volumes["majority"], 1 - MINORITY), (volumes["minority"], MINORITY)]}
    result: dict = {}
    for number, (name, molecule) in enumerate(molecules.items()):
        particles = simulate(molecule, settings["count"], snr=settings["snr"], seed=1000 * settings["seed"] + number, scale=scale)
        for maps, weighted in {**shares, "its own map": [(volumes[name], 1.0)]}.items():
            scores = score_images(restore(particles, weighted), particles.clean)
            result.setdefault(name, {})[maps] = mean_interval(scores.nmse.numpy(), seed=settings["seed"])
    return result


def restore(particles: Particles, weighted: list[tuple[Tensor, float]]) -> Tensor:
    """Posterior mean over poses and maps, each map with its share beforehand."""
    results = [mean_and_evidence(particles, volume) for volume, _ in weighted]
    evidence = torch.stack([log_evidence for _, log_evidence in results]) + torch.tensor([share for _, share in weighted]).log()[:, None]
    return (torch.softmax(evidence, 0)[:, :, None, None] * torch.stack([mean for mean, _ in results])).sum(0)


def mean_and_evidence(particles: Particles, volume: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean images and log evidence under one map, with the true noise."""
    noise = torch.ones(BOX // 2 + 1)
    options = {"rotation_sigma": ROTATION_ERROR, "shift_sigma": SHIFT_ERROR, "map_error_power": torch.zeros_like(noise)}
    posterior = LocalPosterior(FourierVolume(volume, max_shell=BOX // 2 - 1), noise_power=noise, **options)
    rotations, shifts = torch.from_numpy(particles.given_rotations).float(), torch.from_numpy(particles.given_shifts_px).float()
    parts = []
    for start in range(0, len(particles.images), BATCH):
        rows = slice(start, start + BATCH)
        seeds = list(range(start, start + len(particles.images[rows])))
        parts.append(posterior(particles.images[rows], particles.ctf[rows], rotations[rows], shifts[rows], seeds))
    return torch.cat([part.mean for part in parts]), torch.cat([part.log_evidence for part in parts])


if __name__ == "__main__":
    main()
