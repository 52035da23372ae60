"""No map, no poses: particles of one protein restore themselves, half by half; against masked Wiener, the true map, and what the program itself says.

usage: python benchmarks/joint/measure.py [--quick] [--cell NAME ...]
Every cell is a JSON under benchmarks/joint/cells/, keyed by the code and the cell's settings: only those that are stale are run. Structures are
biological assemblies of the Protein Data Bank, read below data_root/models (the environment variable CRYORESTORE_DATA names data_root); the demo's is
part of the library. `docs/joint.md` is written from all cells. With --quick two small cells are run and what must hold is asserted; nothing is kept.
"""

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryorestore.ab_initio.agreement import correlation_in_sphere, last_shell_above
from cryorestore.ab_initio.alignment import align_maps, moved_map, own_rotations
from cryorestore.ab_initio.annealing import MAX_SHELL, Region, anneal, held_out_evidence
from cryorestore.ab_initio.finding import Seeds
from cryorestore.ab_initio.half import HalfParticles
from cryorestore.ab_initio.judging import verdict_of
from cryorestore.ab_initio.near import FoundPoses
from cryorestore.ab_initio.passes import PassState, first_state, run_passes, usable_levels
from cryorestore.ab_initio.spreading import map_at_poses
from cryorestore.ab_initio.volumes import masked_map, resized_map
from cryorestore.baselines.wiener import estimate_signal_power, wiener_filter
from cryorestore.checkpoint import fingerprint
from cryorestore.config import code_version
from cryorestore.ctf import CtfParameters, ctf_2d
from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path, read_json, write_json
from cryorestore.geometry import random_rotations
from cryorestore.masks import soft_disc
from cryorestore.metrics import score_images
from cryorestore.molecule import DEMO_MOLECULE, load_molecule, molecule_volume, project_molecule
from cryorestore.posterior.bank import PoseBank
from cryorestore.posterior.grid import make_pose_grid
from cryorestore.posterior.wide import WidePosterior
from cryorestore.project import FourierVolume

HERE = Path(__file__).parent
CELLS, PAGE = HERE / "cells", HERE.parents[1] / "docs/joint.md"
DATA = Path(os.environ.get("CRYORESTORE_DATA", HERE.parents[1] / "../shared/data"))
SHIFT_PX = 2.0
FILLED = 0.65
"""Diameter of the particle as a share of the box; it sets the pixel size"""
RESTORE_SHELL, RESTORE_STEP = 14, 7.0


@dataclass(frozen=True)
class Cell:
    """One data set, simulated anew, and how its poses are searched."""

    structure: str
    """"demo", a file's name below data_root/models without .cif.gz, "none" for noise only, or two names with a + between them: half and half"""
    snr: float
    count: int
    """particles of both halves together"""
    box_size: int = 64
    seeds: int = 2
    iterations: int = 50
    images: int = 300
    scored: int = 100
    """particles of each half"""
    max_shell: int | None = None
    """the search's last; None: as far as the box goes"""

    @property
    def top(self) -> int:
        """The last shell that is compared."""
        return self.box_size // 2 - 2 if self.max_shell is None else self.max_shell

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.structure.replace('+', '-and-')}_snr{self.snr:g}_n{self.count}_box{self.box_size}"


