"""RELION's normalization: dust, a plane fitted to the background, then background mean 0 and sigma 1."""

import csv
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path, files_together
from cryorestore.identity import identity_hash, particle_identities
from cryorestore.io.mrc import MrcStackWriter, read_layout
from cryorestore.logs import get_logger, progress
from cryorestore.masks import background_mask
from cryorestore.particles import ParticleTable

BATCH = 256
SMALLEST_SIGMA = 1e-10
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Normalized:
    """Images (n, box, box) and what was taken from them; the grey level was mean + ramp_x (x - box // 2) + ramp_y (y - box // 2)."""

    images: Values
    """(raw - grey level) / sigma; not finite where sigma is 0 or not finite"""
    mean: Values
    """(n,)"""
    sigma: Values
    """(n,), population sigma of the background"""
    ramp: Values
    """(n, 2), grey levels a px along x and y"""


@files_together()
def normalize_particles(
    *,
    star: str | Path,
    normalized_stack: str | Path,
    normalized_star: str | Path,
    statistics_csv: str | Path,
    rejects_star: str | Path,
    bg_radius: float,
    remove_ramp: bool = True,
    white_dust: float | None = None,
    black_dust: float | None = None,
    dtype: str = "float32",
    seed: int = 0,
) -> None:
    """Normalize every image of a table; images whose background is constant or not finite are set apart.

    Parameters
    ----------
    star
        Particles of one box size.
    normalized_stack, normalized_star, rejects_star
        Written, in the order of `star`; the rejects have their reason in rlnCryorestoreRejectReason.
    statistics_csv
        Written, one row a normalized particle: row (in `normalized_star`, from 0), mean, sigma, ramp_x, ramp_y; see `Normalized`.
    bg_radius
        Px of these images: the background is where i^2 + j^2 > bg_radius^2 about box // 2.
    remove_ramp
        Subtract the least-squares plane through the background, not only its mean.
    white_dust, black_dust
        Background sigmas above or below the background's mean beyond which a pixel is replaced by a draw from the background; None or
        negative: off. They mean the images as they are here: after an inversion, RELION's white dust is black.
    dtype
        "float32" or "float16".
    seed
        Of the draws; each particle's depend on its identity alone.

    Raises
    ------
    CryorestoreError
        If the background circle does not fit the box, or no particle is left.
    """
    table = ParticleTable.read(star)
    count, box_size = len(table), table.box_size
    background = _background(box_size, bg_radius)
    dust = _dust_thresholds(white_dust, black_dust)
    identities = particle_identities(table) if any(np.isfinite(dust)) else [""] * count
    reasons = [""] * count
    with ExitStack() as stack:
        writer = stack.enter_context(MrcStackWriter(normalized_stack, count=count, box_size=box_size, pixel_size=table.pixel_size, dtype=dtype))
        file = stack.enter_context(stack.enter_context(atomic_path(statistics_csv)).open("w", encoding="utf-8", newline=""))
        statistics = csv.writer(file, lineterminator="\n")
        statistics.writerow(["row", "mean", "sigma", "ramp_x", "ramp_y"])
        for begin in progress(range(0, count, BATCH), description="normalize particles"):
            rows = np.arange(begin, min(begin + BATCH, count))
            images = _read(table, rows)
            for image, row in zip(images if any(np.isfinite(dust)) else (), rows.tolist(), strict=False):
                generator = np.random.default_rng(identity_hash(identities[row], seed=seed, purpose="dust"))
                _replace_dust(image, background, dust, generator)
            normalized = normalize_images(images, background=background, remove_ramp=remove_ramp)
            good = _judge(normalized, images, background, rows, reasons)
            values = np.column_stack([normalized.mean, normalized.sigma, normalized.ramp])[good]
            statistics.writerows([writer.written + place, *map(repr, line)] for place, line in enumerate(values.tolist()))
            writer.append(normalized.images[good])
        writer.count = writer.written
        if not writer.written:
            raise CryorestoreError(f"{star}: 0 of {count} particles can be normalized (first: {reasons[0]}); look at the images")
    kept = np.array([not reason for reason in reasons], bool)
    table.take(~kept).with_columns({"rlnCryorestoreRejectReason": [reason for reason in reasons if reason]}).write(rejects_star)
    table.take(kept).with_images(normalized_stack, box_size=box_size).write(normalized_star)
    if not kept.all():
        row = int(np.flatnonzero(~kept)[0])
        get_logger().warning("%s: %d of %d particles are rejected; first: row %d: %s", star, int((~kept).sum()), count, row + 1, reasons[row])
    get_logger().info("normalized %d particles of %d px, background beyond %g px", int(kept.sum()), box_size, bg_radius)


