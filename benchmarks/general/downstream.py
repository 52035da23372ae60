"""What restored particles are worth for the steps that follow: junk told from particles, poses found, views gathered; cell by cell.

usage: python benchmarks/general/downstream.py [--quick] [--list] [--page] [--kinds NAME ...] [--weights FILE] [--data FOLDER]

Every cell is a JSON under downstream/ with a key made of the code that it runs, its settings and the weights; only cells that are missing or stale
are measured. Structures are ones that the network was never shown. --page writes docs/general_downstream.md from the cells that are there.
"""

import argparse
import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from measure import DATA, SEED, weights_hash
from particles import BOX, KINDS, LARGEST_SHIFT, SHARE, Particles, at_snr, drawn
from particles import _draw_ctf as draw_ctf
from particles import _power as power_of
from scipy.cluster.vq import kmeans2
from torch import Tensor

from cryorestore.baselines.wiener import wiener_filter
from cryorestore.checkpoint import fingerprint
from cryorestore.config import code_version
from cryorestore.ctf import ctf_2d
from cryorestore.files import atomic_path, read_json, write_json
from cryorestore.fourier import fourier_crop_2d, radial_average, spread_shells, to_fourier, to_real
from cryorestore.general.restorer import GeneralRestorer
from cryorestore.general.structures import Model, find_model, read_models, shipped_models
from cryorestore.geometry import perturb_rotations, random_rotations
from cryorestore.masks import soft_disc
from cryorestore.metrics import mean_interval
from cryorestore.molecule import load_molecule, molecule_volume, project_molecule
from cryorestore.posterior.bank import PoseBank
from cryorestore.posterior.grid import make_pose_grid
from cryorestore.posterior.search import likeliest_poses, pose_weights
from cryorestore.project import FourierVolume
from cryorestore.provenance import code_commit

HERE = Path(__file__).parent
CELLS, QUICK = HERE / "downstream", Path("results/bench-general-downstream-quick")
PAGE = HERE.parents[1] / "docs/general_downstream.md"
SNRS = (0.1, 0.05, 0.02, 0.01)
ASYMMETRIC = ("1IGT", "5FN5", "6FSZ", "6VYB")
"""Validation structures without symmetry: a pose is right or wrong"""
LANES = ("raw", "wiener", "wiener-masked", "general")
REFERENCE = 20.0
"""angstrom, where the reference of the pose search ends"""
STEP = 7.5
"""degrees, of the search's grid"""
NEAR = 10.0
"""degrees"""
VIEWS, JITTER = 8, 5.0
"""Directions that views are gathered by, and the rms angle (degrees) of a particle from its own"""
COMPONENTS, STARTS = 16, 8
OF_KIND = {"junk": ("general",), "poses": LANES, "views": (*LANES, "clean")}
"""Lanes of each kind of cell"""
MODULES = {
    "junk": ("molecule",),
    "poses": ("molecule", "posterior.search", "posterior.bank", "posterior.grid", "project", "baselines.wiener"),
    "views": ("molecule", "baselines.wiener"),
}


@dataclass(frozen=True)
class Scale:
    """Particles of a structure in each kind of cell."""

    junk: int
    poses: int
    views: int
    structures: int


FULL, SMALL = Scale(100, 32, 160, 4), Scale(40, 12, 80, 1)


@dataclass(frozen=True)
class Posed:
    """Particles of known pose; `reference` is the structure's map, low-passed by where it is looked at."""

    particles: Particles
    rotations: np.ndarray
    labels: np.ndarray
    reference: Tensor
    pixel_size: float


def main() -> None:
    """Measure what is missing or stale, or write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--kinds", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--lanes", nargs="+", choices=OF_KIND["views"])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    if options.page:
        write_page()
        return
    torch.set_num_threads(1)
    scale, folder = (SMALL, QUICK) if options.quick else (FULL, CELLS)
    snrs = (0.05,) if options.quick else SNRS
    cells = [(kind, snr, lane) for kind in options.kinds for snr in snrs for lane in OF_KIND[kind] if options.lanes is None or lane in options.lanes]
    keys = {cell: key_of(*cell, scale, options.weights) for cell in cells}
    stale = [cell for cell in cells if not is_done(place(folder, *cell), keys[cell])]
    if options.list:
        print("\n".join(f"{'stale' if cell in stale else 'done':6}{place(folder, *cell).stem}" for cell in cells))
        return
    folder.mkdir(parents=True, exist_ok=True)
    for kind, snr, lane in stale:
        started = time.process_time()
        restorer = GeneralRestorer.load(options.weights, device="cpu") if lane == "general" else None
        rows = [MEASURES[kind](model, snr, lane, scale, restorer, options.data) for model in models(scale)]
        settings = {"kind": kind, "snr": snr, "lane": lane, "seed": SEED, **vars(scale)}
        content = {"key": keys[kind, snr, lane], "settings": settings, "commit": code_commit(), "rows": rows}
        write_json(place(folder, kind, snr, lane), content)
        print(f"{kind}, {lane} at SNR {snr:g}: {time.process_time() - started:.0f} s", flush=True)


def place(folder: Path, kind: str, snr: float, lane: str) -> Path:
    """A cell's file."""
    return folder / f"{kind}_{lane}_snr{snr:g}.json"


