"""Figures of particles, training, orientations and evidence, each with an alternative text that says what a reader would see, and its files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cryorestore import plots
from cryorestore.particles import ParticleTable
from cryorestore.report.pictures import Picture, Series, read_columns, svg_uri
from cryorestore.summary import resolution_text


def ring_picture(evaluation: Mapping[str, Any], path: str | Path, pixel_size: float) -> Picture | None:
    """Mean Fourier ring correlation of particles with their clean images; None without truth."""
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


def training_picture(title: str, paths: Sequence[str | Path]) -> Picture | None:
    """Losses of models/<method>/half<half>/*_history.csv; None where nothing was trained."""
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


def orientation_picture(stars: Sequence[str | Path]) -> Picture | None:
    """Viewing directions of all particles that have a pose; None without any."""
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


def evidence_picture(evaluation: Mapping[str, Any], path: str | Path, threshold: float) -> Picture | None:
    """How probable it is that each box holds the particle; None where the method has no evidence."""
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
