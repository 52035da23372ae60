"""Micrographs with a known answer: particles of two conformers, structural noise, CTF, shot noise, picks that miss, poses that err, junk.

Order (Baxter et al. 2009): projection -> structural noise -> CTF -> shot noise; then dark particles on counts, as a camera gives them.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryorestore.ctf import CtfParameters
from cryorestore.exposure import Scene, draw_objects, draw_scene, expose, grid_cells, mean_variance
from cryorestore.geometry import Matrices, matrices_to_euler, perturb_rotations, random_rotations
from cryorestore.io.binding import IMAGE_HASH
from cryorestore.io.mrc import MrcStackWriter, write_map, write_micrograph
from cryorestore.io.star import StarBlock, write_star
from cryorestore.logs import get_logger, progress
from cryorestore.molecule import Molecule, load_molecule, molecule_volume, project_molecule, turn_chain

OFFSET = 1000.0
"""counts of an empty micrograph"""
SIGNAL_COUNTS = 30.0
"""sigma, in counts, of an average projection before the CTF"""
Columns = dict[str, list[str]]


def simulate_micrographs(
    *,
    molecule: str,
    micrographs_star: str | Path,
    coordinates_dir: str | Path,
    particles_star: str | Path,
    truth_star: str | Path,
    truth_stack: str | Path,
    truth_map: str | Path,
    noise_stack: str | Path | None = None,
    count: int,
    per_micrograph: int,
    box_size: int,
    pixel_size: float,
    micrograph_size: int,
    snr_structural: float,
    snr_shot: float,
    voltage: float,
    spherical_aberration: float,
    amplitude_contrast: float,
    defocus_range: Sequence[float],
    conformer_fraction: float,
    conformer_chain: str,
    conformer_angle: float,
    pick_error_px: float,
    rotation_error: float,
    shift_error: float,
    junk_fraction: float,
    seed: int,
) -> None:
    """Simulate `count` micrographs with `per_micrograph` picks each, and the truth of every pick.

    Parameters
    ----------
    molecule
        "demo" (PDB 7PBL) or the path of a PDB or mmCIF file.
    micrographs_star, coordinates_dir, particles_star
        Written: the micrographs (in `micrographs/` beside it) with their CTF; one `<stem>_picks.star` a micrograph; one row a pick with
        CTF and the perturbed pose.
    truth_star, truth_stack, truth_map
        Written: the same rows with true poses and `rlnClassNumber` (1, 2 conformer; 0 junk); the clean, CTF-applied, white image of each
        in the pick's box (zeros where there is nothing); the conformers' average, one sum along an axis of which is a projection's grey scale.
    noise_stack
        Written where given: the structural noise with its CTF in each pick's box.
    pixel_size, defocus_range
        Angstrom.
    snr_structural
        var(projection) / var(structural noise), before the CTF, over the whole box, mean of a micrograph's particles.
    snr_shot
        var(CTF x projection) / var(shot noise), over the whole box, mean of a micrograph's particles. Infinity leaves a noise out.
    conformer_fraction, conformer_chain, conformer_angle
        Share of the particles whose chain is turned by so many degrees.
    pick_error_px
        Picks are whole pixels, off by at most this along each axis (0: rounding alone).
    rotation_error, shift_error
        Rms of the written poses' errors, in all: degrees and px.
    junk_fraction
        Share of the picks that are no particle, half of them empty, half contaminants.

    Raises
    ------
    CryorestoreError
        If the molecule does not fit the box or the particles do not fit the micrograph.
    """
    first = load_molecule(molecule)
    second = turn_chain(first, chain=conformer_chain, angle=conformer_angle) if conformer_fraction > 0 else first
    diameter_px = max(first.diameter, second.diameter) / pixel_size
    cells = grid_cells(per_micrograph, diameter_px=diameter_px, box_size=box_size, micrograph_size=micrograph_size, pick_error_px=pick_error_px)
    gain = _gain(first, box_size=box_size, pixel_size=pixel_size)
    tables = _Tables(pixel_size, rotation_error, shift_error)
    ratios: list[float] = []
    with ExitStack() as stack:
        writers = [
            stack.enter_context(MrcStackWriter(path, count=count * per_micrograph, box_size=box_size, pixel_size=pixel_size))
            for path in (truth_stack, noise_stack)
            if path is not None
        ]
        for number in progress(range(count), description="simulate micrographs"):
            generator = np.random.default_rng([seed, number])
            scene = draw_scene(
                cells,
                _draw_ctf(generator, defocus_range, voltage, spherical_aberration, amplitude_contrast),
                per_micrograph,
                conformer_fraction=conformer_fraction,
                junk_fraction=junk_fraction,
                pick_error_px=pick_error_px,
                generator=generator,
            )
            exposure = expose(
                scene,
                gain * draw_objects(scene, (first, second), box_size=box_size, pixel_size=pixel_size, generator=generator),
                micrograph_size=micrograph_size,
                pixel_size=pixel_size,
                snr_structural=snr_structural,
                snr_shot=snr_shot,
                generator=generator,
            )
            name = f"micrographs/mic_{number + 1:04d}.mrc"
            write_micrograph(Path(micrographs_star).parent / name, (OFFSET - exposure.micrograph).numpy(), pixel_size=pixel_size)
            for writer, images in zip(writers, (exposure.clean, exposure.structural), strict=False):
                writer.append(images.numpy())
            picks = tables.add(name, scene, generator)
            write_star(Path(coordinates_dir) / f"{Path(name).stem}_picks.star", {"": picks})
            ratios.append(exposure.effective_snr)
    shares = ((first, 1 - conformer_fraction), (second, conformer_fraction))
    volumes = [share * gain * molecule_volume(conformer, box_size=box_size, pixel_size=pixel_size) for conformer, share in shares if share > 0]
    write_map(truth_map, torch.stack(volumes).sum(0).numpy(), pixel_size=pixel_size)
    optics = _optics(box_size, pixel_size, voltage, spherical_aberration, amplitude_contrast)
    tables.write(optics, micrographs_star=micrographs_star, particles_star=particles_star, truth_star=truth_star, truth_images=writers[0])
    get_logger().info(
        "simulated %d micrographs with %d picks; SNR %g structural (before the CTF), %g shot (after it), %.4f effective (all noise, after the CTF)",
        count,
        count * per_micrograph,
        snr_structural,
        snr_shot,
        float(np.mean(ratios)),
    )


@dataclass
class _Tables:
    """Rows of the written tables, gathered a micrograph at a time."""

    pixel_size: float
    rotation_error: float
    shift_error: float
    micrographs: list[Columns] = field(default_factory=list)
    particles: list[Columns] = field(default_factory=list)
    truths: list[Columns] = field(default_factory=list)

    def add(self, name: str, scene: Scene, generator: np.random.Generator) -> StarBlock:
        """Note one micrograph; returns its picks."""
        count = len(scene.kinds)
        coordinates = {f"rlnCoordinate{axis}": [f"{value:.1f}" for value in column] for axis, column in zip("XY", scene.picks.T, strict=True)}
        shared = {"rlnMicrographName": [name] * count, **coordinates, "rlnOpticsGroup": ["1"] * count, **_ctf_columns(scene.ctf, count)}
        matrices = perturb_rotations(scene.rotation_matrices, rotation_error=self.rotation_error, generator=generator)
        shifts = generator.standard_normal((count, 2)) * self.shift_error / np.sqrt(2.0)
        origins = scene.picks - scene.centres
        classes = {"rlnClassNumber": [str(max(kind, 0)) for kind in scene.kinds.tolist()]}
        self.micrographs.append({"rlnMicrographName": [name], "rlnOpticsGroup": ["1"], **_ctf_columns(scene.ctf, 1)})
        self.particles.append(shared | _pose_columns(matrices, (origins + shifts) * self.pixel_size))
        self.truths.append(shared | _pose_columns(scene.rotation_matrices, origins * self.pixel_size) | classes)
        return StarBlock.from_columns(coordinates)

    def write(
        self, optics: StarBlock, *, micrographs_star: str | Path, particles_star: str | Path, truth_star: str | Path, truth_images: MrcStackWriter
    ) -> None:
        """Write the three tables."""
        truths = _joined(self.truths)
        images = [f"{row:06d}@{truth_images.path.as_posix()}" for row in range(1, truth_images.written + 1)]
        bound = {"rlnImageName": images, IMAGE_HASH: truth_images.hashes}
        write_star(truth_star, {"optics": optics, "particles": StarBlock.from_columns(bound | truths)})
        write_star(particles_star, {"optics": optics, "particles": StarBlock.from_columns(_joined(self.particles))})
        microscope = optics.without_columns(("rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality"))
        write_star(micrographs_star, {"optics": microscope, "micrographs": StarBlock.from_columns(_joined(self.micrographs))})


def _gain(molecule: Molecule, *, box_size: int, pixel_size: float) -> float:
    """Counts per unit of charge, so that projections have `SIGNAL_COUNTS` on average: one for the whole data set."""
    views = random_rotations(32, np.random.default_rng(0))
    images = project_molecule(molecule, views, np.zeros((32, 2)), box_size=box_size, pixel_size=pixel_size)
    return SIGNAL_COUNTS / float(np.sqrt(mean_variance(images)))


def _draw_ctf(
    generator: np.random.Generator, defocus_range: Sequence[float], voltage: float, spherical_aberration: float, amplitude_contrast: float
) -> CtfParameters:
    """One micrograph's CTF: a uniform defocus, up to 2 % astigmatism."""
    u = round(generator.uniform(defocus_range[0], defocus_range[1]), 2)
    v, angle = round(u * generator.uniform(0.98, 1.0), 2), round(generator.uniform(-90.0, 90.0), 2)
    values = (u, v, angle, voltage, spherical_aberration, amplitude_contrast, 0.0, 0.0, 1.0)
    return CtfParameters(*(np.array([value], float) for value in values))