_COLUMNS = (
    *("structure", "SNR", "particles", "box", "masked Wiener", "**joint**", "true poses", "true map"),
    *("angle", "halves' shell", "truth shell", "right seeds", "verdict", "right", "CPU s a half"),
)
HEADING = f"""# Joint restoration: what was measured

Made by `make bench-joint` from `benchmarks/joint/cells/*.json`; one run a cell. Particles of one protein, simulated with uniform directions, CTF
and white noise of known spectrum; no map, no poses, two halves that share nothing (half of the particles each). "none" is noise alone, two names
are two proteins, half and half. SNR is the variance of signal over noise in the whole box. The structures are biological assemblies of the
Protein Data Bank that no network of this project was trained on.

NMSE is over the noise-free, CTF-applied truth, mean of both halves. Beside that of masked Wiener (the best of several discs, chosen with the
truth) and of the joint restoration stand two ceilings, which the same restorer reaches with other maps: "true poses", the map that the other
particles give at their true poses, and "true map", which no map of so few particles can reach. The angle is the median error of the poses
(degrees; poses that a symmetry of the truth makes equal count as equal); the shells are the last before an FSC falls below 0.5: of the two
halves' maps, and of each with the truth. A seed is right if its map agrees with the truth to the shell that the verdict asks for (to shell 8 at
most). A cell is right if the maps of both halves do. CPU seconds are those of one half's search on one core (servers of 2026, no GPU), without
restoring. What has no row was not run.

| {" | ".join(_COLUMNS)} |
|{"---|" * len(_COLUMNS)}"""
STRUCTURES = ("6o1p", "6rku", "6vyb", "5fn5", "6fsz", "1kx5")
"""Held out of all training: a channel in a nanodisc (C4), a gyrase with DNA (C2), a spike (C1, nearly C3), gamma secretase (C1), the nuclear exosome
(C1), a nucleosome (C2)
"""
FULL = (
    *(Cell(structure, 0.05, 5000) for structure in STRUCTURES),
    *(Cell(structure, 0.02, 5000) for structure in STRUCTURES),
    Cell("none", 0.0, 2000),
    Cell("6o1p+6rku", 0.1, 2000),
    *(Cell(structure, snr, 2000) for snr in (0.1, 0.05, 0.02) for structure in STRUCTURES),
)
SMALL: dict[str, Any] = {"box_size": 32, "seeds": 1, "iterations": 20, "images": 80, "scored": 12, "max_shell": 10}
QUICK = (Cell("demo", 0.5, 300, **SMALL), Cell("none", 0.0, 300, **SMALL))


@dataclass(frozen=True)
class Simulated:
    """A half with its truth; noise of sigma 1."""

    particles: HalfParticles
    clean: Tensor
    rotations: np.ndarray
    shifts_px: np.ndarray
    truth: Tensor
    """the map, in the scale of the images' transforms"""
    diameter_px: float


