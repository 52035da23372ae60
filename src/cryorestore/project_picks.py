"""Micrographs with picks, found in a RELION job or beside a bare table: what the dataset file says of them; no pixel is read."""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryorestore.dataset_file import Entries, Sourced, data_root_entries
from cryorestore.errors import CryorestoreError
from cryorestore.io.locations import find_path
from cryorestore.io.relion import to_relion_31
from cryorestore.io.star import StarBlock, read_star
from cryorestore.pick_files import COORDINATE_SUFFIXES
from cryorestore.project_readers import relion_options

_MICROGRAPH_OPTIONS = ("star_mics", "fn_input_autopick", "fn_in", "fn_in_raw")
"""Options of Extract, AutoPick, ManualPick and Import jobs that name the micrographs' table."""

_MICROGRAPH_TABLES = ("micrographs_ctf.star", "micrographs.star", "micrographs_selected.star", "corrected_micrographs.star")
_BOX_OVER_DIAMETER = 1.5
_PIXEL_SIZES = ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize")


@dataclass(frozen=True)
class Picks:
    """A table of micrographs, and where their picks are."""

    name: str
    root: Path
    """folder that names in the tables start from"""
    micrographs: Sourced
    """path of the micrographs' table"""
    coordinates: Sourced | None
    """pattern of the coordinate files; None where `particles_star` has the coordinates"""
    particles_star: Path | None
    options: dict[str, str]
    """of the job, by RELION 3.1's names"""
    options_source: str


def read_picking_job(folder: str | Path) -> Picks | None:
    """Look at an AutoPick, ManualPick or Import job, or an Extract job whose stacks are gone; None where it has neither picks nor micrographs.

    Raises
    ------
    CryorestoreError
        If the job has picks, but its micrographs' table or the coordinate files that belong to it cannot be found.
    """
    folder = Path(folder).absolute()
    root = folder.parent.parent
    options, source = relion_options(folder)
    particles = folder / "particles.star"
    holders = [holder for holder in (folder, *sorted(path for path in folder.rglob("*") if path.is_dir())) if _coordinate_files(holder)]
    if not particles.is_file() and not any(holder != folder for holder in holders):
        return None
    found = _micrographs_table(folder, root, options, source)
    if found is None:
        if particles.is_file():
            return None
        raise CryorestoreError(
            f"{folder}: found coordinate files in {holders[-1]} and no table of micrographs, expected it in job.star or run.job "
            f"({', '.join(_MICROGRAPH_OPTIONS)}) or in the folder; copy the job whole, or give the micrographs' STAR file instead"
        )
    name = f"{root.name}-{folder.name}"
    if particles.is_file():
        return Picks(name, root, found, None, particles, options, source)
    pattern = _pattern(_names(found.value), holders, table=found.value)
    return Picks(name, root, found, Sourced(pattern, "coordinate files in the job, below data_root"), None, options, source)


def read_bare_micrographs(path: Path) -> Picks | None:
    """Take a STAR file of micrographs whose picks lie beside them, or one of picks without images; None for a table of another kind.

    Raises
    ------
    CryorestoreError
        If the picks of the micrographs, or the micrographs of the picks, are not found.
    """
    if path.suffix != ".star":
        return None
    blocks = read_star(path).blocks
    block = next((block for name, block in blocks.items() if name != "optics" and "rlnMicrographName" in block), None)
    if block is None or "rlnImageName" in block:
        if block is None and any("rlnCoordinateX" in other and "rlnImageName" not in other for other in blocks.values()):
            raise CryorestoreError(f"{path}: found picks that name no micrograph, expected a table of micrographs; give that one")
        return None
    folder = path.parent
    if "rlnCoordinateX" in block:
        beside = next((folder / name for name in _MICROGRAPH_TABLES if (folder / name).is_file()), None)
        if beside is None:
            raise CryorestoreError(
                f"{path}: found picks without images and no table of micrographs beside it, expected one of {', '.join(_MICROGRAPH_TABLES)}; "
                "put it there, or name the job"
            )
        return Picks(folder.name, folder, Sourced(beside, "by its name, beside the table"), None, path, {}, "")
    names = block.column("rlnMicrographName")
    files = [file for name in names if (file := find_path(name, table=path, project_root=None)) is not None]
    holders = sorted({folder, *(file.parent for file in files)})
    pattern = _pattern(names, holders, table=path)
    return Picks(folder.name, folder, Sourced(path, "as given"), Sourced(pattern, "coordinate files beside the micrographs"), None, {}, "")


