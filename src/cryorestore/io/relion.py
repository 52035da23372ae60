"""RELION's older and newer tables brought into one form, that of version 3.1."""

import numpy as np

from cryorestore.errors import CryorestoreError
from cryorestore.io.star import Cells, StarBlock, StarFile

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
PREMULTIPLIED = "rlnCtfDataAreCtfPremultiplied"
_ABERRATION_COLUMNS = (
    *("rlnBeamTiltX", "rlnBeamTiltY", "rlnOddZernike", "rlnEvenZernike"),
    *("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11"),
)
_NEUTRAL = {"rlnMagMat00": 1.0, "rlnMagMat11": 1.0}
_OPTICS_COLUMNS = (
    *("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImagePixelSize", "rlnMicrographPixelSize"),
    *("rlnMicrographOriginalPixelSize", "rlnImageSize", "rlnImageDimensionality", PREMULTIPLIED),
    *_ABERRATION_COLUMNS,
    "rlnMtfFileName",
)
_DETECTOR_COLUMNS = ("rlnDetectorPixelSize", "rlnMagnification")
_PIXEL_ORIGINS = {
    "rlnOriginX": "rlnOriginXAngst",
    "rlnOriginY": "rlnOriginYAngst",
    "rlnOriginXPrior": "rlnOriginXPriorAngst",
    "rlnOriginYPrior": "rlnOriginYPriorAngst",
}


def to_relion_31(file: StarFile, *, pixel_size: float | None) -> tuple[StarBlock, StarBlock]:
    """Return the particles and the optics table of a file of RELION 3.0, 3.1 or 5, units as in 3.1.

    `pixel_size` (angstrom) replaces the file's. Cells that need no conversion keep their text.

    Raises
    ------
    CryorestoreError
        If there is not one table of particles, or origins in pixels cannot be converted for want of a pixel size.
    """
    particles = _particle_block(file)
    optics = file.blocks.get("optics")
    if optics is None:
        particles, optics = _make_optics(particles)
    elif "rlnOpticsGroup" not in particles:
        if len(optics) != 1:
            raise CryorestoreError(
                f"{particles.source}: column _rlnOpticsGroup is missing, expected it, as data_optics has {len(optics)} groups; add it"
            )
        particles = particles.with_columns({"rlnOpticsGroup": optics.column("rlnOpticsGroup") * len(particles)})
    if pixel_size is not None:
        optics = optics.with_columns({"rlnImagePixelSize": np.full(len(optics), float(pixel_size))})
    particles = _origins_to_angstrom(particles, optics)
    if "rlnDefocusU" in particles and "rlnPhaseShift" not in particles:
        particles = particles.with_columns({"rlnPhaseShift": np.zeros(len(particles))})
    return particles, optics


def _particle_block(file: StarFile) -> StarBlock:
    tables = {name: block for name, block in file.blocks.items() if name not in ("optics", "general")}
    if "particles" in tables:
        return tables["particles"]
    with_images = [block for block in tables.values() if "rlnImageName" in block]
    candidates = with_images or list(tables.values())
    if len(candidates) != 1:
        found = ", ".join(f"data_{name}" for name in file.blocks)
        raise CryorestoreError(f"{file.path}: found the tables {found}, expected data_particles or one table of particles; name it so")
    return candidates[0]


def _make_optics(particles: StarBlock) -> tuple[StarBlock, StarBlock]:
    """Gather equal microscope values into optics groups, numbered in order of appearance, and take those columns out of the particles."""
    moved = [name for name in (*_OPTICS_COLUMNS, *_DETECTOR_COLUMNS, "rlnOpticsGroup") if name in particles]
    kinds: dict[tuple[str, ...], int] = {}
    rows = zip(*(particles.column(name) for name in moved), strict=True) if moved else iter([()] * len(particles))
    groups = [kinds.setdefault(kind, len(kinds) + 1) for kind in rows]
    if not moved:
        kinds[()] = 1
    numbers = np.arange(1, len(kinds) + 1)
    columns: dict[str, Cells] = {"rlnOpticsGroupName": [f"opticsGroup{number}" for number in numbers], "rlnOpticsGroup": numbers}
    columns |= {name: [kind[place] for kind in kinds] for place, name in enumerate(moved) if name != "rlnOpticsGroup"}
    optics = StarBlock.from_columns(columns, source=f"{particles.source} (its optics)")
    if all(name in optics for name in _DETECTOR_COLUMNS) and "rlnImagePixelSize" not in optics:
        optics = optics.with_columns({"rlnImagePixelSize": _detector_pixel_size(optics)})
    optics = optics.without_columns(_DETECTOR_COLUMNS)
    particles = particles.without_columns(moved).with_columns({"rlnOpticsGroup": np.array(groups, np.int64)})
    return particles, optics


def _detector_pixel_size(optics: StarBlock) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """1e4 rlnDetectorPixelSize (micrometres) / rlnMagnification, angstrom."""
    detector, magnification = (optics.floats(name) for name in _DETECTOR_COLUMNS)
    if not (magnification > 0).all():
        raise CryorestoreError(
            f"{optics.source}: found rlnMagnification {magnification.tolist()}, expected positive numbers; mend it or set pixel_size"
        )
    return 1e4 * detector / magnification


def _origins_to_angstrom(particles: StarBlock, optics: StarBlock) -> StarBlock:
    old = [name for name, new in _PIXEL_ORIGINS.items() if name in particles and new not in particles]
    if not old:
        return particles
    if "rlnImagePixelSize" not in optics:
        raise CryorestoreError(f"{particles.source}: origins are in pixels and there is no pixel size to convert them; set pixel_size (angstrom)")
    pixel_of = dict(zip(optics.ints("rlnOpticsGroup").tolist(), optics.floats("rlnImagePixelSize").tolist(), strict=True))
    pixels = np.array([pixel_of.get(group, np.nan) for group in particles.ints("rlnOpticsGroup").tolist()])
    converted = {_PIXEL_ORIGINS[name]: particles.floats(name) * pixels for name in old}
    return particles.without_columns(old).with_columns(converted)


def unmodelled_columns(*blocks: StarBlock) -> list[str]:
    """Columns of aberrations with a value other than "none" in any of the tables; the CTF here models none of them."""
    return [name for name in _ABERRATION_COLUMNS if any(name in block and _is_set(name, set(block.column(name))) for block in blocks)]


def _is_set(name: str, cells: set[str]) -> bool:
    numbers = [float(number) for cell in cells for number in cell.strip("[]").split(",") if number.strip()]
    return any(number != _NEUTRAL.get(name, 0.0) for number in numbers)
