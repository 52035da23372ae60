"""What is measured of one set of particles: maps against the truth, and what the programs cost."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from simulated import MASK, ParticleSet, simulate

from cryorestore.files import read_json
from cryorestore.fsc import fourier_shell_correlation
from cryorestore.io.mrc import read_map
from cryorestore.masks import soft_sphere
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct import reconstruct_map
from cryorestore.reconstruct.fusion import fuse_map
from cryorestore.reconstruct.native import PEAK_COPIES
from cryorestore.reference import estimate_reference
from cryorestore.restore import restore_particles

ROTATION_ERROR, SHIFT_ERROR = 2.5, 0.5
"""rms of perturbed poses and the posterior's prior: degrees, px of a box of 64 px"""
BACKGROUND = 24
PROGRAMS = {"native": "", "relion": "relion_reconstruct", "cryodrgn": str(Path(__file__).parents[2] / ".venv-peers/bin/cryodrgn")}


def installed() -> dict[str, str]:
    """Backends whose programs are here, with the programs' paths."""
    found = {name: shutil.which(program) if program else "" for name, program in PROGRAMS.items()}
    return {name: program for name, program in found.items() if program is not None}


def stacks_cell(scratch: Path, cell: dict) -> dict:
    """Truth-FSC of the maps that one half makes of its particles in five ways."""
    errors = {"exact": (0.0, 0.0), "perturbed": (ROTATION_ERROR, SHIFT_ERROR)}[cell["poses"]]
    particles = simulated(scratch, cell, *errors, junk_fraction=cell["junk"])
    raw = reconstruct(scratch, "raw", particles.given_star)
    table = ParticleTable.read(particles.given_star)
    sphere = {"mask_radius": MASK[0], "mask_edge": MASK[1]}
    reference = estimate_reference(table, **raw, **sphere, bg_radius=BACKGROUND, seed=cell["seed"])
    learned = {"reference_map": scratch / "reference.mrc", "noise_json": scratch / "noise.json"}
    reference.write(*learned.values())
    prior = {"rotation_sigma": ROTATION_ERROR, "shift_sigma": SHIFT_ERROR * particles.pixel_size, "seed": cell["seed"]}
    fused = outputs(scratch, "fused")
    written = {"mean_pose_star": scratch / "mean_pose.star", "figures": scratch / "fusion.json"}
    parities = {f"raw_{kind}": raw[kind] for kind in ("map_odd", "map_even")}
    fuse_map(star=particles.given_star, **parities, **learned, **prior, **sphere, **fused, **written)
    maps = {"raw": raw, "fused": fused, "mean_pose": reconstruct(scratch, "mean_pose", written["mean_pose_star"])}
    maps["true_poses"] = reconstruct(scratch, "true_poses", particles.true_star)
    if cell["restored"]:
        files = {"restored_stack": scratch / "restored.mrcs", "restored_star": scratch / "restored.star", "evidence_csv": scratch / "evidence.csv"}
        restore_particles(star=particles.given_star, **learned, **prior, **files, condition=["mean"], device="cpu")
        maps["restored"] = reconstruct(scratch, "restored", files["restored_star"])
    figures = {name: compare(read_map(paths["map"])[0], particles) for name, paths in maps.items()}
    return figures | posed(particles, written["mean_pose_star"]) | {"width": read_json(written["figures"])["width"]}


def posed(particles: ParticleSet, star: Path) -> dict:
    """Rms errors of the given and of the mean poses of true particles, and how many particles and how much junk the evidence took."""
    given, mean, true = (ParticleTable.read(path) for path in (particles.given_star, star, particles.true_star))
    real, accepted = particles.is_particle, mean.particles.ints("rlnCryorestoreAccepted") == 1
    errors = {}
    for name, table in (("given", given), ("mean", mean)):
        between = np.einsum("nij,nij->n", table.rotation_matrices(), true.rotation_matrices())[real]
        errors[f"{name}_degrees"] = round(float(np.degrees(np.sqrt((np.arccos(np.clip((between - 1) / 2, -1, 1)) ** 2).mean()))), 4)
        moved = ((table.origins() - true.origins()) / particles.pixel_size)[real]
        errors[f"{name}_px"] = round(float(np.sqrt((moved**2).sum(1).mean())), 4)
    return {
        "pose_errors": errors,
        "accepted": [int(accepted[real].sum()), int(real.sum())],
        "junk_accepted": [int(accepted[~real].sum()), int((~real).sum())],
    }


