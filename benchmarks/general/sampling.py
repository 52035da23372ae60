"""The general restorer at boxes, samplings and modes other than its own, into sampling.json and the table of docs/general.md.

usage: python benchmarks/general/sampling.py [--weights FILE] [--data FOLDER] [--page]

Particles of two structures that the network was never shown, everywhere with the same signal and the same noise per area; beside the general restorer
the Wiener filter with true spectra and the best round mask on the very same images. --page writes the table alone.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import DATA, SEED, weights_hash
from particles import _draw_ctf as draw_ctf
from particles import _power as power_of
from torch import Tensor

from cryorestore.baselines.wiener import wiener_filter
from cryorestore.ctf import ctf_2d
from cryorestore.files import atomic_path, read_json, write_json
from cryorestore.fourier import spread_shells, to_fourier, to_real
from cryorestore.general.method import GeneralMethod
from cryorestore.general.restorer import GeneralRestorer
from cryorestore.general.sampling import WINDOW, WorkingSampling
from cryorestore.geometry import random_rotations
from cryorestore.masks import soft_disc
from cryorestore.molecule import load_molecule, project_molecule
from cryorestore.provenance import code_commit

HERE = Path(__file__).parent
RESULT, PAGE = HERE / "sampling.json", HERE.parents[1] / "docs/general.md"
BEGIN = "<!-- made by benchmarks/general/sampling.py; do not edit -->\n"
END = "<!-- end of what is made -->\n"
STRUCTURES = ("1igt", "1kx5")
COUNT, SNR = 64, 0.05
OWN = 37.0
"""Px across the particle in a box of 64 px that `SNR` is of"""


@dataclass(frozen=True)
class Case:
    """A box (px), the particle's width in it (px), its noise and how it is restored."""

    what: str
    box_size: int
    width: float
    colour: float = 0.0
    """Power of the noise at zero frequency above that of white noise; it falls off to 1/e at 0.15 of Nyquist"""
    whiten: str = "none"
    ctf: bool = True


CASES = (
    Case("the network's own", 64, 37),
    Case("a usual box, finely sampled", 200, 116),
    Case("a large box", 128, 37),
    Case("a tight box", 64, 56),
    Case("a coarse one", 64, 26),
    Case("coarser still", 64, 20),
    Case("a small box", 32, 18),
    Case("defocus not known", 64, 37, ctf=False),
    Case("noise of 4 times the power at low frequency", 64, 37, colour=3.0),
    Case("the same, whitened", 64, 37, colour=3.0, whiten="background"),
    Case("noise of 21 times the power at low frequency", 64, 37, colour=20.0),
    Case("the same, whitened", 64, 37, colour=20.0, whiten="background"),
)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if not options.page:
        torch.set_num_threads(1)
        restorer = GeneralRestorer.load(options.weights, device="cpu")
        rows = [{**asdict(case), **measured(case, restorer, options.data)} for case in CASES]
        settings = {"structures": STRUCTURES, "particles": COUNT, "snr": SNR, "seed": SEED}
        write_json(RESULT, {"settings": settings, "weights": weights_hash(options.weights), "commit": code_commit(), "rows": rows})
    write_table(read_json(RESULT))


def measured(case: Case, restorer: GeneralRestorer, data: Path) -> dict[str, Any]:
    """NMSE of the general restorer and of the Wiener filter, means over the structures."""
    found = [of_structure(case, name, restorer, data) for name in STRUCTURES]
    return {name: float(np.mean([one[name] for one in found])) for name in ("nmse", "wiener")} | {"field_size": found[0]["field_size"]}


def of_structure(case: Case, name: str, restorer: GeneralRestorer, data: Path) -> dict[str, Any]:
    """The same of one structure."""
    molecule = load_molecule(data / f"{name}.cif.gz")
    diameter = 2 * float(np.percentile(np.linalg.norm(molecule.positions, axis=1), 99))
    generator = np.random.default_rng([SEED, 13])
    pixel_size, box_size = diameter / case.width, case.box_size
    rotations, parameters = random_rotations(COUNT, generator), draw_ctf(COUNT, generator)
    ctf = ctf_2d(parameters, box_size=box_size, pixel_size=pixel_size)
    signal = project_molecule(molecule, rotations, np.zeros((COUNT, 2)), box_size=box_size, pixel_size=pixel_size)
    # per area: the sum of squares over the box is that of the network's own sampling, and so is the noise per square angstrom
    area, own_area = box_size**2 * pixel_size**2, 64**2 * (diameter / OWN) ** 2
    clean = to_real(to_fourier(signal) * ctf)
    scale = float(np.sqrt(SNR * own_area / area / float(clean.var((1, 2)).mean())))
    clean, signal = clean * scale, signal * scale
    sigma = diameter / OWN / pixel_size
    white = torch.from_numpy(generator.standard_normal((COUNT, box_size, box_size), dtype=np.float32))
    spectrum = 1 + case.colour * torch.exp(-((torch.arange(box_size // 2 + 1) / (0.15 * box_size / 2)) ** 2))
    noise = to_real(to_fourier(white) * spread_shells(spectrum, box_size).sqrt())
    noise = noise * (sigma / noise.std())
    images = clean + noise
    sampling = WorkingSampling.choose(box_size=box_size, pixel_size=pixel_size, diameter=diameter)
    noise_power = sampling.working_noise_power(spectrum).expand(COUNT, -1) if case.whiten != "none" else None
    window_ctf = ctf_2d(parameters, box_size=WINDOW, pixel_size=sampling.working_pixel_size) if case.ctf else None
    restored = GeneralMethod(restorer, sampling)(images.numpy(), window_ctf, noise_power=noise_power).images
    filtered = wiener_filter(images, ctf, signal_power=power_of(signal), noise_power=power_of(noise))
    widths = np.arange(0.3, 0.9, 0.05) * case.width
    masked = min(nmse(filtered * soft_disc(box_size, width, 0.08 * case.width), clean) for width in widths)
    return {"nmse": nmse(restored, clean), "wiener": masked, "field_size": sampling.field_size}


def nmse(restored: Tensor, clean: Tensor) -> float:
    """Squared error over the variance of the clean images, means of both taken off."""
    error = restored - clean
    error, clean = (each - each.mean((1, 2), keepdim=True) for each in (error, clean))
    return float(error.square().sum() / clean.square().sum())


def write_table(result: dict[str, Any]) -> None:
    """Put the table between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    settings = result["settings"]
    lines = [
        f"{settings['particles']} simulated particles of each of {' and '.join(settings['structures'])}, which the network was never shown, "
        f"everywhere with the same signal and noise per area, that of SNR {settings['snr']:g} at the network's own sampling:",
        "",
        "| particles | box | width | sampled as | NMSE | Wiener filter, true spectra and best mask |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        figures = f"{row['box_size']} px | {row['width']:g} px | {row['field_size']} px | {row['nmse']:.3f} | {row['wiener']:.3f}"
        lines.append(f"| {row['what']} | {figures} |")
    with atomic_path(PAGE) as temporary:
        temporary.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
