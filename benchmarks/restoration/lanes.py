"""The lanes of the benchmark, run by the pipeline's own steps: reconstruct a half, make pairs, train, restore."""

import argparse
import hashlib
import json
import time
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from scoring import calibration
from simulation import PIXEL, ROTATION_ERROR, SHIFT_ERROR, Particles, gain, simulate, true_volume, write_half
from torch import Tensor

from cryorestore.config import has_posterior, load_configuration, needs_poses
from cryorestore.files import atomic_path, write_json
from cryorestore.io.mrc import write_map
from cryorestore.molecule import load_molecule
from cryorestore.pairs import make_training_pairs
from cryorestore.particles import ParticleTable
from cryorestore.posterior import LocalPosterior
from cryorestore.project import FourierVolume
from cryorestore.reconstruct import reconstruct_map
from cryorestore.reference import estimate_reference
from cryorestore.restore import Restorer, load_restorer
from cryorestore.training import train_diffusion, train_postprocess

SETTINGS = load_configuration({"datasets": ["demo"]}).settings["demo"]
MODULES = {"raw": [], "low-pass": ["baselines.low_pass"], "wiener": ["baselines.wiener"], "wiener-masked": ["baselines.wiener"]}
MODULES |= {"cwf": ["baselines.covariance"], "topaz": ["baselines.peer_worker"], "bm3d": ["baselines.peer_worker"]}
MODULES |= {"projection": ["reference"], "map-bayes": ["posterior.local", "reference"]}
NETWORK_MODULES = ["training", "pairs", "diffusion.sampler"]
LANES = {name: {**method, "map": needs_poses(method), "modules": MODULES.get(name, NETWORK_MODULES)} for name, method in SETTINGS["methods"].items()}
TRAINED = tuple(name for name, method in SETTINGS["methods"].items() if method["network"] != "none")
UNAVAILABLE = ("topaz", "bm3d")
"""Lanes whose program may be missing."""
LANES["limit"] = {"map": True, "modules": ["posterior.local"]}
POSES = {"rotation_sigma": ROTATION_ERROR, "shift_sigma": SHIFT_ERROR * PIXEL}
MASK = {"mask_radius": 80.0, "mask_edge": 12.0}
BG_RADIUS = 24.0
PAIRS = 2048
BATCH = 16
SR3_IMAGES = 32
"""Images that are sampled with all 2,000 steps."""
LIMIT_BATCH = 2
LIMIT_DRAWS = ((96, 64, 64), (384, 256, 256), (1536, 1024, 1024))


