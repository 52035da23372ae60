"""A small asymmetric map, particles of it, and half-sets that learned from such particles, for the tests of what needs poses."""

import numpy as np
import torch

from cryorestore.ctf import CtfParameters, ctf_2d
from cryorestore.general.network import GeneralNetwork
from cryorestore.general.weights import save_general
from cryorestore.geometry import matrices_to_euler, random_rotations
from cryorestore.io.mrc import MrcStackWriter
from cryorestore.io.star import StarBlock, write_star
from cryorestore.pairs import make_training_pairs
from cryorestore.project import FourierVolume
from cryorestore.reconstruct import reconstruct_map

BOX, PIXEL = 32, 4.0
POSES = {"rotation_sigma": 3.0, "shift_sigma": 2.0, "posterior_rotations": (48, 32, 32)}


def blob_map(seed=0, box=BOX):
    """Twelve Gaussian blobs inside a quarter of the box: smooth, asymmetric, zero at the edge."""
    generator = np.random.default_rng(seed)
    z, y, x = np.mgrid[:box, :box, :box] - box // 2
    volume = np.zeros((box, box, box), np.float32)
    for _ in range(12):
        cz, cy, cx = generator.uniform(-box / 5, box / 5, 3)
        volume += generator.uniform(0.5, 1.5) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * 1.6**2))
    return torch.from_numpy(volume)


def ctf_parameters(count, generator):
    defocus, ones = generator.uniform(8e3, 2e4, count), np.ones(count)
    return CtfParameters(defocus, defocus - 300, 30 * ones, 300 * ones, 2.7 * ones, 0.1 * ones, 0 * ones, 0 * ones, ones)


def simulate_particles(count, *, sigma, seed=1, volume=None, shift=1.5):
    """Images with noise of deviation `sigma`, and all that made them."""
    generator = np.random.default_rng(seed)
    volume = blob_map() if volume is None else volume
    rotations, shifts = random_rotations(count, generator), generator.uniform(-shift, shift, (count, 2))
    parameters = ctf_parameters(count, generator)
    slicer = FourierVolume(volume, max_shell=BOX // 2 - 1)
    coefficients = slicer.coefficients
    ctf = ctf_2d(parameters, box_size=BOX, pixel_size=PIXEL)
    slices = slicer.slices(torch.from_numpy(rotations).float()) * coefficients.select(ctf)
    clean = coefficients.to_images(slices * coefficients.shift_phases(torch.from_numpy(shifts).float()))
    noise = torch.from_numpy(generator.standard_normal((count, BOX, BOX)).astype(np.float32)) * sigma
    return {"rotations": rotations, "shifts": shifts, "parameters": parameters, "ctf": ctf, "clean": clean, "images": clean + noise, "volume": volume}


def write_particles(folder, data, *, extra=None):
    """Write `data` as a stack and a RELION 3.1 table; `extra` adds columns."""
    count = len(data["images"])
    stack, star = folder / "particles.mrcs", folder / "particles.star"
    with MrcStackWriter(stack, count=count, box_size=BOX, pixel_size=PIXEL) as writer:
        writer.append(data["images"].numpy())
    angles, origins, parameters = matrices_to_euler(data["rotations"]), -PIXEL * data["shifts"], data["parameters"]
    optics = {
        "rlnOpticsGroup": np.array([1]),
        "rlnOpticsGroupName": ["one"],
        "rlnImagePixelSize": np.array([PIXEL]),
        "rlnImageSize": np.array([BOX]),
        "rlnImageDimensionality": np.array([2]),
        "rlnVoltage": np.array([300.0]),
        "rlnSphericalAberration": np.array([2.7]),
        "rlnAmplitudeContrast": np.array([0.1]),
    }
    particles = {
        "rlnImageName": [f"{number + 1:06d}@{stack}" for number in range(count)],
        "rlnAngleRot": angles[:, 0],
        "rlnAngleTilt": angles[:, 1],
        "rlnAnglePsi": angles[:, 2],
        "rlnOriginXAngst": origins[:, 0],
        "rlnOriginYAngst": origins[:, 1],
        "rlnDefocusU": parameters.defocus_u,
        "rlnDefocusV": parameters.defocus_v,
        "rlnDefocusAngle": parameters.defocus_angle,
        "rlnPhaseShift": parameters.phase_shift,
        "rlnOpticsGroup": np.ones(count, int),
    } | (extra or {})
    write_star(star, {"optics": StarBlock.from_columns(optics), "particles": StarBlock.from_columns(particles)})
    return star


def prepare_half(folder, seed, *, count=120):
    """One half: particles (the last ten are noise only), its maps, its reference."""
    folder.mkdir()
    data = simulate_particles(count, sigma=1.5, seed=seed)
    data["images"][-10:] -= data["clean"][-10:]
    extra = {"rlnCryorestoreRow": np.arange(count) * 2 + seed % 2, "rlnMicrographName": [f"mic{row % 7}.mrc" for row in range(count)]}
    star = write_particles(folder, data, extra=extra)
    maps = {name: folder / f"{name}.mrc" for name in ("map", "map_odd", "map_even")}
    reconstruct_map(star=star, **maps, backend="native")
    reference = {"reference_map": folder / "reference.mrc", "noise_json": folder / "noise.json"}
    options = {"mask_radius": 50.0, "mask_edge": 8.0, "bg_radius": 12.0, "count": 60}
    make_training_pairs(star=star, **maps, pairs=folder / "pairs.safetensors", **reference, **options, **POSES)
    return {"folder": folder, "star": star, "data": data, "maps": maps, "reference": reference}


GENERAL_CARD = {"parameters": {"ranges": {"empty": 0.5}}}
"""As many empty boxes as particles in training: the evidence is the network's own"""


def write_narrow_weights(folder):
    """Weights of a narrow general network that has learned nothing."""
    torch.manual_seed(1)
    network = GeneralNetwork((8, 8, 8, 8))
    torch.nn.init.normal_(network.mean.weight, std=0.01)
    path = folder / "narrow.safetensors"
    save_general(path, network.state_dict(), {"widths": [8, 8, 8, 8], "fingerprint": "narrow"} | GENERAL_CARD)
    return path