def normalize_images(images: Values, *, background: NDArray[np.bool_], remove_ramp: bool) -> Normalized:
    """Subtract a plane (or the mean) and divide by the background's population sigma.

    Parameters
    ----------
    images
        (n, box, box), real space.
    background
        (box, box), true where the statistics are taken.
    """
    box_size = images.shape[-1]
    y, x = (axis.astype(float) for axis in np.indices((box_size, box_size)) - box_size // 2)
    design = np.stack([np.ones_like(x), x, y] if remove_ramp else [np.ones_like(x)])
    coefficients = images[:, background] @ np.linalg.pinv(design[:, background])
    flat = images - (coefficients @ design.reshape(len(design), -1)).reshape(images.shape)
    rest = flat[:, background].mean(1)
    flat -= rest[:, None, None]
    sigma = np.sqrt((flat[:, background] ** 2).mean(1))
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = flat / sigma[:, None, None]
    ramp = coefficients[:, 1:] if remove_ramp else np.zeros((len(images), 2))
    return Normalized(scaled, coefficients[:, 0] + rest, sigma, ramp)


def _background(box_size: int, bg_radius: float) -> NDArray[np.bool_]:
    if bg_radius <= 0 or 2 * bg_radius > box_size:
        raise CryorestoreError(
            f"bg_radius: found {bg_radius:g} px, expected more than 0 and at most half of the box of {box_size} px; "
            f"choose about {int(0.75 * box_size / 2)}"
        )
    return np.asarray(background_mask(box_size, bg_radius).numpy(), bool)


def _dust_thresholds(white_dust: float | None, black_dust: float | None) -> tuple[float, float]:
    """Both in sigmas, infinite where off."""
    white, black = (np.inf if value is None or value <= 0 else float(value) for value in (white_dust, black_dust))
    return white, black


def _replace_dust(image: Values, background: NDArray[np.bool_], dust: tuple[float, float], generator: np.random.Generator) -> None:
    """Replace what is beyond the thresholds, anywhere in the image, by draws from the background."""
    mean, sigma = image[background].mean(), image[background].std()
    if np.isfinite(sigma) and sigma >= SMALLEST_SIGMA:
        beyond = (image > mean + dust[0] * sigma) | (image < mean - dust[1] * sigma)
        image[beyond] = generator.normal(mean, sigma, int(beyond.sum()))


def _read(table: ParticleTable, rows: NDArray[np.int64]) -> Values:
    """Images as they are, NaN and all: `ParticleTable.load_images` would end the run at the first bad one."""
    files, file_id, index = table.image_locations()
    images = np.empty((len(rows), table.box_size, table.box_size), np.float64)
    for number in np.unique(file_id[rows]):
        here = np.flatnonzero(file_id[rows] == number)
        images[here] = read_layout(files[number]).data()[index[rows[here]]]
    return images


def _judge(normalized: Normalized, images: Values, background: NDArray[np.bool_], rows: NDArray[np.int64], reasons: list[str]) -> NDArray[np.bool_]:
    """Which images are good; the others' reasons are noted."""
    finite = np.asarray(np.isfinite(images).all((1, 2)), bool)
    spread = images[:, background].max(1) - images[:, background].min(1)
    varied = np.asarray((normalized.sigma >= SMALLEST_SIGMA) & (spread > 0), bool)
    for place in np.flatnonzero(~(finite & varied)).tolist():
        constant = f"constant background: sigma {normalized.sigma[place]:.3g}, expected at least {SMALLEST_SIGMA:g}"
        reasons[int(rows[place])] = constant if finite[place] else "holds NaN or infinite values"
    return np.asarray(finite & varied, bool)
