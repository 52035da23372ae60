"""A small made-up results folder: two halves of raw and restored particles with a known truth, maps, curves, histories, benchmarks."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryorestore import plots
from cryorestore.baselines.wiener import estimate_signal_power
from cryorestore.config.steps import FUSED_STACKS
from cryorestore.controls.result import ControlResult, Null
from cryorestore.ctf import ctf_2d
from cryorestore.evaluate import evaluate_restoration
from cryorestore.files import write_json
from cryorestore.fourier import to_fourier, to_real
from cryorestore.io.mrc import MrcStackWriter, write_map
from cryorestore.io.star import StarBlock, write_star
from cryorestore.masks import soft_sphere
from cryorestore.particles import ParticleTable
from cryorestore.provenance import write_provenance
from cryorestore.reference import Reference
from cryorestore.resolution.curves import write_fsc, write_truth_fsc
from cryorestore.resolution.local import map_local_resolution
from cryorestore.resolution.sharpening import sharpen_map
from cryorestore.summary import write_summary

BOX, PIXEL_SIZE, SIGMA, COUNT, JUNK_EVERY = 32, 4.0, 20.0, 48, 8
BG_RADIUS = 12.0


@dataclass(frozen=True)
class Tree:
    """Paths of the made-up folder; row 0 of the picks was rejected, so that normalized row k is pick k + 1."""

    root: Path

    def evaluate(self, *, truth: bool = True, method: str = "ours", **changes):
        folder = self.root / f"restored.{method}"
        files = {
            "normalized_star": self.root / "normalized/particles.star",
            "statistics_csv": self.root / "normalized/statistics.csv",
            "evaluation": self.root / f"evaluation/{method}.json",
            "montage": self.root / f"evaluation/{method}_montage.npz",
        }
        for half in (1, 2):
            files |= {
                f"half{half}_star": self.root / f"raw/half{half}/particles.star",
                f"restored{half}_star": folder / f"half{half}/particles.star",
                f"evidence{half}": folder / f"half{half}/evidence.csv",
                f"deviation{half}": folder / f"half{half}/deviation.mrcs",
                f"noise{half}_json": self.root / f"pairs/half{half}/noise.json",
            }
        if truth:
            files |= {"truth_star": self.root / "truth/truth.star", "truth_stack": self.root / "truth/truth.mrcs"}
        options = {"bg_radius": BG_RADIUS, "mask_radius": 44.0, "mask_edge": 8.0, "montage_count": 6, "seed": 3}
        evaluate_restoration(**(files | options | changes))
        return files["evaluation"], files["montage"]

    def fuse(self) -> None:
        """Add the fused stacks: maps with less noise than the raw ones, curves, and the figures of each half."""
        generator = torch.Generator().manual_seed(2)
        for stack in FUSED_STACKS:
            _write_half_maps(self.root, stack, 0.15, generator)
        for half in (1, 2):
            figures = {"particles": 24, "accepted": 20 + half, "turned_rms_degrees": 1.234, "moved_rms_angstrom": 0.567, "width": 0.5}
            write_json(self.root / f"fused.marginal/half{half}/fusion.json", figures | {"reference_resolution": 9.876})

    def fused_curves(self, form: str) -> dict[str, list[Path]]:
        """Files of the fused stacks' curves, as keywords of the summary (json) and the report (csv)."""
        names = {"fused_fscs": f"fsc.{form}", "fused_truth_fscs": f"fsc_truth.{form}"}
        return {key: [self.root / stack / name for stack in FUSED_STACKS] for key, name in names.items()}

    def summarize(self, *, truth: bool = True, controls: bool = True, fused: bool = False, denoisers: tuple[str, ...] = ("ours",)):
        files = {
            "evaluations": [self.root / f"evaluation/{name}.json" for name in denoisers],
            "controls": [self.root / f"control.noise_only.{name}/control.json" for name in denoisers] if controls else [],
            "raw_fsc": self.root / "raw/fsc.json",
            "restored_fscs": [self.root / f"restored.{name}/fsc.json" for name in denoisers],
            "benchmarks": sorted((self.root / "benchmarks").rglob("*.tsv")),
            "summary": self.root / "summary.json",
            "methods": self.root / "methods.json",
        }
        if truth:
            files |= {
                "raw_truth_fsc": self.root / "raw/fsc_truth.json",
                "restored_truth_fscs": [self.root / f"restored.{name}/fsc_truth.json" for name in denoisers],
            }
        files |= self.fused_curves("json") if fused else {}
        write_summary(**files, dataset="made_up", denoisers=denoisers)
        return files["summary"], files["methods"]

    def report_files(self, *, truth: bool = True, fused: bool = False, denoisers: tuple[str, ...] = ("ours",)):
        folders = [self.root / f"restored.{name}" for name in denoisers]
        files = {
            "summary": self.root / "summary.json",
            "methods": self.root / "methods.json",
            "evaluations": [self.root / f"evaluation/{name}.json" for name in denoisers],
            "montages": [self.root / f"evaluation/{name}_montage.npz" for name in denoisers],
            "controls": [self.root / f"control.noise_only.{name}/control.json" for name in denoisers],
            "raw_fsc": self.root / "raw/fsc.csv",
            "restored_fscs": [folder / "fsc.csv" for folder in folders],
            "diffusion_histories": [self.root / f"models/ours/half{half}/diffusion_history.csv" for half in (1, 2)],
            "postprocess_histories": [self.root / f"models/ours/half{half}/postprocess_history.csv" for half in (1, 2)],
            "raw_maps": [self.root / f"raw/half{half}/map.mrc" for half in (1, 2)],
            "restored_maps": [folders[0] / f"half{half}/map.mrc" for half in (1, 2)],
            "half_stars": [self.root / f"raw/half{half}/particles.star" for half in (1, 2)],
            "restored_half_stars": [folders[0] / f"half{half}/particles.star" for half in (1, 2)],
            "reference_maps": [self.root / f"pairs/half{half}/reference_map.mrc" for half in (1, 2)],
            "noise_jsons": [self.root / f"pairs/half{half}/noise.json" for half in (1, 2)],
            "restored_star": folders[0] / "particles.star",
            "benchmarks": sorted((self.root / "benchmarks").rglob("*.tsv")),
            "provenance": [self.root / "raw/provenance.json"],
            "report": self.root / "report.html",
            "sharpened_map": self.root / "raw/sharpened.mrc",
            "guinier": self.root / "raw/guinier.csv",
            "sharpening": self.root / "raw/sharpened.json",
            "local_resolution_map": self.root / "raw/local_resolution.mrc",
            "local_resolution_figures": self.root / "raw/local_resolution.json",
        }
        if truth:
            files |= {
                "raw_truth_fsc": self.root / "raw/fsc_truth.csv",
                "restored_truth_fscs": [folder / "fsc_truth.csv" for folder in folders],
                "truth_map": self.root / "truth/truth_map.mrc",
            }
        if fused:
            halves = [self.root / f"fused.marginal/half{half}" for half in (1, 2)]
            files |= {"fused_maps": [half / "map.mrc" for half in halves], "fusions": [half / "fusion.json" for half in halves]}
            files |= self.fused_curves("csv")
        return files


