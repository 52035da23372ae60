"""Processor seconds a particle and memory of `map-bayes` and `ours` by box: python benchmarks/restoration/sizes.py [--boxes 64 128 256] [--count N].

What it costs does not depend on what the images show or the networks have learned: the map is the demo's, made finer, and the networks (`tiny`)
have their first weights. One core, the whole band of the box, the draws of the configuration. Each box has a process of its own, whose largest memory
counts (so many particles at once, the map's transform, the libraries). Results are kept in sizes.json beside this file; those of other boxes stay.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from halves import POSES, SETTINGS
from simulation import BOX, draw_ctf, true_volume

from cryorestore.conditions import ConditionMaker
from cryorestore.ctf import ctf_2d
from cryorestore.diffusion.denoiser import Denoiser
from cryorestore.diffusion.network import ConditionalUnet, NetworkConfig
from cryorestore.diffusion.process import Frame
from cryorestore.diffusion.schedule import NoiseSchedule
from cryorestore.files import read_json, write_json
from cryorestore.geometry import random_rotations
from cryorestore.molecule import load_molecule
from cryorestore.postprocess import PostprocessConfig, PostProcessor, PostprocessUnet
from cryorestore.provenance import code_commit
from cryorestore.reference import Reference
from cryorestore.restore import Restorer

RESULTS = Path(__file__).with_name("sizes.json")
PIXEL_SIZES = {64: 3.0, 128: 1.5, 256: 1.1}
AT_ONCE = {64: 16, 128: 8, 256: 2}


def main() -> None:
    """Measure each box in a process of its own, or, with --one, the one that is asked for, and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--boxes", type=int, nargs="+", choices=tuple(PIXEL_SIZES), default=list(PIXEL_SIZES))
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--one", action="store_true")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.boxes[0], options.count)))
        return
    rows = {row["box_size"]: row for row in read_json(RESULTS)["rows"]} if RESULTS.exists() else {}
    for box_size in options.boxes:
        command = [sys.executable, __file__, "--one", "--boxes", str(box_size), "--count", str(options.count)]
        row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        rows[box_size] = row | {"commit": code_commit()}
        print(rows[box_size], flush=True)
        write_json(RESULTS, {"rows": [rows[number] for number in sorted(rows)]})


def measure(box_size: int, count: int) -> dict[str, Any]:
    """Seconds a particle of both lanes, and the largest memory of this process, GiB."""
    torch.set_num_threads(1)
    pixel_size, generator = PIXEL_SIZES[box_size], np.random.default_rng(1)
    volume = true_volume(load_molecule("demo"), 1.0)
    if box_size != BOX:
        volume = torch.nn.functional.interpolate(volume[None, None], size=(box_size,) * 3, mode="trilinear")[0, 0]
    ones = torch.ones(box_size // 2 + 1)
    reference = Reference(volume, pixel_size, box_size // 2 - 1, ones, ones, 0.01 * ones, 0.9 * ones, 1.0)
    condition = tuple(SETTINGS["methods"]["ours"]["condition"])
    maker = ConditionMaker(reference, condition, **POSES, posterior_rotations=SETTINGS["posterior"]["rotations"])
    images, rotations = torch.randn(count, box_size, box_size), torch.from_numpy(random_rotations(count, generator)).float()
    ctf, shifts = ctf_2d(draw_ctf(count, generator), box_size=box_size, pixel_size=pixel_size), torch.zeros(count, 2)
    frame, device = Frame(condition, (1.0,) * len(condition), 1.0), torch.device("cpu")
    config, light = NetworkConfig("tiny", len(condition), box_size), PostprocessConfig("tiny", len(condition))
    denoiser = Denoiser(ConditionalUnet(config).eval(), config, "v", NoiseSchedule(), frame, device, "auto")
    postprocessor = PostProcessor(PostprocessUnet(light).eval(), light, frame, 1.0, box_size, device, "auto")
    lanes = {"map-bayes": Restorer(maker, None, None, "none", 0, 1), "ours": Restorer(maker, denoiser, postprocessor, "mean", 1, 1)}
    result: dict[str, Any] = {"box_size": box_size, "pixel_size": pixel_size, "at_once": AT_ONCE[box_size]}
    for name, restorer in lanes.items():
        took = []
        for start in range(0, count, AT_ONCE[box_size]):
            rows = slice(start, start + AT_ONCE[box_size])
            begun = time.process_time()
            with torch.no_grad():
                restorer(images[rows], ctf[rows], rotations[rows], shifts[rows], list(range(count))[rows])
            took.append((time.process_time() - begun) / AT_ONCE[box_size])
        result[name] = round(min(took), 4)  # what is measured or compiled at the first image is no cost of a particle
    result["memory_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return result


if __name__ == "__main__":
    main()