def key_of(kind: str, snr: float, lane: str, scale: Scale, weights: Path | None) -> str:
    """What a cell is known by; the weights count for the general restorer alone."""
    files = {name: hashlib.sha256((HERE / name).read_bytes()).hexdigest() for name in ("particles.py", "downstream.py")}
    own = {"weights": weights_hash(weights), "general": code_version("general.restorer")} if lane == "general" else {}
    code = [code_version(module) for module in MODULES[kind]]
    content = {"kind": kind, "snr": snr, "lane": lane, "scale": vars(scale), "seed": SEED, "files": files, "code": code}
    return fingerprint(content | own)[:16]


def is_done(path: Path, key: str) -> bool:
    """Whether a cell is there and not stale."""
    return path.exists() and read_json(path)["key"] == key


def models(scale: Scale) -> list[Model]:
    """The structures without symmetry."""
    return [model for model in read_models(shipped_models()) if model.id in ASYMMETRIC][: scale.structures]


def junk(model: Model, snr: float, lane: str, scale: Scale, restorer: GeneralRestorer | None, data: Path) -> dict[str, Any]:
    """How well the evidence, and the variance of the box, tell particles from empty boxes and from what a picker takes for particles.

    Particles and junk have the same noise; junk has the brightness that structural noise has beside particles of this SNR.
    """
    path = find_model(model, data)
    shown = at_snr(drawn(path, scale.junk, noise="plain", seed=SEED), snr)
    beside = drawn(path, scale.junk, noise="structural", seed=SEED + 1)
    only = snr**0.5 * beside.structural + beside.noise
    kinds = np.arange(scale.junk) % len(KINDS)
    sets = {"particles": (shown.images, shown.ctf), "empty boxes": (beside.noise, beside.ctf)}
    sets |= {kind: (only[kinds == number], beside.ctf[kinds == number]) for number, kind in enumerate(KINDS)}
    if restorer is None:
        raise TypeError("the evidence is the general restorer's")
    evidence = {name: restorer.restore(images, ctf).evidence.numpy() for name, (images, ctf) in sets.items()}
    variance = {name: images.var((1, 2)).numpy() for name, (images, _) in sets.items()}
    areas = {name: {"evidence": area(evidence, name), "variance": area(variance, name)} for name in sets if name != "particles"}
    kept = {name: float((values > 0).mean()) for name, values in evidence.items()}
    return {"structure": model.id, "auc": areas, "accepted": kept}


def area(scores: dict[str, np.ndarray], other: str) -> float:
    """Under the receiver's operating curve of particles against another set."""
    statistic = scipy.stats.mannwhitneyu(scores["particles"], scores[other]).statistic
    return float(statistic / (len(scores["particles"]) * len(scores[other])))