def make_tree(root: Path, *, methods: tuple[str, ...] = ("ours",), control_passed: bool = True) -> Tree:
    """Write everything that the last steps read."""
    generator = torch.Generator().manual_seed(1)
    picks = _pick_table(root, generator)
    clean = _clean_images(picks, generator)
    _write_stack(root / "truth/truth.mrcs", clean * SIGMA)
    picks.write(root / "truth/truth.star")
    raw = clean + torch.randn(clean.shape, generator=generator)
    normalized = picks.take(np.arange(1, COUNT))
    _write_stack(root / "normalized/particles.mrcs", raw[1:])
    table = normalized.with_images(root / "normalized/particles.mrcs", box_size=BOX)
    table = table.with_columns({"rlnCryorestoreRow": np.arange(COUNT - 1), "rlnCryorestoreHoldout": (np.arange(COUNT - 1) % 2).astype(int)})
    table.write(root / "normalized/particles.star")
    _write_csv(
        root / "normalized/statistics.csv", ["row", "mean", "sigma", "ramp_x", "ramp_y"], [[row, 7.0, SIGMA, 0, 0] for row in range(COUNT - 1)]
    )
    table = ParticleTable.read(root / "normalized/particles.star")
    for half in (1, 2):
        rows = np.flatnonzero(np.arange(COUNT - 1) // 2 % 2 == half - 1)
        _write_half(root, table.take(rows), clean[1:][rows], half, methods)
    _write_maps(root, methods, generator)
    _write_logs(root, methods, control_passed)
    return Tree(root)


def _pick_table(root: Path, generator: torch.Generator) -> ParticleTable:
    angles = torch.rand(COUNT, 3, generator=generator) * 360
    optics = {
        "rlnOpticsGroup": ["1"],
        "rlnOpticsGroupName": ["one"],
        "rlnVoltage": ["300.0"],
        "rlnSphericalAberration": ["2.7"],
        "rlnAmplitudeContrast": ["0.1"],
        "rlnImagePixelSize": [str(PIXEL_SIZE)],
        "rlnImageSize": [str(BOX)],
    }
    particles = {
        "rlnImageName": [f"{row + 1:06d}@{root / 'truth/truth.mrcs'}" for row in range(COUNT)],
        "rlnMicrographName": [f"micrographs/mic_{row % 3}.mrc" for row in range(COUNT)],
        "rlnCoordinateX": [str(100 + 40 * row) for row in range(COUNT)],
        "rlnCoordinateY": ["200"] * COUNT,
        "rlnDefocusU": ["15000.0"] * COUNT,
        "rlnDefocusV": ["15000.0"] * COUNT,
        "rlnDefocusAngle": ["0.0"] * COUNT,
        "rlnAngleRot": angles[:, 0].numpy(),
        "rlnAngleTilt": (angles[:, 1] / 2).numpy(),
        "rlnAnglePsi": angles[:, 2].numpy(),
        "rlnOpticsGroup": ["1"] * COUNT,
        "rlnClassNumber": [str(0 if row % JUNK_EVERY == 0 else 1) for row in range(COUNT)],
    }
    path = root / "truth/picks.star"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_star(path, {"optics": StarBlock.from_columns(optics), "particles": StarBlock.from_columns(particles)})
    _write_stack(root / "truth/truth.mrcs", torch.zeros(COUNT, BOX, BOX))
    return ParticleTable.read(path)


def _clean_images(picks: ParticleTable, generator: torch.Generator) -> torch.Tensor:
    axis = torch.arange(BOX) - BOX // 2
    centres = torch.randn(COUNT, 4, 2, generator=generator) * 4
    blobs = torch.exp(-((axis - centres[..., :1]).square()[..., None, :] + (axis - centres[..., 1:]).square()[..., None]) / 8).sum(1) * 2
    blobs[torch.from_numpy(picks.particles.ints("rlnClassNumber") == 0)] = 0
    return to_real(to_fourier(blobs) * ctf_2d(picks.ctf_parameters(), box_size=BOX, pixel_size=PIXEL_SIZE))


def _write_half(root: Path, table: ParticleTable, clean: torch.Tensor, half: int, methods: tuple[str, ...]) -> None:
    folder = root / f"raw/half{half}"
    folder.mkdir(parents=True, exist_ok=True)
    table.write(folder / "particles.star")
    images = torch.from_numpy(table.load_images())
    ctf = ctf_2d(table.ctf_parameters(), box_size=BOX, pixel_size=PIXEL_SIZE)
    noise_power = torch.ones(BOX // 2 + 1)
    signal_power = estimate_signal_power([(images, ctf)], noise_power=noise_power)
    spectra = {"map_error_power": 0 * noise_power, "fsc_weights": noise_power, "max_shell": BOX // 2 - 1, "amplitude": 1.0}
    reference = Reference(volume=_truth_volume(), pixel_size=PIXEL_SIZE, noise_power=noise_power, signal_power=signal_power, **spectra)
    reference.write(root / f"pairs/half{half}/reference_map.mrc", root / f"pairs/half{half}/noise.json")
    for method in methods:
        folder = root / f"restored.{method}/half{half}"
        _write_stack(folder / "particles.mrcs", 0.1 * images + 0.9 * clean)
        _write_stack(folder / "deviation.mrcs", torch.full_like(images, 0.1))
        table.with_images(folder / "particles.mrcs", box_size=BOX).write(folder / "particles.star")
        junk = table.particles.ints("rlnClassNumber") == 0
        rows = [[row, "name", 0.0, 0.02 if bad else 0.98, int(not bad)] for row, bad in enumerate(junk)]
        _write_csv(folder / "evidence.csv", ["row", "image_name", "log_evidence", "probability", "accepted"], rows)


def _truth_volume() -> torch.Tensor:
    axis = (torch.arange(BOX) - BOX // 2).float()
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    places = ((0, 0, 0), (5, 0, 2), (-3, 4, -4), (0, -6, 3))
    return torch.stack([torch.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 4) for a, b, c in places]).sum(0)


def _write_maps(root: Path, methods: tuple[str, ...], generator: torch.Generator) -> None:
    truth = _truth_volume()
    write_map(root / "raw/fsc_mask.mrc", soft_sphere(BOX, 11.0, 3.0).numpy(), pixel_size=PIXEL_SIZE)
    write_map(root / "truth/truth_map.mrc", truth.numpy(), pixel_size=PIXEL_SIZE)
    for stack, noise in (("raw", 0.3), *((f"restored.{method}", 0.05) for method in methods)):
        _write_half_maps(root, stack, noise, generator)
    _write_map_figures(root / "raw")


def _write_half_maps(root: Path, stack: str, noise: float, generator: torch.Generator) -> None:
    """The half-maps of one stack and their curves."""
    folder, truth = root / stack, _truth_volume()
    for half in (1, 2):
        (folder / f"half{half}").mkdir(parents=True, exist_ok=True)
        volume = truth + noise * torch.randn(truth.shape, generator=generator)
        write_map(folder / f"half{half}/map.mrc", volume.numpy(), pixel_size=PIXEL_SIZE)
    halves = {"half_map_1": folder / "half1/map.mrc", "half_map_2": folder / "half2/map.mrc"}
    write_fsc(**halves, mask_file=root / "raw/fsc_mask.mrc", curve=folder / "fsc.csv", plot=folder / "fsc.svg", figures=folder / "fsc.json")
    outputs = {"curve": folder / "fsc_truth.csv", "plot": folder / "fsc_truth.svg", "figures": folder / "fsc_truth.json"}
    write_truth_fsc(**halves, truth_map=root / "truth/truth_map.mrc", **outputs)


def _write_map_figures(raw: Path) -> None:
    halves = {"half_map_1": raw / "half1/map.mrc", "half_map_2": raw / "half2/map.mrc"}
    names = {"map": "sharpened.mrc", "guinier": "guinier.csv", "plot": "guinier.svg", "star": "guinier.star", "sharpening": "sharpened.json"}
    sharpen_map(**halves, curve=raw / "fsc.csv", figures=raw / "fsc.json", **{name: raw / file for name, file in names.items()}, bfactor=-80.0)
    outputs = {"map": raw / "local_resolution.mrc", "figures": raw / "local_resolution.json"}
    map_local_resolution(**halves, **outputs, mask_file=raw / "fsc_mask.mrc", mask_radius=44.0, mask_edge=8.0)


def _write_logs(root: Path, methods: tuple[str, ...], control_passed: bool) -> None:
    columns = ["step", "images", "seconds", "training_loss", "validation_loss", "learning_rate"]
    for half in (1, 2):
        for network in ("diffusion", "postprocess"):
            rows = [[step, 16 * step, step / 10, 1 / step, "" if step % 5 else 1.1 / step, 1e-3] for step in range(1, 101)]
            _write_csv(root / f"models/ours/half{half}/{network}_history.csv", columns, rows)
    for method in methods:
        control = ControlResult(
            name="noise_only",
            method=method,
            score=0.0 if control_passed else 0.2,
            score_text="share of pure-noise images accepted by the evidence",
            threshold=0.005,
            null=Null("no image of noise is a particle", 0.0),
            verdict="passed" if control_passed else "failed",
            text=f"{0 if control_passed else 20} % of the noise images accepted",
            details={"ungated_fsc": np.linspace(1.0, 0.0, BOX // 2 + 1).tolist()},
        )
        folder = root / f"control.noise_only.{method}"
        folder.mkdir()
        plots.plot_fsc({"noise": ([0.0, 0.125], [1.0, 0.0])}, folder / "control.svg", thresholds=(0.143,), pixel_size=PIXEL_SIZE)
        control.write(folder / "control.json", picture=folder / "control.svg")
    for step, seconds, memory in (("train_diffusion", 60.0, 2048.0), ("restore_particles", 30.0, 512.0)):
        path = root / f"benchmarks/{step}/made_up_half1.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:01:00\t{memory}\n")
    short = root / "benchmarks/compute_fsc/made_up_raw.tsv"
    short.parent.mkdir(parents=True, exist_ok=True)
    short.write_text("s\th:m:s\tmax_rss\n0.5\t0:00:00\t-\n")
    write_provenance(
        root / "raw/provenance.json",
        step="compute_fsc",
        parameters={"thresholds": [0.5, 0.143]},
        inputs={"half_map_1": root / "raw/half1/map.mrc"},
        outputs={"curve": root / "raw/fsc.csv"},
        seed=None,
    )


def _write_stack(path: Path, images: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with MrcStackWriter(path, count=len(images), box_size=BOX, pixel_size=PIXEL_SIZE) as writer:
        writer.append(images.numpy())


def _write_csv(path: Path, columns: list[str], rows: list[list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
