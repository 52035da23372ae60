"""Small good inputs, and how they are spoiled."""

import json
from pathlib import Path

import numpy as np

from cryorestore.io.mrc import HEADER_BYTES, MrcStackWriter, write_map, write_micrograph
from cryorestore.io.star import StarBlock, write_star

BOX, PIXEL = 16, 1.5


def stack(path: Path, *, count: int = 6, box: int = BOX) -> Path:
    """Images of noise."""
    draw = np.random.default_rng(1)
    with MrcStackWriter(path, count=count, box_size=box, pixel_size=PIXEL) as writer:
        writer.append(draw.standard_normal((count, box, box)).astype(np.float32))
    return path


def table(folder: Path, *, count: int = 6, optics: dict | None = None, particles: dict | None = None, drop: tuple[str, ...] = ()) -> Path:
    """particles.star with stack.mrcs beside it; `optics` and `particles` replace columns, `drop` leaves some out."""
    stack(folder / "stack.mrcs", count=max(count, 1))
    groups = {"rlnOpticsGroup": ["1"], "rlnOpticsGroupName": ["one"], "rlnImagePixelSize": [f"{PIXEL}"], "rlnImageSize": [f"{BOX}"]}
    groups |= {"rlnVoltage": ["300"], "rlnSphericalAberration": ["2.7"], "rlnAmplitudeContrast": ["0.1"], "rlnImageDimensionality": ["2"]}
    rows = {
        "rlnImageName": [f"{number + 1:06d}@stack.mrcs" for number in range(count)],
        **{name: [f"{10 * number}.5" for number in range(count)] for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")},
        **{name: ["0.5"] * count for name in ("rlnOriginXAngst", "rlnOriginYAngst")},
        **{name: ["9000.0"] * count for name in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")},
        "rlnRandomSubset": [str(1 + number % 2) for number in range(count)],
        "rlnOpticsGroup": ["1"] * count,
    }
    blocks = {"optics": groups | (optics or {}), "particles": rows | (particles or {})}
    kept = {name: StarBlock.from_columns({key: cells for key, cells in block.items() if key not in drop}) for name, block in blocks.items()}
    write_star(folder / "particles.star", kept)
    return folder / "particles.star"


def micrographs(folder: Path, picks: str) -> None:
    """mics/a.mrc of 64 px, micrographs.star that names it, and a.box with these lines."""
    write_micrograph(folder / "mics/a.mrc", np.random.default_rng(1).standard_normal((64, 64)), pixel_size=PIXEL)
    write_star(folder / "micrographs.star", {"micrographs": StarBlock.from_columns({"rlnMicrographName": ["mics/a.mrc"]})})
    (folder / "a.box").write_text(picks, encoding="utf-8")


def maps(folder: Path, boxes: tuple[int, int] = (8, 8)) -> None:
    """map1.mrc and map2.mrc."""
    for number, box in enumerate(boxes, 1):
        write_map(folder / f"map{number}.mrc", np.random.default_rng(number).standard_normal((box, box, box)), pixel_size=PIXEL)


def reference(folder: Path) -> None:
    """map1.mrc and noise.json, as if a half had learned them."""
    maps(folder, (BOX, BOX))
    names = ("noise_power", "signal_power", "map_error_power", "fsc_weights")
    content = {"pixel_size": PIXEL, "max_shell": 5, "amplitude": 1.0} | {name: [1.0] * (BOX // 2 + 1) for name in names}
    (folder / "noise.json").write_text(json.dumps(content), encoding="utf-8")


def cryosparc(folder: Path, *, count: int = 3, uids: list[int] | None = None, drop: tuple[str, ...] = (), turn: float = 0.5) -> Path:
    """particles.cs in NumPy's form; `turn` is an element of the second pose."""
    fields = [("uid", "u8"), ("blob/path", "S12"), ("blob/idx", "u4"), ("blob/shape", "u4", (2,)), ("blob/psize_A", "f4")]
    fields += [("alignments3D/pose", "f4", (3,))]
    records = np.zeros(count, [field for field in fields if field[0] not in drop])
    if "uid" not in drop:
        records["uid"] = uids or range(1, count + 1)
    if "blob/path" not in drop:
        records["blob/path"], records["blob/idx"] = b">stack.mrcs", range(count)
    records["blob/psize_A"] = PIXEL
    records["alignments3D/pose"][1, 2] = turn
    with (folder / "particles.cs").open("wb") as handle:
        np.save(handle, records, allow_pickle=False)
    return folder / "particles.cs"


def edit(path: Path, old: str, new: str) -> None:
    """Replace text that stands in a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def put(path: Path, place: int, content: bytes) -> None:
    """Overwrite bytes."""
    whole = bytearray(path.read_bytes())
    whole[place : place + len(content)] = content
    path.write_bytes(bytes(whole))


def pixel(path: Path, image: int, value: float, *, box: int = BOX) -> None:
    """Set the first pixel of an image (from 1) of a stack of float32."""
    put(path, HEADER_BYTES + 4 * box * box * (image - 1), np.float32(value).tobytes())
