"""RELION's normalization: dust, a plane fitted to the background, then background mean 0 and sigma 1; whitening and outliers where asked for."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from cryorestore.background import SMALLEST_SIGMA, Background, Normalized
from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path, files_together
from cryorestore.identity import identity_hash, particle_identities
from cryorestore.io.mrc import Images, MrcStackWriter, stored_dtype
from cryorestore.io.stored import StoredImages, stored_images
from cryorestore.logs import get_logger, progress
from cryorestore.outliers import find_outliers, outlier_groups
from cryorestore.particles import REASON, ParticleTable
from cryorestore.particles_cs import write_particles_cs
from cryorestore.whitening_groups import Groups, whitening_groups, write_spectra

if TYPE_CHECKING:
    from cryorestore.whitening import NoiseSpectra

_BATCH_PIXELS = 2**18
"""Of one batch (64 images of 64 px, 1 of 384 px): a megabyte, so that it stays in the processor's cache from reading to the end."""

Rows = NDArray[np.int64]
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Finished:
    """What becomes of a batch: the good images, one line of statistics each, and a reason for every row ("": good)."""

    images: StoredImages
    statistics: NDArray[np.float64]
    reasons: list[str]


@files_together()
def normalize_particles(
    *,
    star: str | Path,
    normalized_stack: str | Path,
    normalized_star: str | Path,
    statistics_csv: str | Path,
    rejects_star: str | Path,
    normalized_cs: str | Path | None = None,
    noise_spectra: str | Path | None = None,
    bg_radius: float,
    remove_ramp: bool = True,
    white_dust: float | None = None,
    black_dust: float | None = None,
    outlier_sigma: float | None = None,
    whiten: str = "none",
    dtype: str = "float32",
    threads: int = 1,
    seed: int = 0,
) -> None:
    """Normalize every image of a table; images whose background is constant, those that are not finite, and outliers are set apart.

    Parameters
    ----------
    star
        Particles of one box size.
    normalized_stack, normalized_star, rejects_star
        Written, in the order of `star`; the rejects have their reason in rlnCryorestoreRejectReason.
    statistics_csv
        Written, one row a normalized particle: row (in `normalized_star`, from 0), mean, sigma, ramp_x, ramp_y; see `Normalized`. Where
        images are whitened also whitened_mean and whitened_sigma: what was subtracted and divided by afterwards.
    normalized_cs
        Written, if given: the same as `normalized_star`, for cryoSPARC.
    noise_spectra
        Written, if given: the spectra that the images were whitened with, one row a group; no rows where they were not.
    bg_radius
        Px of these images: the background is where i^2 + j^2 > bg_radius^2 about box // 2.
    remove_ramp
        Subtract the least-squares plane through the background, not only its mean.
    white_dust, black_dust
        Background sigmas above or below the background's mean beyond which a pixel is replaced by a draw from the background; None or
        negative: off. They mean the images as they are here: after an inversion, RELION's white dust is black.
    outlier_sigma
        Set apart particles whose background mean, background sigma or farthest pixel is further than this many robust sigmas from the
        median of their micrograph (and half-set, where known). None: off.
    whiten
        "none"; or divide by the square root of the noise spectrum of each "micrograph", or of each "half_and_optics_group".
    dtype
        "float32" or "float16".
    threads
        Batches at a time; the result does not depend on it.
    seed
        Of the draws; each particle's depend on its identity alone.

    Raises
    ------
    CryorestoreError
        If the background circle does not fit the box, no particle is left, or the groups for outliers or whitening are not known.
    """
    table = ParticleTable.read(star)
    job = _Job(table, bg_radius=bg_radius, remove_ramp=remove_ramp, dust=(white_dust, black_dust), threads=threads, seed=seed)
    reasons = _outliers(job, outlier_sigma) if outlier_sigma is not None else [""] * len(table)
    groups = whitening_groups(table, whiten)
    spectra = _spectra(job, groups, reasons) if groups.labels else None
    columns = ["row", "mean", "sigma", "ramp_x", "ramp_y", *(["whitened_mean", "whitened_sigma"] if spectra else [])]
    with ExitStack() as stack:
        writer = stack.enter_context(
            MrcStackWriter(normalized_stack, count=len(table), box_size=table.box_size, pixel_size=table.pixel_size, dtype=dtype)
        )
        file = stack.enter_context(stack.enter_context(atomic_path(statistics_csv)).open("w", encoding="utf-8", newline=""))
        file.write(",".join(columns) + "\n")
        kind = stored_dtype(dtype, path=normalized_stack)
        for rows, done in job.in_order(lambda rows: _finish(job, spectra, rows, kind), _unjudged(reasons), description="normalize particles"):
            for row, reason in zip(rows.tolist(), done.reasons, strict=True):
                reasons[row] = reason
            file.writelines(_lines(done.statistics, first=writer.written))
            writer.append(done.images)
        if not writer.written:
            raise CryorestoreError(f"{star}: 0 of {len(table)} particles can be normalized (first: {reasons[0]}); look at the images")
        writer.count = writer.written
    if noise_spectra is not None:
        counts, power = (spectra.counts, spectra.power.numpy()) if spectra else (np.zeros(0, np.int64), np.zeros((0, table.box_size // 2 + 1)))
        write_spectra(noise_spectra, groups, counts, power, pixel_size=table.pixel_size)
    kept = np.array([not reason for reason in reasons], bool)
    table.take(~kept).with_columns({REASON: [reason for reason in reasons if reason]}).write(rejects_star)
    normalized = table.take(kept).with_images(normalized_stack, box_size=table.box_size, hashes=writer.hashes)
    normalized.write(normalized_star)
    if normalized_cs is not None:
        write_particles_cs(normalized_cs, normalized)
    if not kept.all():
        row = int(np.flatnonzero(~kept)[0])
        get_logger().warning("%s: %d of %d particles are rejected; first: row %d: %s", star, int((~kept).sum()), len(kept), row + 1, reasons[row])
    get_logger().info("normalized %d particles of %d px, background beyond %g px", writer.written, table.box_size, bg_radius)


class _Job:
    """Particles, and how their images are read and normalized, batch by batch in `threads` threads."""

    def __init__(
        self,
        table: ParticleTable,
        *,
        bg_radius: float,
        remove_ramp: bool,
        dust: tuple[float | None, float | None],
        threads: int,
        seed: int,
    ) -> None:
        self.table, self.bg_radius, self._remove_ramp, self._threads, self._seed = table, bg_radius, remove_ramp, threads, seed
        self.background = Background(table.box_size, bg_radius)
        self._white, self._black = (np.inf if value is None or value <= 0 else float(value) for value in dust)
        self._has_dust = bool(np.isfinite([self._white, self._black]).any())
        self._identities = particle_identities(table) if self._has_dust else []

    def normalize(self, rows: Rows) -> Normalized:
        """Read some rows and normalize them."""
        images = self.table.load_images(rows, finite=False)
        for image, row in zip(images, rows.tolist(), strict=True) if self._has_dust else ():
            _replace_dust(image, self.background.mask, self._white, self._black, self._generator(row))
        return self.background.normalize(images, remove_ramp=self._remove_ramp, in_place=True)

    def _generator(self, row: int) -> np.random.Generator:
        return np.random.default_rng(identity_hash(self._identities[row], seed=self._seed, purpose="dust"))

    def in_order(self, function: Callable[[Rows], Result], rows: Rows, *, description: str) -> Iterator[tuple[Rows, Result]]:
        """Apply a function to batches of `rows`, `threads` of them at a time; results come in order, and no more than that many wait."""
        size = max(1, _BATCH_PIXELS // self.table.box_size**2)
        batches = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
        with ThreadPoolExecutor(self._threads) as pool:
            waiting = deque((batch, pool.submit(function, batch)) for batch in batches[: self._threads])
            for number in progress(range(len(batches)), description=description):
                batch, result = waiting.popleft()
                done = result.result()
                if number + self._threads < len(batches):
                    following = batches[number + self._threads]
                    waiting.append((following, pool.submit(function, following)))
                yield batch, done


def _replace_dust(image: Images, background: NDArray[np.bool_], white: float, black: float, generator: np.random.Generator) -> None:
    """Replace what is beyond the thresholds (background sigmas), anywhere in the image, by draws from the background."""
    known = image[background].astype(np.float64)
    mean, sigma = known.mean(), known.std()
    if np.isfinite(sigma) and sigma >= SMALLEST_SIGMA:
        beyond = (image > mean + white * sigma) | (image < mean - black * sigma)
        image[beyond] = generator.normal(mean, sigma, int(beyond.sum()))


def _unjudged(reasons: list[str]) -> Rows:
    return np.flatnonzero([not reason for reason in reasons])


def _finish(job: _Job, spectra: "NoiseSpectra | None", rows: Rows, dtype: np.dtype[np.generic]) -> _Finished:
    normalized = job.normalize(rows)
    good = np.asarray(normalized.sigma >= SMALLEST_SIGMA) & np.isfinite(normalized.sigma)
    reasons = ["" if fine else _reason(sigma) for fine, sigma in zip(good.tolist(), normalized.sigma.tolist(), strict=True)]
    images = normalized.images if good.all() else normalized.images[good]
    statistics = np.column_stack([normalized.mean, normalized.sigma, normalized.ramp])[good]
    if spectra and len(images):
        whitened = job.background.normalize(spectra.whiten(images, rows[good]), remove_ramp=False, in_place=True)
        images, statistics = whitened.images, np.column_stack([statistics, whitened.mean, whitened.sigma])
    return _Finished(stored_images(images, dtype), statistics, reasons)


def _reason(sigma: float) -> str:
    if np.isfinite(sigma):
        return f"constant background: sigma {sigma:.3g}, expected at least {SMALLEST_SIGMA:g}"
    return "holds NaN or infinite values, or numbers too large for single precision"


def _lines(statistics: NDArray[np.float64], *, first: int) -> Iterator[str]:
    form = ",".join(["%d", *["%.9g"] * statistics.shape[1]]) + "\n"
    return (form % (number, *line) for number, line in enumerate(statistics.tolist(), first))


def _outliers(job: _Job, outlier_sigma: float) -> list[str]:
    """The reason of every outlier, found in a pass of its own: what a micrograph's particles have in common is known at its end."""
    groups = outlier_groups(job.table)
    values = {name: np.full(len(groups), np.nan) for name in ("background mean", "background sigma", "farthest pixel in background sigmas")}
    mean, sigma, farthest = values.values()

    def measure(rows: Rows) -> None:
        normalized = job.normalize(rows)
        good = np.isfinite(normalized.sigma) & (normalized.sigma >= SMALLEST_SIGMA)
        mean[rows[good]], sigma[rows[good]] = normalized.mean[good], normalized.sigma[good]
        flat = normalized.images[good].reshape(int(good.sum()), -1)
        farthest[rows[good]] = np.maximum(flat.max(1, initial=0), -flat.min(1, initial=0))

    for _ in job.in_order(measure, np.arange(len(groups)), description="look for outliers"):
        pass
    return find_outliers(values, groups, outlier_sigma=outlier_sigma)


def _spectra(job: _Job, groups: Groups, reasons: list[str]) -> "NoiseSpectra":
    """The noise spectra of the groups, from the particles that have no reason to be rejected."""
    # torch, which takes longer to import than small sets to normalize, is needed only here
    from cryorestore.whitening import estimate_spectra

    def good_images(rows: Rows) -> tuple[Rows, Images]:
        normalized = job.normalize(rows)
        good = np.isfinite(normalized.sigma) & (normalized.sigma >= SMALLEST_SIGMA)
        return rows[good], normalized.images[good]

    batches = (good for _, good in job.in_order(good_images, _unjudged(reasons), description="estimate noise spectra"))
    return estimate_spectra(batches, groups, box_size=job.table.box_size, bg_radius=job.bg_radius)