def _micrographs_table(folder: Path, root: Path, options: dict[str, str], source: str) -> Sourced | None:
    candidates = [(root / options[key], f"{key} in {source}") for key in _MICROGRAPH_OPTIONS if options.get(key, "").endswith(".star")]
    for note in sorted(folder.glob("coords_suffix_*.star")):  # RELION 3.1: one line of text, the table's name
        line = note.read_text(encoding="utf-8", errors="replace").strip()
        candidates.append((root / line, note.name))
    candidates += [(folder / name, "by its name, in the job's folder") for name in _MICROGRAPH_TABLES]
    return next((Sourced(path, said) for path, said in candidates if path.is_file()), None)


def _names(table: Path) -> list[str]:
    rows, _ = to_relion_31(read_star(table), pixel_size=None)
    return rows.column("rlnMicrographName")


def _coordinate_files(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and Path(entry.name).suffix in COORDINATE_SUFFIXES)


def _pattern(names: Iterable[str], holders: Sequence[Path], *, table: Path) -> str:
    """Folder and what stands after the micrograph's stem in the most files, as FOLDER/*REST."""
    stems = sorted({Path(name).stem for name in names}, key=len, reverse=True)
    known = set(stems)
    counts: Counter[str] = Counter()
    for holder in holders:
        for name in _coordinate_files(holder):
            ends = (end for end in range(len(name), 0, -1) if end < len(name) and not name[end].isalnum())
            stem = next((name[:end] for end in ends if name[:end] in known), None)
            if stem is not None:
                counts[str(holder / f"*{name[len(stem) :]}")] += 1
    if not counts:
        looked = ", ".join(str(holder) for holder in holders)
        raise CryorestoreError(
            f"{table}: no coordinate file belongs to its micrographs (looked in {looked}), expected names like {stems[-1] if stems else 'NAME'}"
            "_autopick.star, .box or .txt; put them beside the micrographs, or name the picking job"
        )
    return max(sorted(counts), key=lambda pattern: counts[pattern])


def picks_entries(picks: Picks, *, pixel_size: float | None, particle_diameter: float | None) -> tuple[Entries, list[str], list[str]]:
    """Every value that is known of micrographs and picks, with its source; what is missing; what else a reader should know."""
    table = picks.micrographs.value
    rows, optics = to_relion_31(read_star(table), pixel_size=None)
    names = rows.column("rlnMicrographName")
    absent = [name for name in names if find_path(name, table=table, project_root=picks.root) is None]
    missing = [f"micrographs: {len(absent)} of {len(names)} are not there (first: {absent[0]})"] if absent else []
    base, entries = data_root_entries(picks.root)
    entries["input.kind"] = Sourced("micrographs", "micrographs and picks, no particle images")
    entries["input.micrographs_star"] = Sourced(os.path.relpath(table.resolve(), base), picks.micrographs.source)
    if picks.coordinates is not None:
        pattern = Path(picks.coordinates.value)
        entries["input.coordinates"] = Sourced(os.path.relpath(pattern.parent.resolve() / pattern.name, base), picks.coordinates.source)
    posed = False
    if picks.particles_star is not None:
        entries["input.particles_star"] = Sourced(os.path.relpath(picks.particles_star.resolve(), base), "coordinates of the particles")
        particles, _ = to_relion_31(read_star(picks.particles_star), pixel_size=None)
        posed = "rlnAngleRot" in particles
    size = _pixel_size(optics, table, pixel_size)
    if size is None:
        missing.append("pixel size of the micrographs: give --pixel-size (angstrom)")
    else:
        entries["input.pixel_size"] = size
    entries["input.has_poses"] = Sourced(posed, "the particles have angles" if posed else "picks have no angles")
    if not posed:
        entries["denoisers"] = Sourced([], "no poses, so nothing can be reconstructed or restored")
        missing.append("poses: refine the particles; until then they are only extracted and normalized")
    if "rlnDefocusU" not in rows:
        missing.append(f"CTF (rlnDefocusU) in {table.name}: estimate it")
    entries["extract.invert_contrast"] = _contrast(picks)
    entries |= _sizes(picks, None if size is None else float(size.value), particle_diameter, missing)
    return entries, missing, [f"Made by `cryorestore init` from {table}: {len(names)} micrographs."]


