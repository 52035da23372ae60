"""Particles restored with the general network alone: no map, no poses, no training, and as many as there are."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryorestore.batches import fixed_batches
from cryorestore.belonging import refuse_premultiplied
from cryorestore.ctf import ctf_2d
from cryorestore.ctf_parameters import CtfParameters
from cryorestore.errors import CryorestoreError
from cryorestore.files import files_together, write_json
from cryorestore.general.method import SHIPPED, GeneralMethod, GeneralResult, check_whiten
from cryorestore.general.restorer import GeneralRestorer
from cryorestore.general.sampling import WINDOW, WorkingSampling
from cryorestore.general.survey import MeasuredDiameter, contrast_sign, flatness, measure_diameter, measure_noise
from cryorestore.io.mrc import MrcStackWriter
from cryorestore.io.star import Cells
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct.step import ACCEPTED_COLUMN
from cryorestore.restore import EVIDENCE_COLUMN, judge_evidence
from cryorestore.whitening import NoiseSpectra

CTF_COLUMN = "rlnCryorestoreRestoredCtf"
"""What became of the CTF: applied, corrected, or unknown where the table does not say it"""
_DEFOCUS = "rlnDefocusU"
_CTF_OF_ONE = {"rlnDefocusU": 0.0, "rlnDefocusV": 0.0, "rlnDefocusAngle": 0.0, "rlnPhaseShift": 0.0, "rlnCtfBfactor": 0.0, "rlnCtfScalefactor": 1.0}
"""With an amplitude contrast of 1 and no spherical aberration: the CTF is 1 everywhere, in any program."""
_OPTICS_OF_ONE = {"rlnSphericalAberration": 0.0, "rlnAmplitudeContrast": 1.0}
_KEPT = "rlnCryorestoreOriginal"
"""Before the name (without rln) of a column of the CTF that was divided out"""


@dataclass(frozen=True)
class _Set:
    """Particles of one box and pixel size: their rows of the table, and how they are restored."""

    rows: NDArray[np.int64]
    table: ParticleTable
    method: GeneralMethod
    parameters: CtfParameters | None
    spectra: NoiseSpectra | None
    facts: Mapping[str, Any]

    def batches(self, batch_size: int) -> Iterator[tuple[NDArray[np.int64], GeneralResult]]:
        """Restored batches with their places in the set."""
        sampling = self.method.sampling
        for rows, real in fixed_batches(len(self.table), batch_size, description="restore particles"):
            chosen = rows[:real]
            ctf = None if self.parameters is None else _window_ctf(self.parameters.take(chosen), sampling)
            noise_power = None if self.spectra is None else self.spectra.power[torch.from_numpy(self.spectra.groups.number[chosen])]
            yield chosen, self.method(self.table.load_images(chosen), ctf, noise_power=noise_power)


@files_together()
def restore_general(
    *,
    star: str | Path | Sequence[str | Path],
    restored_stack: str | Path,
    restored_star: str | Path,
    figures: str | Path,
    deviation_stack: str | Path | None = None,
    weights: str = SHIPPED,
    diameter: float | None = None,
    ctf: str = "applied",
    beyond: str = "nothing",
    whiten: str = "none",
    invert_contrast: bool | str = "auto",
    pixel_size: float | None = None,
    project_root: str | Path | None = None,
    evidence_threshold: float = 0.5,
    dtype: str = "float32",
    batch_size: int = 64,
    device: str = "auto",
    precision: str = "auto",
    threads: int = 1,
) -> None:
    """Restore particles with weights that were trained on other proteins; no map, no poses and no training are needed.

    Memory does not grow with the number of particles, but for their table. Nothing is written before everything is done.

    Parameters
    ----------
    star
        A STAR file of particles, or a cryoSPARC .cs with its passthrough files after it. Any even box, any pixel size, any grey scale.
    restored_stack
        Output: restored particles in the box, pixel size, contrast and grey scale of the input. Where optics groups differ in their pixel size, one
        stack each, with their numbers in the names.
    restored_star
        Output: the input's rows and columns, in their order, with the evidence of each particle.
    figures
        Output (JSON): how they were restored.
    deviation_stack
        Output, if given: the standard deviation of each restored pixel, within the working band.
    weights
        "general": those of the package; or a file of such weights.
    diameter
        Of the particle, angstrom; None: it is measured. It decides the sampling that the network works at.
    ctf
        "applied": restored particles keep their CTF, and the columns that describe it stay true; "corrected": as they would be without one, which
        the columns then say.
    beyond
        What restored particles hold beyond the band that the network works at: "nothing", or "raw", the input's own data.
    whiten
        "none": the network knows coloured noise; "background": the noise is whitened by the background's spectrum of each optics group before, and
        the result is coloured again.
    invert_contrast
        Whether particles are dark; "auto" looks at them. The result has the contrast of the input.
    pixel_size
        Angstrom per px, overriding the table's.
    project_root
        Folder that the stack names start from.
    evidence_threshold
        A particle is accepted if the probability that it is there at all exceeds this.
    dtype
        "float32" or "float16".
    batch_size, device, precision, threads
        How it is computed; on one kind of processor the result depends on none of them but the precision.

    Raises
    ------
    CryorestoreError
        If a file cannot be read, there is no particle, images are multiplied by their CTF already, or a value is none of those allowed.
    """
    torch.set_num_threads(threads)
    check_whiten(whiten)
    table = ParticleTable.read(star, pixel_size=pixel_size, project_root=project_root)
    if not len(table):
        raise CryorestoreError(f"{table.path}: the table has no rows, expected at least one particle image; check the step that wrote it")
    refuse_premultiplied(table)
    parameters = known_ctf(table, corrected=ctf == "corrected")
    restorer = GeneralRestorer.load(None if weights == SHIPPED else weights, device=device, precision=precision)
    look = partial(_survey, table, parameters, restorer, beyond=beyond, ctf=ctf, diameter=diameter, whiten=whiten)
    sets = [look(rows, invert_contrast=invert_contrast) for rows in _same_sampling(table)]
    log_evidence, names, hashes = np.full(len(table), np.nan), np.empty(len(table), object), np.empty(len(table), object)
    constant: list[int] = []
    for number, own in enumerate(sets, start=1):
        stacks = [None if path is None else numbered(path, number, of=len(sets)) for path in (restored_stack, deviation_stack)]
        _restore_set(own, stacks, log_evidence, names, hashes, constant, dtype=dtype, batch_size=batch_size)
    if constant:
        get_logger().warning("%s: %d particles have no variation at all and hold nothing; first: row %d", table.path, len(constant), constant[0] + 1)
    _, accepted = judge_evidence(log_evidence, threshold=evidence_threshold)
    mode = "unknown" if parameters is None else ctf
    out = _described(table, sets, names, hashes, ctf=mode)
    judged: dict[str, Cells] = {EVIDENCE_COLUMN: log_evidence, ACCEPTED_COLUMN: accepted.astype(np.int64), CTF_COLUMN: [mode] * len(table)}
    out.with_columns(judged).write(restored_star)
    write_json(
        figures,
        {
            "particles": len(table),
            "accepted": int(accepted.sum()),
            "without_variation": len(constant),
            "ctf": mode,
            "beyond": beyond,
            "weights": restorer.card.get("fingerprint"),
            "shared_by_both_halves": True,
            "sets": [dict(own.facts) for own in sets],
        },
    )
    get_logger().info("restored %d particles, %d taken for particles by their evidence", len(table), accepted.sum())


def known_ctf(table: ParticleTable, *, corrected: bool) -> CtfParameters | None:
    """The particles' CTF; None, with a warning, where the table says no defocus.

    Raises
    ------
    CryorestoreError
        If the table says the defocus but not all that goes with it, or the CTF is to be divided out and is not known.
    """
    if _DEFOCUS in table.particles or _DEFOCUS in table.optics:
        return table.ctf_parameters()
    if corrected:
        raise CryorestoreError(
            f"{table.path}: column _{_DEFOCUS} is missing, expected it where the CTF is to be taken out; estimate the CTF first, or leave it applied"
        )
    get_logger().warning(
        "%s: no column _%s: the particles are restored without knowing their CTF, which is worse; estimate the CTF for better ones",
        table.path,
        _DEFOCUS,
    )
    return None


def numbered(path: str | Path, number: int, *, of: int) -> Path:
    """The file of one of several sets: its number before the ending, where there are several."""
    path = Path(path)
    return path if of == 1 else path.with_name(f"{path.stem}_{number}{path.suffix}")


def _same_sampling(table: ParticleTable) -> list[NDArray[np.int64]]:
    """Rows of each pixel size and box, in the order in which they come first."""
    pixel_sizes = table.pixel_sizes().round(5)
    return [np.flatnonzero(pixel_sizes == size) for size in dict.fromkeys(pixel_sizes.tolist())]


def _survey(
    table: ParticleTable,
    parameters: CtfParameters | None,
    restorer: GeneralRestorer,
    rows: NDArray[np.int64],
    *,
    beyond: str,
    ctf: str,
    diameter: float | None,
    whiten: str,
    invert_contrast: bool | str,
) -> _Set:
    """Look at some particles and decide how the set is restored."""
    own = table if len(rows) == len(table) else table.take(rows)
    box_size, angstrom = own.box_size, own.pixel_size
    measured = measure_diameter(own) if diameter is None else MeasuredDiameter(diameter, True)
    used, origin = measured.angstrom, "given" if diameter is not None else "measured" if measured.is_seen else "supposed"
    sampling = WorkingSampling.choose(box_size=box_size, pixel_size=angstrom, diameter=used)
    sign = contrast_sign(own, invert_contrast, diameter=used)
    method = GeneralMethod(restorer, sampling, beyond=beyond, ctf=ctf, sign=sign)
    spectra = measure_noise(own, method) if whiten != "none" else None
    facts = {
        "particles": len(own),
        "box_size": box_size,
        "pixel_size": angstrom,
        "diameter": used,
        "diameter_from": origin,
        "working_pixel_size": sampling.working_pixel_size,
        "field_size": sampling.field_size,
        "finest_resolution": sampling.finest_resolution,
        "contrast": "white" if sign > 0 else "dark",
        "noise_flatness": {} if spectra is None else dict(zip(spectra.groups.labels, map(flatness, spectra.power), strict=True)),
    }
    get_logger().info(
        "%d particles of %d px at %.4g angstrom, diameter %.0f angstrom (%s): the network works at %.2f angstrom per px, restored to %.1f angstrom",
        *(len(own), box_size, angstrom, used, origin, sampling.working_pixel_size, sampling.finest_resolution),
    )
    return _Set(rows, own, method, None if parameters is None else parameters.take(rows), spectra, facts)


def _restore_set(
    own: _Set,
    stacks: Sequence[Path | None],
    log_evidence: NDArray[np.float64],
    names: NDArray[np.object_],
    hashes: NDArray[np.object_],
    constant: list[int],
    *,
    dtype: str,
    batch_size: int,
) -> None:
    """Restore a set into its stacks, and note the evidence, image name and hash of each of its rows."""
    count, box_size, pixel_size = len(own.table), own.table.box_size, own.table.pixel_size
    with ExitStack() as open_stacks:
        images_out, deviation_out = (
            None
            if path is None
            else open_stacks.enter_context(MrcStackWriter(path, count=count, box_size=box_size, pixel_size=pixel_size, dtype=dtype))
            for path in stacks
        )
        for places, restored in own.batches(batch_size):
            if images_out is not None:
                images_out.append(restored.images.numpy())
            if deviation_out is not None:
                deviation_out.append(restored.deviation.numpy())
            log_evidence[own.rows[places]] = restored.log_evidence.double().numpy()
            constant += own.rows[places][restored.constant].tolist()
    if images_out is not None:
        names[own.rows] = [f"{number:06d}@{images_out.path}" for number in range(1, count + 1)]
        hashes[own.rows] = images_out.hashes


def _described(table: ParticleTable, sets: Sequence[_Set], names: NDArray[np.object_], hashes: NDArray[np.object_], *, ctf: str) -> ParticleTable:
    """The table with the names of the restored images, and with the CTF that they have."""
    out = table.with_images("restored", box_size=sets[0].table.box_size, hashes=hashes.tolist()).with_columns({"rlnImageName": names.tolist()})
    if len(sets) > 1:
        sizes = {group: own.table.box_size for own in sets for group in np.unique(own.table.optics_groups()).tolist()}
        numbers = [sizes.get(group, sets[0].table.box_size) for group in table.optics.ints("rlnOpticsGroup").tolist()]
        out = ParticleTable(out.particles, out.optics.with_columns({"rlnImageSize": np.array(numbers)}), out.path, out.project_root)
    return out if ctf != "corrected" else _with_ctf_of_one(out)


def _with_ctf_of_one(table: ParticleTable) -> ParticleTable:
    """Columns that say that the CTF is 1 everywhere; what they said before is kept under other names."""
    particles, optics = table.particles, table.optics
    columns: dict[str, Cells] = {}
    for name, value in (_CTF_OF_ONE | {name: value for name, value in _OPTICS_OF_ONE.items() if name in particles}).items():
        if name in particles:
            columns[f"{_KEPT}{name.removeprefix('rln')}"] = particles.column(name)
            columns[name] = np.full(len(particles), value)
    for name in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"):
        columns.setdefault(name, np.zeros(len(particles)))
    of_groups: dict[str, Cells] = {}
    for name, value in _OPTICS_OF_ONE.items():
        if name in optics:
            of_groups[f"{_KEPT}{name.removeprefix('rln')}"] = optics.column(name)
        of_groups[name] = np.full(len(optics), value)
    return ParticleTable(particles.with_columns(columns), optics.with_columns(of_groups), table.path, table.project_root)


def _window_ctf(parameters: CtfParameters, sampling: WorkingSampling) -> Float[Tensor, "b window half"]:
    """The CTF on the window's own frequencies."""
    ctf: Tensor = ctf_2d(parameters, box_size=WINDOW, pixel_size=sampling.working_pixel_size)
    return ctf
