"""One good file, or several, of every kind that the project reads."""

import json
import shutil
from pathlib import Path

import numpy as np
import tifffile
import torch

from cryorestore.checkpoint import save_checkpoint, save_weights
from cryorestore.config.paths import PROJECT_ROOT
from cryorestore.diffusion.network import ConditionalUnet, NetworkConfig
from cryorestore.io.mrc import MrcStackWriter, write_map, write_micrograph
from cryorestore.io.star import StarBlock, write_star
from cryorestore.particles import ParticleTable
from cryorestore.particles_cs import write_particles_cs

COUNT, BOX, PIXEL = 5, 16, 1.5

RELION_30 = """
data_

loop_
_rlnImageName #1
_rlnDetectorPixelSize #2
_rlnMagnification #3
_rlnOriginX #4
_rlnOriginY #5
_rlnVoltage #6
_rlnSphericalAberration #7
_rlnAmplitudeContrast #8
_rlnDefocusU #9
000001@stack.mrcs 14.000 31818.0 3.0 -1.5 300.0 2.7 0.1 10000.0
000002@stack.mrcs 14.000 31818.0 3.0 -1.5 300.0 2.7 0.1 '10000.0'
"""
DATASET = """
input: {kind: star, particles_star: "a b.star", pixel_size: 1.5, box_size: 64, has_poses: true}
normalize:
  bg_radius: 24
mask: {radius: 40.0, edge: 5.0}
methods:
  mine: &mine
    network: diffusion
    condition: [noisy, mean]
    prediction: v
    sampler: ddim
    sampler_steps: 10
    samples: 2
    postprocess: false
"""
TABLE = "dataset\tlike\tinput.particles_star\tnormalize.bg_radius\none\tmine\ta.star\t20\ntwo\tmine\tb.star\t\n"
PDB = "".join(
    f"ATOM  {number:5d}  CA  ALA A{number:4d}    {number:8.3f}{2 * number:8.3f}{number % 3:8.3f}  1.00 20.00           C\n" for number in range(1, 9)
)


def write_samples(folder: Path) -> dict[str, list[Path]]:
    """Write the samples and say which are of which kind; tables name the stack beside them."""
    draw = np.random.default_rng(1)
    with MrcStackWriter(folder / "stack.mrcs", count=COUNT, box_size=BOX, pixel_size=PIXEL) as writer:
        writer.append(draw.standard_normal((COUNT, BOX, BOX)).astype(np.float32))
    write_map(folder / "map.mrc", draw.standard_normal((8, 8, 8)), pixel_size=PIXEL)
    write_micrograph(folder / "micrograph.mrc", draw.standard_normal((24, 32)), pixel_size=PIXEL)
    grey = draw.integers(0, 2000, (24, 32)).astype(np.uint16)
    tifffile.imwrite(folder / "plain.tif", grey)
    tifffile.imwrite(folder / "packed.tif", grey, compression="lzw")
    _particle_tables(folder)
    picks = {"rlnCoordinateX": np.arange(1.0, 4.0), "rlnCoordinateY": np.arange(2.0, 5.0), "rlnAutopickFigureOfMerit": np.ones(3)}
    write_star(folder / "picks.star", {"": StarBlock.from_columns(picks)})
    texts = {"picks.box": "1\t2\t16\t16\n-5\t7\t16\t16\n", "picks.txt": "x y\n10.5 20\n30,40\n", "molecule.pdb": PDB}
    texts |= {"dataset.yaml": DATASET, "table.tsv": TABLE, "state.json": json.dumps({"a": [1, 2.5, None], "b": {"c": "d"}})}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in ("config/schemas", "config/datasets"):
        (folder / name).mkdir(parents=True)
    shutil.copy(PROJECT_ROOT / "config/config.yaml", folder / "config")
    shutil.copy(PROJECT_ROOT / "config/schemas/config.schema.yaml", folder / "config/schemas")
    _checkpoints(folder)
    kinds = {
        "mrc": ["stack.mrcs", "map.mrc", "micrograph.mrc"],
        "tiff": ["plain.tif", "packed.tif"],
        "star": ["particles.star", "relion30.star"],
        "cryosparc": ["particles.cs", "csdat.cs"],
        "coordinates": ["picks.star", "picks.box", "picks.txt"],
        "configuration": ["dataset.yaml", "table.tsv", "state.json"],
        "molecule": ["molecule.pdb"],
        "checkpoint": ["weights.safetensors", "checkpoint.safetensors", "weights.json"],
    }
    return {kind: [folder / name for name in names] for kind, names in kinds.items()}


def _particle_tables(folder: Path) -> None:
    from cryosparc.dataset import CSDAT_FORMAT, Dataset

    optics = {"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["one"], "rlnImagePixelSize": [PIXEL], "rlnImageSize": [BOX], "rlnVoltage": [300.0]}
    optics |= {"rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1], "rlnMicrographPixelSize": [PIXEL]}
    columns = {
        "rlnImageName": [f"{number + 1:06d}@stack.mrcs" for number in range(COUNT)],
        "rlnMicrographName": ["mics/a b.mrc"] * COUNT,
        **{name: np.linspace(1, 90, COUNT) for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnCoordinateX", "rlnCoordinateY")},
        **{name: np.linspace(-2, 2, COUNT) for name in ("rlnOriginXAngst", "rlnOriginYAngst")},
        **{name: np.linspace(9000, 9900, COUNT) for name in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")},
        "rlnRandomSubset": [1, 2, 1, 2, 1],
        "rlnOpticsGroup": [1] * COUNT,
    }
    blocks = {"optics": StarBlock.from_columns(optics), "particles": StarBlock.from_columns(columns)}
    write_star(folder / "particles.star", blocks)
    (folder / "relion30.star").write_text(RELION_30, encoding="utf-8")
    write_particles_cs(folder / "particles.cs", ParticleTable.read(folder / "particles.star"))
    Dataset.load(folder / "particles.cs").save(folder / "csdat.cs", format=CSDAT_FORMAT)


def _checkpoints(folder: Path) -> None:
    network = NetworkConfig(size="tiny", condition_channels=2, box_size=16)
    weights = ConditionalUnet(network).state_dict()
    first = dict(list(weights.items())[:4])
    frame = {"condition": ["noisy"], "scale": 1.0}
    save_weights(folder / "weights.safetensors", first, {"kind": "diffusion", "fingerprint": "f", "frame": frame})
    save_checkpoint(folder / "checkpoint.safetensors", {"current/a": torch.zeros(3)}, {"key": "k", "progress": {"step": 3}})