def _pixel_size(optics: StarBlock, table: Path, given: float | None) -> Sourced | None:
    if given is not None:
        return Sourced(given, "--pixel-size")
    name = next((name for name in _PIXEL_SIZES if name in optics), None)
    values = [] if name is None else optics.floats(name).tolist()
    return Sourced(round(values[0], 6), f"{name} of {table.name}, angstrom per px") if values and len(set(values)) == 1 else None


def _contrast(picks: Picks) -> Sourced:
    said = picks.options.get("do_invert", "").lower()
    if said in ("yes", "no"):
        return Sourced(said == "yes", f"do_invert in {picks.options_source}")
    return Sourced("auto", "extraction looks at the boxes")


def _sizes(picks: Picks, pixel_size: float | None, particle_diameter: float | None, missing: list[str]) -> Entries:
    """Box, background circle and mask, from the Extract job's options, or from the particle's diameter."""
    options, source = picks.options, picks.options_source
    entries: Entries = {}
    box = _positive(options.get("extract_size"))
    diameter = Sourced(particle_diameter, "--particle-diameter") if particle_diameter is not None else None
    if diameter is None and (found := _positive(options.get("log_diam_max"))):
        diameter = Sourced(found, f"log_diam_max in {source}")
    if box is not None:
        entries["extract.box_size"] = Sourced(int(box), f"extract_size in {source}, px")
    elif diameter is not None and pixel_size is not None:
        box = 2 * math.ceil(_BOX_OVER_DIAMETER * float(diameter.value) / pixel_size / 2)
        entries["extract.box_size"] = Sourced(int(box), f"{_BOX_OVER_DIAMETER} diameters ({diameter.source}), px")
    else:
        box = 64.0
        missing.append("particle diameter: give --particle-diameter (angstrom); extract.box_size is a default of 64 px and fits nothing")
        entries["extract.box_size"] = Sourced(64, "a default that fits nothing, px")
    scale, scaled = box, pixel_size
    if options.get("do_rescale", "").lower() == "yes" and (rescaled := _positive(options.get("rescale"))):
        scale, scaled = rescaled, None if pixel_size is None else pixel_size * box / rescaled
        entries["extract.scale"] = Sourced(int(scale), f"rescale in {source}, px")
    if diameter is not None and scaled is not None:
        radius, said = float(diameter.value) / 2, f"half the diameter ({diameter.source})"
        entries["normalize.bg_radius"] = Sourced(min(round(radius / scaled), int(0.475 * scale)), f"{said}, px")
    else:
        radius, said = 0.375 * scale * (scaled or 1.0), "a circle of 75 % of the box: a guess"
        entries["normalize.bg_radius"] = Sourced(int(0.375 * scale), f"{said}, px")
    if scaled is not None:
        entries["mask.radius"] = Sourced(math.floor(10 * min(radius, scale * scaled / 2)) / 10, f"{said}, angstrom")
    return entries


def _positive(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d+(\.\d*)?", text) and float(text) > 0 else None