def simulate_half(cell: Cell, half: int) -> Simulated:
    """Uniform directions, shifts up to 2 px of 64, defocus 0.8 to 3 um, white noise; the SNR is the variance of signal over noise in the box."""
    generator = np.random.default_rng([7, half])
    count = cell.count // 2
    names = [] if cell.structure == "none" else cell.structure.split("+")
    molecules = [load_molecule(model_of(name)) for name in names]
    pixel_size = max([molecule.diameter for molecule in molecules] or [125.0]) / (FILLED * cell.box_size)
    rotations, ones = random_rotations(count, generator), np.ones(count)
    shifts = generator.uniform(-1, 1, (count, 2)) * SHIFT_PX * cell.box_size / 64
    u = generator.uniform(8e3, 3e4, count)
    v, angle = u * generator.uniform(0.98, 1, count), generator.uniform(-90, 90, count)
    parameters = CtfParameters(u, v, angle, 300 * ones, 2.7 * ones, 0.1 * ones, 0 * ones, 0 * ones, ones)
    options = {"box_size": cell.box_size, "pixel_size": pixel_size}
    clean = torch.zeros(count, cell.box_size, cell.box_size)
    truth = torch.zeros(cell.box_size, cell.box_size, cell.box_size)
    if molecules:
        parts = np.array_split(np.arange(count), len(molecules))
        images = [project_molecule(molecule, rotations[rows], shifts[rows], **options) for molecule, rows in zip(molecules, parts, strict=True)]
        images = [part / part.std() for part in images]
        ctf = ctf_2d(parameters, **options)
        clean = torch.fft.irfft2(torch.fft.rfft2(torch.cat(images)) * ctf, s=clean.shape[1:])
        gain = (cell.snr / clean.var((1, 2)).mean()).sqrt()
        clean = clean * gain
        scale = gain / project_molecule(molecules[0], rotations[parts[0]], shifts[parts[0]], **options).std()
        truth = molecule_volume(molecules[0], **options) * scale
    noisy = clean + torch.from_numpy(generator.standard_normal(clean.shape)).float()
    noise = torch.ones(cell.box_size // 2 + 1)
    signal = estimate_signal_power([(noisy, ctf_2d(parameters, **options))], noise_power=noise)
    return Simulated(HalfParticles(noisy, parameters, pixel_size, noise, signal), clean, rotations, shifts, truth, FILLED * cell.box_size)


def model_of(name: str) -> str | Path:
    """What `load_molecule` takes.

    Raises
    ------
    CryorestoreError
        If the structure's file is not there.
    """
    path = DATA / f"models/{name}.cif.gz"
    if name != DEMO_MOLECULE and not path.exists():
        raise CryorestoreError(f"{path}: not found; save https://files.rcsb.org/download/{name.upper()}-assembly1.cif.gz there")
    return DEMO_MOLECULE if name == DEMO_MOLECULE else path


def measure(cell: Cell) -> dict[str, Any]:
    """Both halves from nothing, each scored, and the verdict on the two."""
    started, device = time.monotonic(), torch.device("cpu")
    halves = [simulate_half(cell, half) for half in (1, 2)]
    found, spent = [], []
    for number, half in enumerate(halves, start=1):
        before = time.process_time()
        found.append(search(cell, half, number, device))
        spent.append(time.process_time() - before)
    volumes = [resized_map(state.volume, cell.box_size) for state, _, _, _ in found]
    move = align_maps(volumes[0], volumes[1])
    radius_px = region_of(cell, halves[0]).radius_px
    curve = correlation_in_sphere(volumes[0], moved_map(volumes[1], move), radius_px=radius_px)[: cell.top + 1]
    figures = [{"passes": passes, "seeds": seeds.figures(symmetry="C1")} for _, _, passes, seeds in found]
    verdict = verdict_of(curve, figures, diameter_px=halves[0].diameter_px, box_size=cell.box_size)
    own = own_rotations(halves[0].truth) if halves[0].truth.any() else np.eye(3)[None]
    scores = [score(cell, half, *result, own) for half, result in zip(halves, found, strict=True)]
    right = [bool(part["truth_shell"] >= verdict["wanted_shell"]) for part in scores]
    return {"verdict": verdict, "halves": scores, "right": right, "figures": figures, "cpu_seconds": spent, "seconds": time.monotonic() - started}


def region_of(cell: Cell, half: Simulated) -> Region:
    """The particle and its edge."""
    return Region(min(half.diameter_px / 2 + cell.box_size / 20, 0.46 * cell.box_size), SHIFT_PX * cell.box_size / 64)


def search(cell: Cell, half: Simulated, number: int, device: torch.device) -> tuple[PassState, FoundPoses, list[dict[str, Any]], Seeds]:
    """As `find_poses`, in memory."""
    region, particles = region_of(cell, half), half.particles
    volumes, evidence = [], []
    for seed in range(1000 * number, 1000 * number + cell.seeds):
        volumes.append(anneal(particles, region, symmetry="C1", iterations=cell.iterations, images=cell.images, seed=seed, device=device))
        evidence.append(held_out_evidence(volumes[-1], particles, region, symmetry="C1", device=device))
    seeds = Seeds(volumes, np.stack(evidence))
    levels = usable_levels(cell.box_size, max_shell=cell.max_shell)
    state, passes = first_state(seeds.volumes[seeds.best], torch.zeros(len(particles), 2)), []
    for reached, told in run_passes(state, particles, region, levels, symmetry="C1", seed=number, device=device):
        state = reached
        passes.append(told)
    assert state.found is not None
    return state, state.found, passes, seeds


def score(
    cell: Cell, half: Simulated, state: PassState, poses: FoundPoses, passes: list[dict[str, Any]], seeds: Seeds, own: np.ndarray
) -> dict[str, Any]:
    """Of one half: map, poses, basins of its seeds and restored particles against the truth, whose own rotations are given."""
    rows = np.linspace(0, len(half.particles) - 1, cell.scored).astype(int)
    volume, region = resized_map(state.volume, cell.box_size), region_of(cell, half)
    result: dict[str, Any] = {"log_evidence": float(poses.log_evidence.median()), "truth_shell": 0}
    if cell.structure == "none":
        return result
    move = align_maps(half.truth, volume)
    to_truth = correlation_in_sphere(half.truth, moved_map(volume, move), radius_px=region.radius_px)
    result["truth_shell"] = min(cell.top, last_shell_above(to_truth))
    result["to_truth"] = to_truth.tolist()
    result["median_angle"] = float(np.median(angles_between(move.rotations(poses.rotations.numpy()), half.rotations, own)))
    result["median_rotation_sigma"] = float(poses.rotation_sigma.median())
    result["seed_shells"] = [seed_shell(half.truth, part, cell) for part in seeds.volumes]
    ceilings = {"true poses": map_of_true_poses(cell, half, rows), "true map": masked_map(half.truth, radius_px=region.radius_px)}
    for name, chosen, centres in (("joint", volume, poses.shifts_px[rows]), *((name, ceiling, None) for name, ceiling in ceilings.items())):
        result[name] = nmse(restored(cell, half, chosen, rows, centres), half.clean[rows])
    result["masked wiener"] = nmse(masked_wiener(half, rows), half.clean[rows])
    return result


def map_of_true_poses(cell: Cell, half: Simulated, scored: np.ndarray) -> Tensor:
    """What the search could have found at best: its own fit to the particles at their true poses, without those that are scored with it.

    A particle in the map draws the search to the pose that it was put in at: here the true one, which would be telling.
    """
    count = len(half.particles)
    unknown = dict.fromkeys(("rotation_sigma", "far_sigma", "shift_sigma", "log_evidence"), torch.zeros(count))
    poses = FoundPoses(torch.from_numpy(half.rotations).float(), torch.from_numpy(half.shifts_px).float(), **unknown)
    mapped = ~np.isin(np.arange(count), scored)
    return map_at_poses(poses, half.particles, mapped, radius_px=region_of(cell, half).radius_px, max_shell=cell.top).volume


def seed_shell(truth: Tensor, volume: Tensor, cell: Cell) -> int:
    """To which shell the map of a seed agrees with the truth, before any full pass."""
    large = resized_map(volume, cell.box_size)
    moved = moved_map(large, align_maps(truth, large, max_shell=MAX_SHELL))
    return min(MAX_SHELL, last_shell_above(correlation_in_sphere(truth, moved, radius_px=0.45 * cell.box_size)))


def angles_between(found: np.ndarray, true: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Degrees; poses that differ by one of the map's own rotations are the same."""
    traces = np.einsum("nij,gjk,nik->ng", found, own, true)
    return np.degrees(np.arccos(np.clip((traces.max(1) - 1) / 2, -1, 1)))


def restored(cell: Cell, half: Simulated, volume: Tensor, rows: np.ndarray, centres: Tensor | None) -> Tensor:
    """Posterior means of some particles over all poses; shifts within a third of the range round known centres, or the whole range."""
    particles, region = half.particles, region_of(cell, half)
    shell = min(RESTORE_SHELL, cell.top)
    reach = region.shift_px if centres is None else region.shift_px / 3
    grid = make_pose_grid(step=RESTORE_STEP, max_shell=shell, box_size=cell.box_size, shift_range_px=reach, seed=3)
    bank = PoseBank(FourierVolume(volume, max_shell=shell), grid, noise_power=particles.noise_power, radius_px=region.radius_px)
    fine = FourierVolume(volume, max_shell=cell.top)
    posterior = WidePosterior(bank, fine, noise_power=particles.noise_power, map_error_power=torch.zeros_like(particles.noise_power))
    parts = []
    for row, place in enumerate(rows):
        one = np.array([place])
        centre = None if centres is None else centres[row : row + 1]
        parts.append(posterior(particles.images[one], particles.ctf(one), [int(place)], centre).mean)
    return torch.cat(parts)


def masked_wiener(half: Simulated, rows: np.ndarray) -> Tensor:
    """With the data's own spectra and the best of several discs: an oracle, in the baseline's favour."""
    particles, box_size = half.particles, half.particles.box_size
    images, ctf = particles.images[rows], particles.ctf(rows)
    spectra = {"signal_power": particles.signal_power, "noise_power": particles.noise_power}
    discs = [soft_disc(box_size, share * box_size, box_size / 16) for share in (0.25, 0.3, 0.35, 0.4, 0.45)]
    results = [wiener_filter(images, ctf, mask=disc, **spectra) for disc in discs]
    return min(results, key=lambda result: float((result - half.clean[rows]).square().mean()))


def nmse(images: Tensor, clean: Tensor) -> float:
    """Mean over particles, of images without their mean."""
    return float(score_images(images - images.mean((1, 2), keepdim=True), clean - clean.mean((1, 2), keepdim=True)).nmse.mean())


def stale_cells(cells: tuple[Cell, ...]) -> Iterator[tuple[Cell, str]]:
    """Cells whose JSON is missing or of other code or settings."""
    versions = [code_version(module) for module in ("ab_initio.finding", "ab_initio.judging", "posterior.wide")]
    script = Path(__file__).read_bytes().hex()
    for cell in cells:
        key = fingerprint({"code": versions, "script": script, **asdict(cell)})
        path = CELLS / f"{cell.name}.json"
        if not path.exists() or read_json(path)["key"] != key:
            yield cell, key


def write_page() -> None:
    """A table from all cells that there are."""
    rows = [page_row(read_json(path)) for path in sorted(CELLS.glob("*.json"))]
    with atomic_path(PAGE) as temporary:
        temporary.write_text("\n".join([HEADING, *rows]) + "\n", encoding="utf-8")


def page_row(content: dict[str, Any]) -> str:
    """One cell as a row."""
    cell, halves, verdict = content["cell"], content["halves"], content["verdict"]

    def mean(name: str, form: str) -> str:
        return form.format(np.mean([half[name] for half in halves])) if name in halves[0] else "-"

    shells = [shell for half in halves for shell in half.get("seed_shells", [])]
    basins = f"{sum(shell >= min(verdict['wanted_shell'], MAX_SHELL) for shell in shells)} of {len(shells)}" if shells else "-"
    columns = [cell["structure"], f"{cell['snr']:g}", str(cell["count"]), str(cell["box_size"])]
    columns += [mean(name, "{:.3f}") for name in ("masked wiener", "joint", "true poses", "true map")]
    columns += [mean("median_angle", "{:.1f}"), str(verdict["agreed_shell"]), "/".join(str(half["truth_shell"]) for half in halves), basins]
    columns += ["reliable" if verdict["reliable"] else "no reliable map", "yes" if all(content["right"]) else "no"]
    columns.append(f"{np.mean(content['cpu_seconds']):.0f}")
    return f"| {' | '.join(columns)} |"


def check_quick() -> None:
    """Two small cells: a structure is found, in its right shape, and noise is no reliable map."""
    easy, nothing = (measure(cell) for cell in QUICK)
    for cell, content in zip(QUICK, (easy, nothing), strict=True):
        print(page_row({"cell": asdict(cell), **content}), flush=True)
    assert easy["verdict"]["reliable"], easy["verdict"]["statement"]
    assert all(easy["right"]), [half["truth_shell"] for half in easy["halves"]]
    for half in easy["halves"]:
        assert half["joint"] < 0.6 * half["masked wiener"], half
    assert not nothing["verdict"]["reliable"], nothing["verdict"]


def main() -> None:
    """Run the stale cells and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two small cells, checked and not kept")
    parser.add_argument("--cell", action="append", default=[], help="run cells of this name only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if options.quick:
        check_quick()
        return
    for cell, key in stale_cells(FULL):
        if not options.cell or cell.name in options.cell:
            write_json(CELLS / f"{cell.name}.json", {"key": key, "cell": asdict(cell), **measure(cell)})
            print(page_row(read_json(CELLS / f"{cell.name}.json")), flush=True)
            write_page()


if __name__ == "__main__":
    main()
