"""What is measured of one set of particles: maps against the truth, and what the programs cost."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
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
from cryorestore.resolution.filters import low_pass
from cryorestore.resolution.masking import tight_mask
from cryorestore.restore import restore_particles

ROTATION_ERROR, SHIFT_ERROR = 2.5, 0.5
"""rms of perturbed poses and the posterior's prior: degrees, px of a box of 64 px"""
BACKGROUND = 24
WINDOWED = "native, cryodrgn's window"
TIGHT = {"share": 0.05, "resolution": 15.0, "extend_px": 1.0, "edge_px": 4.0}
"""Mask of the truth: low-passed to `resolution` (angstrom), above a share of its largest value, grown and softened (px of a box of 64 px)."""
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
        volume = read_map(reconstruct(scratch, backend, particles.given_star, backend=backend, program=program)["map"])[0]
        figures[backend] = compare(volume, particles)
        if backend == "native":
            figures[WINDOWED] = compare(volume * cryodrgn_window(cell["box"]), particles)
    return figures


def cryodrgn_window(box_size: int) -> np.ndarray:
    """What cryoDRGN's map is multiplied with: it adds an image to grid points of the box by their distance d < 1 with weight 1 - d, and divides this
    smoothing of the transform out nowhere. In real space that is the transform of the weight, at the distance from the centre over the box.
    """
    axis = np.arange(box_size) / box_size - 0.5
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    distance = (np.arange(1000) + 0.5) / 1000
    table = np.linspace(0.0, 1.0, 500)
    transform = ((1 - distance) * distance**2 * np.sinc(2 * table[:, None] * distance)).sum(1)
    return np.interp(radius, table, transform / transform[0]).astype(np.float32)


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
    """The fastest run, with its rate by processor time: on one core a quiet machine needs no more, and other work beside it does not count."""
    run = min(runs, key=lambda one: one["processor_seconds"])
    return {"particles_a_second": round(count / run["processor_seconds"], 1), **run}


def timed(command: list[str], folder: Path) -> dict:
    """Wall seconds, processor seconds, and the largest resident set (MB) of any of its processes (looked at every 20 ms)."""
    prefix = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if shutil.which("taskset") else []
    peaks: dict[int, int] = {}
    begin = time.monotonic()
    with (
        (folder / "errors").open("wb") as errors,
        subprocess.Popen([*prefix, *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=errors) as process,
    ):
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            peaks |= resident_peaks(process.pid)
            time.sleep(0.02)
        seconds, usage = time.monotonic() - begin, ended[2]
        process.returncode = os.waitstatus_to_exitcode(ended[1])
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{(folder / 'errors').read_text(errors='replace')[-2000:]}")
    return {
        "seconds": round(seconds, 2),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(max(peaks.values()) / 2**20),
    }


def resident_peaks(pid: int) -> dict[int, int]:
    """Largest resident sets so far (bytes) of a process and all that it has started. The system's own figure of an ended one counts what its parent
    held when it was made.
    """
    found = {}
    with contextlib.suppress(psutil.NoSuchProcess, OSError):
        for one in [(parent := psutil.Process(pid)), *parent.children(recursive=True)]:
            told = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{one.pid}/status").read_text())
            if told:
                found[one.pid] = 1024 * int(told[1])
    return found


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
    """Area under the FSC to the truth (its mean over shells 1 to box / 2 - 1) and where it crosses 0.5 (angstrom), in a soft sphere that is wider
    than the particle and, `tight`, in a mask of the truth itself.
    """
    box, pixel_size = volume.shape[0], particles.pixel_size
    sphere = soft_sphere(box, MASK[0] / pixel_size, MASK[1] / pixel_size)
    filtered = low_pass(particles.truth, resolution=TIGHT["resolution"], pixel_size=pixel_size)
    sizes = {name: TIGHT[name] * box / 64 for name in ("extend_px", "edge_px")}
    tight = tight_mask(filtered, threshold=TIGHT["share"] * float(filtered.max()), **sizes)
    figures: dict = {}
    for name, mask in (("", sphere), ("tight_", tight)):
        curve = fourier_shell_correlation(torch.from_numpy(volume) * mask, particles.truth * mask, pixel_size=pixel_size)
        crossing = curve.resolution(0.5)
        figures[f"{name}area"] = round(float(curve.correlation[1 : box // 2].mean()), 5)
        figures[f"{name}fsc05"] = None if crossing is None else round(crossing, 3)
    return figures