def poses(model: Model, snr: float, lane: str, scale: Scale, restorer: GeneralRestorer | None, data: Path) -> dict[str, Any]:
    """Error of the poses that a search over all of them finds against a map of 20 angstrom, in one lane's images.

    A lane is told how its images stand to the clean ones, per shell: their slope, and the power of what is left. So a filter neither helps nor hurts.
    """
    posed = draw_posed(model, scale.poses, snr, data, views=None)
    images, clean = restored(posed.particles, lane, restorer), posed.particles.clean
    max_shell = min(int(BOX * posed.pixel_size / REFERENCE), BOX // 2 - 1)
    grid = make_pose_grid(step=STEP, max_shell=max_shell, box_size=BOX, shift_range_px=LARGEST_SHIFT)
    volume = FourierVolume(posed.reference, max_shell=max_shell)
    scaled = unfiltered(images, clean, max_shell)
    bank = PoseBank(volume, grid, noise_power=power_of(scaled - clean).clamp_min(1e-6), radius_px=0.6 * SHARE * BOX)
    found = []
    for start in range(0, len(scaled), 8):
        part = slice(start, start + 8)
        found.append(likeliest_poses(bank, pose_weights(bank, bank.match(scaled[part], posed.particles.ctf[part]))).rotations)
    angles = angles_between(torch.cat(found).numpy(), posed.rotations)
    figures = {"median_angle": float(np.median(angles)), "near": float((angles <= NEAR).mean()), "angles": angles.round(2).tolist()}
    return {"structure": model.id, "max_shell": max_shell, **figures}


def unfiltered(images: Tensor, clean: Tensor, max_shell: int) -> Tensor:
    """Images divided, shell by shell, by their slope on the clean ones; where there is next to none, by a twentieth of the greatest.

    Beyond `max_shell`, where nothing is compared, the slope is not looked at.
    """
    shown, true = to_fourier(images), to_fourier(clean)
    slope = radial_average((shown * true.conj()).real).mean(0) / radial_average(true.abs().square()).mean(0).clamp_min(1e-12)
    greatest = float(slope[: max_shell + 1].max())
    return to_real(shown / spread_shells(slope.clamp(0.05 * greatest, greatest), BOX))


def views(model: Model, snr: float, lane: str, scale: Scale, restorer: GeneralRestorer | None, data: Path) -> dict[str, Any]:
    """Purity of clusters (k-means on principal components of the images) against the directions that particles were drawn about."""
    posed = draw_posed(model, scale.views, snr, data, views=VIEWS)
    by_chance = purity(np.random.default_rng(SEED).permutation(posed.labels), posed.labels)
    return {"structure": model.id, "by_chance": by_chance, "purity": purity(clusters(restored(posed.particles, lane, restorer)), posed.labels)}


def restored(particles: Particles, lane: str, restorer: GeneralRestorer | None) -> Tensor:
    """Images of a lane; the Wiener filters have the true spectra, the mask its true radius."""
    if lane in ("raw", "clean"):
        return particles.images if lane == "raw" else particles.clean
    if restorer is not None:
        return restorer.restore(particles.images, particles.ctf).mean
    filtered = wiener_filter(particles.images, particles.ctf, signal_power=particles.signal_power, noise_power=particles.noise_power)
    return filtered if lane == "wiener" else filtered * soft_disc(BOX, 0.5 * SHARE * BOX + LARGEST_SHIFT, 3.0)


def draw_posed(model: Model, count: int, snr: float, data: Path, *, views: int | None) -> Posed:
    """Particles at random poses, or about a number of directions, white noise of sigma 1."""
    molecule = load_molecule(find_model(model, data))
    pixel_size = 2 * float(np.percentile(np.linalg.norm(molecule.positions, axis=1), 99)) / (SHARE * BOX)
    generator = np.random.default_rng([SEED, 12])
    labels = np.arange(count) % (views or 1)
    if views is None:
        rotations, reach = random_rotations(count, generator), LARGEST_SHIFT
    else:
        rotations = perturb_rotations(random_rotations(views, generator)[labels], rotation_error=JITTER, generator=generator)
        reach = 1.0
    shifts = generator.uniform(-reach, reach, (count, 2))
    ctf = ctf_2d(draw_ctf(count, generator), box_size=BOX, pixel_size=pixel_size)
    signal = project_molecule(molecule, rotations, shifts, box_size=BOX, pixel_size=pixel_size)
    clean = to_real(to_fourier(signal) * ctf)
    scale = float(np.sqrt(snr / float(clean.var((1, 2)).mean())))
    noise = torch.from_numpy(generator.standard_normal((count, BOX, BOX), dtype=np.float32))
    clean = clean * scale
    particles = Particles(clean + noise, clean, torch.zeros_like(clean), ctf, power_of(scale * signal), power_of(noise))
    return Posed(particles, rotations, labels, scale * molecule_volume(molecule, box_size=BOX, pixel_size=pixel_size), pixel_size)


def angles_between(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Degrees between rotations (n, 3, 3)."""
    cosine = (np.einsum("nij,nij->n", found, true) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def clusters(images: Tensor) -> np.ndarray:
    """Labels of the best of several k-means on principal components of the images at half their sampling."""
    small = fourier_crop_2d(images, BOX // 2).flatten(1)
    small = small - small.mean(0)
    left, values, _ = torch.linalg.svd(small, full_matrices=False)
    points = (left[:, :COMPONENTS] * values[:COMPONENTS]).double().numpy()
    tried = []
    for seed in range(STARTS):
        centres, labels = kmeans2(points, VIEWS, minit="++", rng=np.random.default_rng(seed))
        tried.append((float(np.square(points - centres[labels]).sum()), labels))
    return min(tried, key=lambda one: one[0])[1]


def purity(found: np.ndarray, true: np.ndarray) -> float:
    """Share of particles that are of the commonest direction of their cluster."""
    return float(sum(np.bincount(true[found == label]).max() for label in np.unique(found)) / len(true))


MEASURES = {"junk": junk, "poses": poses, "views": views}


def write_page() -> None:
    """Write the page from the cells."""
    lines = [HEAD]
    for kind, text, make in (("junk", JUNK, junk_table), ("poses", POSES, poses_table), ("views", GATHERED, views_table)):
        paths = {(lane, snr): place(CELLS, kind, snr, lane) for lane in OF_KIND[kind] for snr in SNRS}
        rows = {cell: read_json(path)["rows"] for cell, path in paths.items() if path.exists()}
        lines += [text, make(rows)]
    with atomic_path(PAGE) as temporary:
        temporary.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


HEAD = f"""# The general restorer, downstream

Made from the cells under `benchmarks/general/downstream/` by `python benchmarks/general/downstream.py --page`; do not edit.

Simulated particles of {len(ASYMMETRIC)} structures without symmetry ({", ".join(ASYMMETRIC)}) that the network was never shown: {BOX} px,
white noise of sigma 1, defocus 0.8 to 3 um, up to {LARGEST_SHIFT:g} px off the centre. Means over the structures with 95 % intervals. The
Wiener filters are told the true spectra, and the mask the true radius. Topaz is not among the lanes here; see the
[benchmark](general_benchmark.md)."""
JUNK = f"""## Junk told from particles

Area under the receiver's operating curve, particles against others at the same noise: of the evidence, and in brackets of the variance of the
box. 0.5 is chance. {", ".join(KINDS)} are what is beside a particle in the benchmark's structural noise, here without any particle. The last
column is the share of particles whose evidence is above 0."""
POSES = f"""## Poses found against a map of {REFERENCE:g} angstrom

A search over all poses on a grid of {STEP:g} degrees. Median angle to the true pose in degrees, and in brackets the share of particles within
{NEAR:g} degrees. Each lane is told, per shell, its slope to the clean images and the power of what is left."""
GATHERED = f"""## Views gathered

{VIEWS} directions, particles within {JITTER:g} degrees (rms) of one, up to 1 px off the centre; k-means on {COMPONENTS} principal components of
the images at half their sampling. Share of particles that are of the commonest direction of their cluster."""
Rows = dict[tuple[str, float], list[dict[str, Any]]]
_ABSENT = "not measured"


def junk_table(cells: Rows) -> str:
    """A row an SNR."""
    names, rows = ("empty boxes", *KINDS), []
    for (_, snr), found in cells.items():
        pairs = [f"{mean(row['auc'][name]['evidence'] for row in found)} ({mean(row['auc'][name]['variance'] for row in found)})" for name in names]
        rows.append([f"{snr:g}", *pairs, interval(row["accepted"]["particles"] for row in found)])
    return table(["SNR", *names, "particles accepted"], rows)


def poses_table(cells: Rows) -> str:
    """A row a lane, a column an SNR."""

    def told(found: list[dict[str, Any]]) -> str:
        return f"{interval((row['median_angle'] for row in found), 1)} ({mean(row['near'] for row in found)})"

    rows = [[lane, *(told(cells[lane, snr]) if (lane, snr) in cells else _ABSENT for snr in SNRS)] for lane in OF_KIND["poses"]]
    return table(["lane", *(f"SNR {snr:g}" for snr in SNRS)], rows)


def views_table(cells: Rows) -> str:
    """A row a lane, a column an SNR; chance is that of raw particles' labels."""
    rows = [
        [lane, *(interval(row["purity"] for row in cells[lane, snr]) if (lane, snr) in cells else _ABSENT for snr in SNRS)]
        for lane in OF_KIND["views"]
    ]
    chance = [interval(row["by_chance"] for row in cells["clean", snr]) if ("clean", snr) in cells else _ABSENT for snr in SNRS]
    return table(["lane", *(f"SNR {snr:g}" for snr in SNRS)], [["chance", *chance], *rows])


def interval(values: Iterable[float], digits: int = 3) -> str:
    """Mean with its interval."""
    found = mean_interval(np.array(list(values)), seed=SEED)
    low, high = found["ci95"] or (found["mean"], found["mean"])
    return f"{found['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def mean(values: Iterable[float]) -> str:
    """Mean as text."""
    return f"{np.mean(list(values)):.3f}"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows))


if __name__ == "__main__":
    main()
