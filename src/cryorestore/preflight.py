"""Before anything costly: do a few hundred particles, reconstructed small, agree with what their table says of them?

Odd and even particles are reconstructed apart. The reading of the table that is right makes the two maps agree best, so each convention is
judged by trying its usual mistakes. What the data cannot tell (the hand and the pixel size, without a map) is said and not guessed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.files import write_json
from cryorestore.findings import Finding, print_findings
from cryorestore.fourier import to_fourier, to_real
from cryorestore.logs import get_logger
from cryorestore.masks import soft_disc, soft_sphere
from cryorestore.particles import ParticleTable
from cryorestore.preflight_map import judge_hand, judge_pixel_size, read_given_map
from cryorestore.preflight_particles import LARGEST_BOX, Agreement, SmallParticles, load_small_particles, odd_even_agreement

FEWEST = 50
"""Particles below which odd and even ones are not expected to agree."""

_SIGNIFICANT = 3.0
"""Standard errors from which on two readings are told apart; one more until the given one is called wrong, for images share their maps."""

_VISIBLE = 0.1
"""Mean FSC at shuffled poses from which on the images are clear enough that right poses would have to show."""


@dataclass(frozen=True)
class Reading:
    """Another way to read the table, and what to do if it is the right one."""

    particles: SmallParticles
    mend: str


def preflight(
    star: str | Path | Sequence[str | Path],
    *,
    preflight_json: str | Path | None = None,
    reference_map: str | Path | None = None,
    half_maps: Sequence[str | Path] | None = None,
    pixel_size: float | None = None,
    project_root: str | Path | None = None,
    symmetry: str = "C1",
    count: int = 300,
    largest_box: int = LARGEST_BOX,
    refuse: bool = True,
    seed: int = 1,
) -> list[Finding]:
    """Judge contrast, poses, shift units, CTF convention and, against a map, hand and pixel size, on a few hundred particles.

    Nothing is learned from the particles: both half-sets are drawn from, and no later step reads what is found.

    Parameters
    ----------
    star
        A STAR file, or a .cs with its passthrough files after it.
    preflight_json
        Written, if given: the findings, also where they end the run.
    reference_map
        Any map of the structure in the frame of the poses; used in place of the half-maps.
    half_maps
        The two half-maps of the refinement that the poses are from.
    pixel_size
        Angstrom per px, overriding the table's.
    project_root
        Folder that the stack names start from.
    symmetry
        Point group in RELION's setting.
    count
        Particles drawn.
    largest_box
        Largest box that is reconstructed, px.
    refuse
        End with an error if a finding is one; otherwise warn only.
    seed
        Of the draw.

    Raises
    ------
    CryorestoreError
        If the table or an image cannot be read, or a finding is an error and `refuse` is set.
    """
    paths = [star] if isinstance(star, str | Path) else list(star)
    table = ParticleTable.read(paths, pixel_size=pixel_size, project_root=project_root)
    maps = [reference_map] if reference_map is not None else list(half_maps or ())
    findings = judge_table(table, maps=maps, count=count, symmetry=symmetry, seed=seed, box_size=largest_box)
    if preflight_json is not None:
        write_json(preflight_json, {"findings": [asdict(finding) for finding in findings]})
    print_findings(findings)
    errors = [f"{finding.subject}: {finding.found}; {finding.mend}" for finding in findings if finding.level == "error"]
    if errors and refuse:
        listed = "\n  ".join(errors)
        raise CryorestoreError(
            f"{paths[0]}: the preflight finds an error, mend it before anything costly runs (or set preflight.refuse to false):\n  {listed}"
        )
    for line in errors:
        get_logger().warning("%s: preflight: %s", paths[0], line)
    return findings


def judge_table(
    table: ParticleTable, *, maps: Sequence[str | Path], count: int, symmetry: str, seed: int, box_size: int = LARGEST_BOX
) -> list[Finding]:
    """As `preflight`, for a table that is read already; `maps` is empty, one map or two half-maps."""
    particles = load_small_particles(table, count=count, symmetry=symmetry, seed=seed, box_size=box_size)
    if not particles.posed:
        mend = "refine first, or set input.has_poses to false: then nothing is reconstructed or restored by a map"
        return [judge_contrast(particles, None), Finding("warning", "poses", "no particle has angles, so only the contrast is judged", mend)]
    given = odd_even_agreement(particles)
    poses = judge_poses(particles, given, seed=seed)
    signal = poses.level == "ok"
    findings = [judge_contrast(particles, given), poses, judge_shifts(particles, given, signal=signal), judge_ctf(particles, given, signal=signal)]
    if not maps:
        mend = "give reference_map or half_maps; a reconstruction from mirrored poses or at another scale agrees with itself just as well"
        return [*findings, *(Finding("warning", name, "cannot be told from particles without a map", mend) for name in ("hand", "pixel size"))]
    read = read_given_map(maps)
    hand, fit = judge_hand(given, read, pixel_size=particles.pixel_size)
    findings.append(hand)
    if fit is not None:
        findings.append(judge_pixel_size(given, read, fit, pixel_size=particles.pixel_size, full_pixel_size=particles.full_pixel_size))
    return findings


def judge_contrast(particles: SmallParticles, given: Agreement | None) -> Finding:
    """Look whether particles are brighter than their background, in the images and in their map."""
    excess = _central_excess(particles)
    mean, error = float(excess.mean()), float(excess.std(correction=0)) / math.sqrt(max(1, len(excess) - 1))
    z = mean / max(error, 1e-12)
    density = None if given is None else _central_density(given.map)
    said = f"CTF-corrected images are {'brighter' if z > 0 else 'darker'} in the middle by {abs(z):.1f} standard errors"
    if density is not None:
        said += f"; the map's centre is {'positive' if density > 0 else 'negative'}"
    mend = "particles must be white: invert the contrast (extract.invert_contrast, or input.invert_contrast for a ready stack)"
    if z < -_SIGNIFICANT and (density is None or density < 0):
        return Finding("error", "contrast", said, mend)
    if z > _SIGNIFICANT and (density is None or density > 0):
        return Finding("ok", "contrast", said, "")
    return Finding("warning", "contrast", f"{said}: not clear", "look at class averages or the map; " + mend)


def _central_excess(particles: SmallParticles) -> Tensor:
    """Middle minus rim of each centred image, after multiplication with its CTF."""
    box_size = particles.box_size
    half = torch.fft.rfftfreq(box_size, 1 / box_size)
    full = torch.fft.fftfreq(box_size, 1 / box_size)[:, None]
    shifts = particles.shifts_px[:, :, None, None]
    angle = (2 * torch.pi / box_size) * (shifts[:, 0] * half + shifts[:, 1] * full)
    matched = 1.0 if particles.premultiplied else particles.ctf
    images = to_real(to_fourier(particles.images) * matched * torch.polar(torch.ones_like(angle), angle))
    middle, rim = soft_disc(box_size, 0.25 * box_size, 1.0), 1 - soft_disc(box_size, 0.42 * box_size, 1.0)
    return (images * middle).sum((1, 2)) / middle.sum() - (images * rim).sum((1, 2)) / rim.sum()


def _central_density(volume: Tensor) -> float:
    box_size = volume.shape[-1]
    middle = soft_sphere(box_size, 0.3 * box_size, 1.0)
    rim = soft_sphere(box_size, 0.5 * box_size - 1, 1.0) - soft_sphere(box_size, 0.38 * box_size, 1.0)
    return float((volume * middle).sum() / middle.sum() - (volume * rim).sum() / rim.sum())


def judge_poses(particles: SmallParticles, given: Agreement, *, seed: int) -> Finding:
    """Compare odd and even particles with the same at shuffled poses, and at the poses of other conventions."""
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(particles)))
    shuffled = odd_even_agreement(replace(particles, rotations=particles.rotations[order]))
    finest = 2 * particles.pixel_size
    said = f"odd and even particles agree by {given.area:.3f} (mean FSC to {finest:.1f} angstrom), at shuffled poses by {shuffled.area:.3f}"
    flip = torch.tensor([1.0, -1.0, 1.0])
    readings = {
        "transposed matrices": Reading(
            replace(particles, rotations=particles.rotations.transpose(1, 2).contiguous()), "the angles are of the inverse rotation: convert them"
        ),
        "a reversed y axis": Reading(
            replace(particles, rotations=flip[:, None] * particles.rotations * flip),
            "image rows are in reverse order to the poses (a Y-flip): flip one",
        ),
    }
    gain = given.gain_over(shuffled)
    said += f" ({gain:+.1f} standard errors of the images' correlation with the map that they are not in)"
    if gain > _SIGNIFICANT:
        return _judge("poses", given, readings, particles, said=said, signal=True)
    if len(particles) < FEWEST:
        return Finding("warning", "poses", f"{said}: {len(particles)} particles are too few to tell", "")
    explained = _judge("poses", given, readings, particles, said=said, signal=False)
    if explained.level == "error":
        return explained
    mend = "the poses belong to other images (rows in another order, another stack), or particles are too noisy: raise preflight.count to see which"
    if shuffled.area < _VISIBLE:
        return Finding("warning", "poses", f"{said}: {len(particles)} particles as noisy as these are too few to tell", mend)
    return Finding("error", "poses", f"{said}: the poses carry no signal", mend)


def judge_shifts(particles: SmallParticles, given: Agreement, *, signal: bool = True) -> Finding:
    """Compare origins as given with those of another unit or sign."""
    pixel, shifts = particles.full_pixel_size, particles.shifts_px
    rms = float(shifts.square().mean().sqrt()) * particles.pixel_size
    said = f"origins are {rms:.2f} angstrom rms in x and in y"
    if rms == 0:
        return Finding("ok", "shift units", "all origins are 0: nothing to judge", "")
    readings = {
        "origins in px": Reading(replace(particles, shifts_px=shifts * pixel), f"origins stand in px: multiply them by {pixel:g}"),
        "origins too large": Reading(
            replace(particles, shifts_px=shifts / pixel), f"origins were multiplied by the pixel size twice: divide by {pixel:g}"
        ),
        "the other sign": Reading(replace(particles, shifts_px=-shifts), "origins have the opposite sign: negate them"),
    }
    if abs(pixel - 1) < 0.02:
        readings = {"the other sign": readings["the other sign"]}
    return _judge("shift units", given, readings, particles, said=said, signal=signal)


def judge_ctf(particles: SmallParticles, given: Agreement, *, signal: bool = True) -> Finding:
    """Compare the CTF as given with none, its modulus, and other signs and phases."""
    parameters, ctf = particles.parameters, particles.ctf
    if parameters is None:
        return Finding("warning", "CTF", "the table has no CTF (rlnDefocusU)", "estimate the CTF, or join it by micrograph")
    if particles.premultiplied:
        mend = "perhaps the images are not multiplied by their CTF (or not by its scale and B-factor): then set rlnCtfDataAreCtfPremultiplied to 0"
        readings = {"images that are not premultiplied": Reading(replace(particles, premultiplied=False), mend)}
        finding = _judge("CTF", given, readings, particles, said="taken as premultiplied, as the table says", signal=signal)
        # at low resolution both readings have the same signs: which amplitudes fit better is a hint and no proof
        return replace(finding, level="warning") if finding.level == "error" else finding
    advanced = replace(parameters, phase_shift=parameters.phase_shift + 90)
    reversed_sign = replace(parameters, defocus_u=-parameters.defocus_u, defocus_v=-parameters.defocus_v)
    no_ctf, flipped = torch.ones_like(ctf), ctf.abs()
    readings = {
        "no CTF": Reading(replace(particles, ctf=no_ctf), "the CTF columns do not belong to these images, or the pixel size or voltage is wrong"),
        "phases flipped already": Reading(
            replace(particles, ctf=flipped), "images are phase-flipped or premultiplied: extract without, or set rlnCtfDataAreCtfPremultiplied"
        ),
        "a phase plate": Reading(replace(particles, ctf=particles.ctf_of(advanced)), "a phase shift of about 90 degrees is missing: rlnPhaseShift"),
        "defocus of the other sign": Reading(replace(particles, ctf=particles.ctf_of(reversed_sign)), "defocus must be positive for underfocus"),
    }
    return _judge("CTF", given, readings, particles, said="underfocus positive, amplitude contrast positive", signal=signal)


def _judge(subject: str, given: Agreement, readings: Mapping[str, Reading], particles: SmallParticles, *, said: str, signal: bool) -> Finding:
    """The reading as given must make the images agree best with the map that they are not in, within noise."""
    others = {name: odd_even_agreement(reading.particles) for name, reading in readings.items()}
    gains = {name: other.gain_over(given) for name, other in others.items()}
    best = max(gains, key=lambda name: gains[name])
    listed = ", ".join(f"{other.area:.3f} ({gains[name]:+.1f} standard errors) with {name}" for name, other in others.items())
    said += f"; agreement {given.area:.3f} as given, {listed}"
    if len(particles) < FEWEST:
        return Finding("warning", subject, f"{said}: {len(particles)} particles are too few to tell", "give more particles")
    if gains[best] > _SIGNIFICANT + 1 and others[best].area > given.area:
        return Finding("error", subject, said, readings[best].mend)
    if not signal:
        return Finding("warning", subject, f"{said}: not judged, as the poses carry no signal", "mend the poses first")
    alike = [name for name, gain in gains.items() if gain > -_SIGNIFICANT]
    return Finding("ok", subject, said + (f"; not told apart from {', '.join(alike)} at this resolution" if alike else ""), "")