def backends_cell(scratch: Path, cell: dict) -> dict:
    """Truth-FSC of the same particles, at exact poses, by every backend that is installed."""
    particles = simulated(scratch, cell, 0.0, 0.0)
    figures = {}
    for backend, program in installed().items():
        maps = reconstruct(scratch, backend, particles.given_star, backend=backend, program=program)
        figures[backend] = compare(read_map(maps["map"])[0], particles)
    return figures


def rates_cell(scratch: Path, cell: dict) -> dict:
    """Seconds, particles a second and peak memory of the step `reconstruct_map`, process start included, on one core and thread."""
    particles = simulated(scratch, cell, 0.0, 0.0)
    figures: dict = {}
    for backend, program in installed().items():
        command = [sys.executable, "-c", "from cryorestore.cli import main; main()", "reconstruct-map", "--star", str(particles.given_star)]
        command += ["--map", "m.mrc", "--map-odd", "o.mrc", "--map-even", "e.mrc", "--backend", backend, *(["--program", program] if program else [])]
        runs = [timed(command, scratch) for _ in range(cell["repeats"])]
        figures[backend] = best(runs, cell["count"])
    if "relion" in figures:
        one = [PROGRAMS["relion"], "--i", particles.given_star.name, "--o", "m.mrc", "--ctf", "--j", "1"]
        figures["relion, one map of three"] = best([timed(one, scratch) for _ in range(cell["repeats"])], cell["count"])
    start = timed([sys.executable, "-c", "import cryorestore.reconstruct, cryorestore.cli"], scratch)
    figures["start of native"] = start
    voxels = 4 * cell["box"] ** 3 / 2**20
    figures["copies_of_the_map"] = round((figures["native"]["peak_mb"] - start["peak_mb"]) / voxels, 1)
    figures["copies_stated"] = PEAK_COPIES
    return figures


def best(runs: list[dict], count: int) -> dict:
    """The fastest run."""
    run = min(runs, key=lambda one: one["seconds"])
    return {"particles_a_second": round(count / run["seconds"], 1), **run}


def timed(command: list[str], folder: Path) -> dict:
    """Wall seconds, processor seconds, and the largest resident set (MB) of a process or any that it starts."""
    prefix = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if shutil.which("taskset") else []
    begin = time.monotonic()
    with subprocess.Popen([*prefix, *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        message = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{message.decode(errors='replace')[-2000:]}")
    seconds = time.monotonic() - begin
    return {"seconds": round(seconds, 2), "processor_seconds": round(usage.ru_utime + usage.ru_stime, 2), "peak_mb": round(usage.ru_maxrss / 1024)}


def simulated(scratch: Path, cell: dict, rotation_error: float, shift_error: float, *, junk_fraction: float = 0.0) -> ParticleSet:
    """The particles of a cell."""
    sizes = {"box_size": cell["box"], "snr": cell["snr"], "seed": cell["seed"]}
    return simulate(scratch, cell["count"], **sizes, rotation_error=rotation_error, shift_error=shift_error, junk_fraction=junk_fraction)


def outputs(scratch: Path, name: str) -> dict[str, Path]:
    """Where a backend's maps go."""
    return {kind: scratch / f"{name}_{kind}.mrc" for kind in ("map", "map_odd", "map_even")}


def reconstruct(scratch: Path, name: str, star: Path, *, backend: str = "native", program: str = "") -> dict[str, Path]:
    """Run a backend and say where its maps are."""
    written = outputs(scratch, name)
    reconstruct_map(star=star, **written, backend=backend, program=program)
    return written


def compare(volume: np.ndarray, particles: ParticleSet) -> dict:
    """Area under the FSC to the truth (its mean over shells 1 to box / 2 - 1) inside the soft sphere, and where it crosses 0.5 (angstrom)."""
    box, pixel_size = volume.shape[0], particles.pixel_size
    sphere = soft_sphere(box, MASK[0] / pixel_size, MASK[1] / pixel_size)
    curve = fourier_shell_correlation(torch.from_numpy(volume) * sphere, particles.truth * sphere, pixel_size=pixel_size)
    crossing = curve.resolution(0.5)
    return {"area": round(float(curve.correlation[1 : box // 2].mean()), 5), "fsc05": None if crossing is None else round(crossing, 3)}