class Half:
    """One half-set of a cell, made when it is first asked for and kept in the work folder, and the particles that are scored."""

    def __init__(self, options: argparse.Namespace, *, snr: float, structure: str, seed: int) -> None:
        self.options = options
        self.settings = {"snr": snr, "structure": structure, "seed": seed, "count": options.count, "half": options.half, "molecule": options.molecule}
        self.molecule_name = Path(options.molecule).name.partition(".")[0]
        made = {name: value for name, value in self.settings.items() if name != "count"}
        self.folder = options.work / hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:12]

    def at(self, snr: float) -> "Half":
        """The same at another SNR."""
        return Half(self.options, snr=snr, structure=self.settings["structure"], seed=self.settings["seed"])

    @cached_property
    def volume(self) -> Tensor:
        """The true map."""
        molecule = load_molecule(self.settings["molecule"])
        return true_volume(molecule, gain(molecule, self.settings["snr"]))

    @cached_property
    def scored(self) -> Particles:
        """Particles projected from atoms; no map has seen them."""
        settings = {name: self.settings[name] for name in ("snr", "structure")}
        return simulate(load_molecule(self.settings["molecule"]), self.settings["count"], seed=1000 + self.settings["seed"], **settings)

    @cached_property
    def star(self) -> Path:
        """The half that maps are made from: slices of the true map, given poses with their error."""
        star = self.folder / "particles.star"
        if not star.exists():
            settings = {name: self.settings[name] for name in ("snr", "structure", "seed")}
            write_half(self.folder, simulate(load_molecule(self.settings["molecule"]), self.settings["half"], volume=self.volume, **settings))
        return star

    def maps(self, kind: str) -> dict[str, Path]:
        """Map, and maps of odd and even particles; the true map is all three of itself."""
        folder = self.folder / kind
        paths = {name: folder / f"{name}.mrc" for name in ("map", "map_odd", "map_even")}
        if all(path.exists() for path in paths.values()):
            return paths
        if kind == "true":
            for path in paths.values():
                write_map(path, self.volume.numpy(), pixel_size=PIXEL)
        else:
            reconstruct_map(star=self.star, **paths, backend="native")
        return paths

    def reference(self, kind: str) -> dict[str, Path]:
        """What the half knows of itself."""
        paths = {"reference_map": self.folder / kind / "reference_map.mrc", "noise_json": self.folder / kind / "noise.json"}
        if not all(path.exists() for path in paths.values()):
            table = ParticleTable.read(self.star)
            estimate_reference(table, **self.maps(kind), **MASK, bg_radius=BG_RADIUS, seed=self.settings["seed"]).write(**paths)
        return paths

    def pairs(self, kind: str, *, with_posterior: bool) -> Path:
        """Training pairs of this and every other SNR of the run, one after the other by turns, so that the held-out ones have all."""
        name = "posterior_pairs" if with_posterior else "pairs"
        tiers = self.options.snr
        path = self.at(tiers[0]).folder / kind / f"{name}_{'_'.join(f'{snr:g}' for snr in tiers)}.safetensors"
        if path.exists():
            return path
        parts = []
        for snr in tiers:
            half, own = self.at(snr), path.with_name(f"{name}_{snr:g}.safetensors")
            spare = {"reference_map": path.with_name("spare.mrc"), "noise_json": path.with_name("spare.json")}
            options = {"count": PAIRS // len(tiers), "with_posterior": with_posterior, "batch_size": BATCH, "seed": self.settings["seed"]}
            make_training_pairs(star=half.star, **half.maps(kind), pairs=own, **spare, **options, **MASK, **POSES, bg_radius=BG_RADIUS)
            parts.append(load_file(own))
            own.unlink()
        merged = {name: torch.stack([part[name] for part in parts], 1).flatten(0, 1) for name in parts[0]}
        config = {"kind": "simulated", "validation_from": int(0.9 * len(merged["clean"])), "half": 1}
        with atomic_path(path) as temporary:
            save_file(merged, temporary, metadata={"config": json.dumps(config)})
        return path

    def network(self, lane: str, kind: str) -> tuple[dict[str, Path], dict]:
        """Weights of a lane, trained once for all SNRs, and what the training took."""
        method, steps = SETTINGS["methods"][lane], self.options.steps
        folder = self.at(self.options.snr[0]).folder / kind / f"{lane}_{steps}"
        facts = folder / "training.json"
        paths = {"diffusion_weights": folder / "diffusion.safetensors"}
        if method["postprocess"]:
            paths["postprocess_weights"] = folder / "postprocess.safetensors"
        if not facts.exists():
            started = time.monotonic()
            pairs = self.pairs(kind, with_posterior=has_posterior(method))
            made = time.monotonic() - started
            first = steps if not method["postprocess"] else 3 * steps // 4
            common = {"validation_every": max(1, steps // 8), "warmup_steps": steps // 20, "patience": 1000, "device": "cpu", "threads": 1}
            common |= {name: SETTINGS["diffusion"][name] for name in ("batch_size", "learning_rate", "ema_decay")} | {"seed": self.settings["seed"]}
            keys = {name: method[name] for name in ("condition", "network", "prediction")}
            files = {"weights": paths["diffusion_weights"], "history": folder / "history.csv", "work_dir": folder / "work"}
            train_diffusion(pairs=pairs, size=SETTINGS["diffusion"]["size"], steps=first, **keys, **files, **common)
            if method["postprocess"]:
                keys = {name: method[name] for name in ("sampler", "sampler_steps")}
                files = {"weights": paths["postprocess_weights"], "history": folder / "post.csv", "work_dir": folder / "work"}
                size = SETTINGS["postprocess"]["size"]
                weights = paths["diffusion_weights"]
                train_postprocess(pairs=pairs, diffusion_weights=weights, size=size, steps=steps // 2, **keys, **files, **common)
            write_json(facts, {"pairs_seconds": round(made, 1), "training_seconds": round(time.monotonic() - started - made, 1), "steps": steps})
        return paths, json.loads(facts.read_text(encoding="utf-8"))


def restore_with(half: Half, lane: str, kind: str) -> tuple[Tensor, dict]:
    """Restored images of the scored particles (`sr3`: of the first ones), and network evaluations, seconds a particle and training."""
    if lane == "limit":
        return exact_limit(half)
    method = SETTINGS["methods"][lane]
    weights, training = half.network(lane, "own" if kind == "none" else kind) if method["network"] != "none" else ({}, {})
    scored = half.scored.take(slice(0, SR3_IMAGES)) if method["sampler"] == "ancestral" else half.scored
    restorer = load_restorer(
        **half.reference("own" if kind == "none" else kind),
        diffusion_weights=weights.get("diffusion_weights"),
        postprocess_weights=weights.get("postprocess_weights"),
        **{name: method[name] for name in ("condition", "sampler", "sampler_steps", "samples")},
        **POSES,
        **MASK,
        posterior_rotations=SETTINGS["posterior"]["rotations"],
        device="cpu",
        precision="auto",
        particles=ParticleTable.read(half.star),
        peer_python=half.options.peer_python,
    )
    started = time.monotonic()
    restored, deviation, evaluations = run(restorer, scored)
    seconds = (time.monotonic() - started) / len(restored)
    facts = {"evaluations": evaluations, "seconds_a_particle": round(seconds, 5), "training": training}
    return restored, facts | ({} if deviation is None else {"calibration": calibration(restored, deviation, scored.clean)})


def run(restorer: Restorer, particles: Particles) -> tuple[Tensor, Tensor | None, int]:
    """Restore a set in batches: images, the posterior's deviation where the lane has it, network evaluations."""
    rotations, shifts = torch.from_numpy(particles.given_rotations).float(), torch.from_numpy(particles.given_shifts_px).float()
    images, deviations, evaluations = [], [], 0
    with torch.no_grad():
        for start in range(0, len(particles.images), BATCH):
            rows = slice(start, min(start + BATCH, len(particles.images)))
            seeds = list(range(rows.start, rows.stop))
            restored = restorer(particles.images[rows], particles.ctf[rows], rotations[rows], shifts[rows], seeds)
            images.append(restored.images)
            deviations += [] if restored.deviation is None else [restored.deviation]
            evaluations = restored.network_evaluations
    return torch.cat(images), torch.cat(deviations) if deviations else None, evaluations


def exact_limit(half: Half) -> tuple[Tensor, dict]:
    """Posterior mean of the true map and the true noise, with ever more draws; each stage tells predicted and actual NMSE, draws that counted."""
    scored, power = half.scored, torch.ones(half.volume.shape[-1] // 2 + 1)
    volume = FourierVolume(half.volume, max_shell=half.volume.shape[-1] // 2 - 1)
    signal, stages = scored.clean.var((1, 2), correction=0), []
    options = {"noise_power": power, "map_error_power": torch.zeros_like(power), "rotation_sigma": ROTATION_ERROR, "shift_sigma": SHIFT_ERROR}
    rotations, shifts = torch.from_numpy(scored.given_rotations).float(), torch.from_numpy(scored.given_shifts_px).float()
    for draws in LIMIT_DRAWS:
        posterior, parts = LocalPosterior(volume, rotations=draws, **options), []
        for start in range(0, len(scored.images), LIMIT_BATCH):
            rows = slice(start, start + LIMIT_BATCH)
            seeds = list(range(start, start + len(scored.images[rows])))
            parts.append(posterior(scored.images[rows], scored.ctf[rows], rotations[rows], shifts[rows], seeds))
        restored = torch.cat([part.mean for part in parts])
        error = ((restored - scored.clean).square().mean((1, 2)) / signal).mean()
        predicted = (torch.cat([part.deviation for part in parts]).square().mean((1, 2)) / signal).mean()
        counted = torch.cat([part.effective_samples for part in parts]).median()
        stages.append({"draws": list(draws), "actual": float(error), "predicted": float(predicted), "effective_rotations": float(counted)})
        if abs(stages[-1]["predicted"] / stages[-1]["actual"] - 1) < 0.15 and len(stages) > 1:
            break
    converged = abs(stages[-1]["predicted"] / stages[-1]["actual"] - 1) < 0.15
    return restored, {"evaluations": 0, "stages": stages, "converged": converged}