def _optics(box_size: int, pixel_size: float, voltage: float, spherical_aberration: float, amplitude_contrast: float) -> StarBlock:
    values = {
        "rlnOpticsGroupName": "opticsGroup1",
        "rlnOpticsGroup": 1,
        "rlnMicrographPixelSize": pixel_size,
        "rlnMicrographOriginalPixelSize": pixel_size,
        "rlnVoltage": voltage,
        "rlnSphericalAberration": spherical_aberration,
        "rlnAmplitudeContrast": amplitude_contrast,
        "rlnImagePixelSize": pixel_size,
        "rlnImageSize": box_size,
        "rlnImageDimensionality": 2,
    }
    return StarBlock.from_columns({name: [str(value)] for name, value in values.items()})


def _ctf_columns(ctf: CtfParameters, count: int) -> Columns:
    values = {"U": ctf.defocus_u, "V": ctf.defocus_v, "Angle": ctf.defocus_angle}
    return {f"rlnDefocus{name}": [f"{value[0]:.2f}"] * count for name, value in values.items()} | {"rlnPhaseShift": ["0.0"] * count}


def _pose_columns(rotation_matrices: Matrices, origins: NDArray[np.float64]) -> Columns:
    angles = matrices_to_euler(rotation_matrices)
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")
    return {name: [f"{value:.6f}" for value in column] for name, column in zip(names, np.concatenate([angles, origins], 1).T, strict=True)}


def _joined(parts: list[Columns]) -> Columns:
    return {name: [cell for part in parts for cell in part[name]] for name in parts[0]}
