import numpy as np
import pytest
import torch

from cryorestore.errors import CryorestoreError
from cryorestore.files import read_json
from cryorestore.fsc import fourier_shell_correlation
from cryorestore.geometry import perturb_rotations
from cryorestore.io.mrc import read_map
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct import reconstruct_map
from cryorestore.reconstruct.fusion import fuse_map
from cryorestore.reference import estimate_reference
from helpers import PIXEL, simulate_particles, write_particles

COUNT, NOISE_ONLY = 160, 40
ROTATION, SHIFT = 8.0, 1.0
SPHERE = {"mask_radius": 48.0, "mask_edge": 8.0}


def outputs(folder, name):
    return {kind: folder / f"{name}_{kind}.mrc" for kind in ("map", "map_odd", "map_even")}


def half(folder, *, rotation, shift, noise_only=0):
    """Particles with perturbed poses, the last of them noise; their raw maps and reference."""
    data = simulate_particles(COUNT, sigma=1.0, seed=3)
    generator = np.random.default_rng(4)
    truth = {"rotations": data["rotations"], "shifts": data["shifts"]}
    data["images"][COUNT - noise_only :] -= data["clean"][COUNT - noise_only :]
    data["rotations"] = perturb_rotations(data["rotations"], rotation_error=rotation, generator=generator)
    data["shifts"] = data["shifts"] + generator.standard_normal((COUNT, 2)) * shift / np.sqrt(2)
    star, raw = write_particles(folder, data), outputs(folder, "raw")
    reconstruct_map(star=star, **raw, backend="native")
    learned = {"reference_map": folder / "reference.mrc", "noise_json": folder / "noise.json"}
    estimate_reference(ParticleTable.read(star), **raw, **SPHERE, bg_radius=13, seed=1).write(*learned.values())
    return {"star": star, "raw_map_odd": raw["map_odd"], "raw_map_even": raw["map_even"], **learned}, data["volume"], truth


def fuse(folder, files):
    made = outputs(folder, "fused")
    written = {"mean_pose_star": folder / "mean_pose.star", "figures": folder / "fusion.json"}
    prior = {"rotation_sigma": ROTATION, "shift_sigma": SHIFT * PIXEL, "posterior_rotations": (24, 16, 16)}
    fuse_map(**files, **made, **written, **prior, **SPHERE)
    return made, ParticleTable.read(written["mean_pose_star"]), read_json(written["figures"])


def area(path, truth):
    return float(fourier_shell_correlation(torch.from_numpy(read_map(path)[0]), truth, pixel_size=PIXEL).correlation[1:13].mean())


@pytest.fixture(scope="module")
def perturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("perturbed")
    files, volume, truth = half(folder, rotation=ROTATION, shift=SHIFT, noise_only=NOISE_ONLY)
    return folder, files, volume, truth, *fuse(folder, files)


def test_wrong_poses_are_mended_and_the_map_gains(perturbed):
    folder, files, volume, truth, made, posed, figures = perturbed
    assert figures["width"] == 1.0
    assert area(made["map"], volume) > area(folder / "raw_map.mrc", volume) + 0.01
    real = slice(0, COUNT - NOISE_ONLY)

    def turned(matrices):
        between = np.einsum("nij,nij->n", matrices, truth["rotations"])[real]
        return float(np.degrees(np.arccos(np.clip((between - 1) / 2, -1, 1))).mean())

    assert turned(posed.rotation_matrices()) < 0.8 * turned(ParticleTable.read(files["star"]).rotation_matrices())


def test_what_the_evidence_takes_for_noise_enters_no_map(perturbed):
    *_, posed, figures = perturbed
    accepted = posed.particles.ints("rlnCryorestoreAccepted") == 1
    assert accepted.sum() == figures["accepted"]
    assert accepted[: COUNT - NOISE_ONLY].mean() > 0.95
    assert accepted[COUNT - NOISE_ONLY :].mean() < 0.3


def test_two_runs_give_the_same_bytes(perturbed, tmp_path):
    _, files, _, _, made, *_ = perturbed
    again, *_ = fuse(tmp_path, files)
    assert all(again[kind].read_bytes() == made[kind].read_bytes() for kind in made)


def test_exact_poses_are_found_to_be_better_than_stated(tmp_path):
    files, volume, _ = half(tmp_path, rotation=0.0, shift=0.0)
    made, _, figures = fuse(tmp_path, files)
    assert figures["width"] < 1.0
    assert area(made["map"], volume) > area(tmp_path / "raw_map.mrc", volume) - 0.01


def test_noise_alone_makes_no_map(tmp_path):
    files, *_ = half(tmp_path, rotation=ROTATION, shift=SHIFT)
    data = simulate_particles(COUNT, sigma=1.0, seed=3)
    data["images"] -= data["clean"]
    (tmp_path / "noise").mkdir()
    with pytest.raises(CryorestoreError, match="the evidence takes"):
        fuse(tmp_path, files | {"star": write_particles(tmp_path / "noise", data)})
