"""Files for a deposition at EMDB and EMPIAR, gathered from a data set's results: measured maps as maps, restored ones labelled as such."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path, read_json, write_json
from cryorestore.io.mrc import read_map, write_map
from cryorestore.logs import get_logger
from cryorestore.particles import ParticleTable

RESTORED = "restored"
RULES = """What is what in this folder, and where it belongs.

- emdb/half_map_1.map, half_map_2.map, map.map (their average) and fsc.xml are of the raw particles. EMDB's half-maps and FSC must be these.
- emdb/additional_map_restored.map is of restored particles. It may be deposited as an additional map, with the word "restored" and the
  description in deposition.json. It is no half-map, no primary map, and its half-map FSC is no resolution.
- empiar.json lists image sets: the raw particles, and the restored ones under the name "restored". They stay where they are.
"""


@dataclass(frozen=True)
class ImageSet:
    """A stack as EMPIAR's form asks for it."""

    name: str
    table: Path
    details: str

    def describe(self) -> dict[str, Any]:
        """Its numbers, read from table and header."""
        table = ParticleTable.read(self.table)
        stacks, _, _ = table.image_locations()
        return {
            "name": self.name,
            "category": "picked particles, single frame, processed",
            "data_format": "MRCS",
            "files": [str(path) for path in (*stacks, self.table)],
            "num_images": len(table),
            "image_width": table.box_size,
            "image_height": table.box_size,
            "pixel_width_angstrom": table.pixel_size,
            "pixel_height_angstrom": table.pixel_size,
            "details": self.details,
        }


def prepare_deposition(*, results: Path, out: Path, method: str | None = None) -> None:
    """Gather what EMDB and EMPIAR ask for.

    Parameters
    ----------
    results
        Folder of one data set, such as results/demo.
    out
        Folder that is written; it may not be there yet.
    method
        Whose restored map and particles are listed beside the raw ones; without it, none.

    Raises
    ------
    CryorestoreError
        If `out` is there, or a file of the results is missing.
    """
    if out.exists():
        raise CryorestoreError(f"{out}: is there already, expected a new folder; give another --out, or remove it")
    needed = [results / name for name in ("raw/half1/map.mrc", "raw/half2/map.mrc", "raw/fsc_emdb.xml", "raw/fsc.json", "normalized/particles.star")]
    restored = None if method is None else results / f"restored.{method}"
    if restored is not None:
        needed += [restored / "half1/map.mrc", restored / "half2/map.mrc", restored / "particles.star"]
    missing = [str(path) for path in needed if not path.is_file()]
    if missing:
        raise CryorestoreError(f"{results}: found no {', '.join(missing)}, expected the files of a finished run; run the data set to its end")
    said: dict[str, Any] = {"data_set": results.name, "raw_fsc": read_json(results / "raw/fsc.json")}
    for half in (1, 2):
        _copy(results / f"raw/half{half}/map.mrc", out / f"emdb/half_map_{half}.map")
    _write_average(results / "raw", out / "emdb/map.map")
    _copy(results / "raw/fsc_emdb.xml", out / "emdb/fsc.xml")
    sets = [
        ImageSet("raw particles", results / "normalized/particles.star", "Extracted and normalized: background mean 0 and sigma 1, particles white.")
    ]
    if restored is not None:
        _write_average(restored, out / f"emdb/additional_map_{RESTORED}.map")
        details = f"{RESTORED}: estimated by cryorestore's method {method} from the raw particles; not measured images. CTF still applied."
        said["additional_map"] = {"file": f"additional_map_{RESTORED}.map", "description": f"{RESTORED} map: average of both halves. {details}"}
        sets.append(ImageSet(RESTORED, restored / "particles.star", details))
    write_json(out / "deposition.json", said)
    write_json(out / "empiar.json", {"imagesets": [one.describe() for one in sets]})
    with atomic_path(out / "README.txt") as temporary:
        temporary.write_text(RULES, encoding="utf-8")
    get_logger().info("%s: maps, FSC and %d image sets; README.txt says what belongs where", out, len(sets))


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _write_average(folder: Path, path: Path) -> None:
    """The mean of a folder's half-maps."""
    (one, pixel_size), (other, _) = (read_map(folder / f"half{half}/map.mrc") for half in (1, 2))
    if one.shape != other.shape or pixel_size is None:
        raise CryorestoreError(
            f"{folder}: its half-maps have {one.shape} and {other.shape} voxels and a pixel size of {pixel_size}; reconstruct both again"
        )
    write_map(path, np.float32(0.5) * (one + other), pixel_size=pixel_size)
