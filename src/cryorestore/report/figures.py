"""The report's figures as data URIs, each with an alternative text that says what a reader would see, and the files it was made from."""

import base64
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryorestore import plots
from cryorestore.particles import ParticleTable
from cryorestore.summary import resolution_text

Series = NDArray[np.float64]


@dataclass(frozen=True)
class Picture:
    """A figure: title, data URI, alternative text, caption, and the files it was made from."""

    title: str
    uri: str
    alt: str
    caption: str
    sources: list[str]


def draw_figures(
    summary: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    *,
    raw_fsc: str | Path,
    restored_fscs: Mapping[str, str | Path],
    raw_truth_fsc: str | Path | None,
    restored_truth_fscs: Mapping[str, str | Path],
    diffusion_histories: Sequence[str | Path],
    postprocess_histories: Sequence[str | Path],
    half_stars: Sequence[str | Path],
    evaluation_path: str | Path,
    evidence_threshold: float,
) -> list[Picture]:
    """Draw every figure that the files allow, in reading order."""
    pixel_size = summary["pixel_size"]
    drawn = [
        _ring_picture(evaluation, evaluation_path, pixel_size),
        _half_map_picture(summary, raw_fsc, restored_fscs, pixel_size),
        _truth_picture(summary, raw_truth_fsc, restored_truth_fscs, pixel_size),
        _training_picture("Training of the diffusion network", diffusion_histories),
        _training_picture("Training of the post-processing network", postprocess_histories),
        _orientation_picture(half_stars),
        _evidence_picture(evaluation, evaluation_path, evidence_threshold),
    ]
    return [picture for picture in drawn if picture is not None]


def svg_uri(figure: Figure) -> str:
    """A figure as data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(plots.svg_bytes(figure)).decode("ascii")


def read_columns(path: str | Path, names: Sequence[str]) -> list[Series]:
    """Columns of a CSV file as numbers; an empty cell is NaN."""
    with Path(path).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [np.array([float(row[name] or "nan") for row in rows], np.float64) for name in names]


def _ring_picture(evaluation: Mapping[str, Any], path: str | Path, pixel_size: float) -> Picture | None:
    if evaluation["frc"] is None:
        return None
    names = {"raw": "raw", "restored": "restored", "wiener": "Wiener filter"}
    curves = {label: (evaluation["frc"]["spatial_frequency"], evaluation["frc"][name]) for name, label in names.items()}
    figure = plots.correlation_figure(curves, thresholds=(0.5,), pixel_size=pixel_size, ylabel="Fourier ring correlation")
    crossings = ", ".join(f"{label} {resolution_text(evaluation['frc05'][name])}" for name, label in names.items())
    return Picture(
        "Particles against the clean images",
        svg_uri(figure),
        f"Mean Fourier ring correlation of particles with their clean images; crossings of 0.5: {crossings}.",
        f"Mean over {evaluation['scored_particles']} held-out true particles. Crossing 0.5: {crossings}.",
        [str(path)],
    )


def _half_map_picture(summary: Mapping[str, Any], raw: str | Path, restored: Mapping[str, str | Path], pixel_size: float) -> Picture:
    curves = {"raw half-maps": _curve(raw)} | {f"{name}: self-consistency": _curve(path) for name, path in restored.items()}
    figure = plots.correlation_figure(curves, thresholds=(0.143,), pixel_size=pixel_size, ylabel="Fourier shell correlation")
    crossing = resolution_text(summary["resolution_raw_0143"])
    return Picture(
        "Half-maps against each other",
        svg_uri(figure),
        f"Half-map FSC. Raw particles: 0.143 at {crossing}. Curves of restored particles are labelled self-consistency.",
        f"Raw particles cross 0.143 at {crossing}. The curves of restored particles show self-consistency: "
        "they carry what the method believes, and are no resolution.",
        [str(raw), *map(str, restored.values())],
    )


def _truth_picture(summary: Mapping[str, Any], raw: str | Path | None, restored: Mapping[str, str | Path], pixel_size: float) -> Picture | None:
    if raw is None:
        return None
    curves = {"raw": _curve(raw)} | {name: _curve(path) for name, path in restored.items()}
    figure = plots.correlation_figure(curves, thresholds=(0.5,), pixel_size=pixel_size, ylabel="FSC to the true map")
    crossings = f"raw {resolution_text(summary['truth_resolution_raw_05'])}, restored {resolution_text(summary['truth_resolution_restored_05'])}"
    return Picture(
        "Maps against the truth",
        svg_uri(figure),
        f"FSC of the maps to the true map; crossings of 0.5: {crossings}.",
        f"Mean of both half-maps against the true map. Crossing 0.5: {crossings}.",
        [str(raw), *map(str, restored.values())],
    )


def _training_picture(title: str, paths: Sequence[str | Path]) -> Picture | None:
    columns = ("images", "training_loss", "validation_loss")
    histories: dict[str, tuple[Series, Series, Series]] = {}
    for path in map(Path, paths):
        seen, training, validation = read_columns(path, columns)
        if len(seen):
            histories[f"{path.parent.parent.name}, {path.parent.name.replace('half', 'half ')}"] = (seen, training, validation)
    if not histories:
        return None
    best = ", ".join(f"{label} {np.nanmin(validation):.4g}" for label, (_, _, validation) in histories.items() if np.isfinite(validation).any())
    return Picture(
        title,
        svg_uri(plots.training_figure(histories)),
        f"Training and validation loss against images seen; lowest validation loss: {best}.",
        f"Each half is trained alone. Lowest validation loss: {best}.",
        [str(path) for path in paths],
    )


def _orientation_picture(stars: Sequence[str | Path]) -> Picture | None:
    angles = []
    for star in stars:
        table = ParticleTable.read(star)
        posed = table.take(table.has_poses).particles
        if len(posed):
            angles.append(np.stack([posed.floats("rlnAngleRot"), posed.floats("rlnAngleTilt")]))
    if not angles:
        return None
    rotation, tilt = np.concatenate(angles, axis=1)
    return Picture(
        "Orientations",
        svg_uri(plots.orientation_figure(rotation, tilt)),
        f"Histogram of viewing directions of {len(rotation)} particles over rot and the cosine of tilt.",
        f"{len(rotation)} particles with a pose; bins of equal area on the sphere, so an even spread looks even.",
        [str(star) for star in stars],
    )


def _evidence_picture(evaluation: Mapping[str, Any], path: str | Path, threshold: float) -> Picture | None:
    evidence = evaluation["evidence"]
    if evidence is None:
        return None
    shares = {"true particles": evidence["accepted_true_fraction"], "junk": evidence["accepted_junk_fraction"], "all": evidence["accepted_fraction"]}
    told = ", ".join(f"{label} {share:.1%}" for label, share in shares.items() if share is not None)
    figure = plots.evidence_figure(evidence["histogram_edges"], evidence["histograms"], threshold=threshold)
    return Picture(
        "Evidence of the particle in each box",
        svg_uri(figure),
        f"Histogram of the probability of the particle against noise; accepted: {told}.",
        f"Accepted at {threshold:g} or more: {told}.",
        [str(path)],
    )


def _curve(path: str | Path) -> tuple[Series, Series]:
    frequency, correlation = read_columns(path, ("spatial_frequency", "fsc"))
    return frequency, correlation
