"""Real particles with poses that RELION refined: conventions, hand, symmetry and the half-map FSC, beside relion_reconstruct."""

import shutil

import pytest
import torch

from cryorestore.extract import extract_particles
from cryorestore.fsc import fourier_shell_correlation
from cryorestore.io.mrc import read_map
from cryorestore.masks import soft_sphere
from cryorestore.normalize import normalize_particles
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct import reconstruct_map
from cryorestore.split import split_particles

pytestmark = pytest.mark.slow
relion = [pytest.mark.relion, pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="relion_reconstruct is not installed")]


def half_maps(folder, stars, backend, symmetry):
    maps = []
    for number, star in enumerate(stars, start=1):
        outputs = {name: folder / f"{backend}_{name}_{number}.mrc" for name in ("map", "map_odd", "map_even")}
        reconstruct_map(star=star, **outputs, backend=backend, symmetry=symmetry)
        maps.append(torch.from_numpy(read_map(outputs["map"])[0]))
    return maps


@pytest.fixture(scope="module")
def apoferritin(data_root, tmp_path_factory):
    """Micrographs to half-sets as the shipped configuration does it: 144 px scaled to 72 px of 3 A."""
    source, folder = data_root / "apoferritin-empiar10146", tmp_path_factory.mktemp("apoferritin")
    extract_particles(
        micrographs_star=source / "micrographs.star",
        coordinates=source / "micrographs",
        particles_star=source / "particles_with_poses.star",
        stack=folder / "extracted.mrcs",
        star=folder / "extracted.star",
        rejects_star=folder / "rejects.star",
        box_size=144,
        scale=72,
    )
    outputs = {"normalized_stack": "n.mrcs", "normalized_star": "n.star", "statistics_csv": "n.csv", "rejects_star": "nr.star"}
    normalize_particles(star=folder / "extracted.star", **{key: folder / name for key, name in outputs.items()}, bg_radius=26)
    names = ("half1_star", "half2_star", "unposed1_star", "unposed2_star")
    split_particles(star=folder / "n.star", **{name: folder / f"{name}.star" for name in names}, holdout_fraction=0.0)
    return folder, [folder / f"half{half}_star.star" for half in (1, 2)]


def test_every_pick_with_a_pose_is_used_and_keeps_its_half(apoferritin, data_root):
    table = ParticleTable.read(data_root / "apoferritin-empiar10146/particles_with_poses.star")
    counts = [int((table.halves() == half).sum()) for half in (1, 2)]
    assert [len(ParticleTable.read(star)) for star in apoferritin[1]] == counts
    assert sum(counts) == 1208
    unposed = [ParticleTable.read(apoferritin[0] / f"unposed{half}_star.star") for half in (1, 2)]
    assert sum(map(len, unposed)) == len(ParticleTable.read(apoferritin[0] / "n.star")) - 1208


@pytest.mark.parametrize("reference", [pytest.param("relion", marks=relion)])
def test_half_map_fsc_is_relions_where_it_is_high_and_no_lower_elsewhere(apoferritin, reference):
    folder, stars = apoferritin
    ours, theirs = (fourier_shell_correlation(*half_maps(folder, stars, backend, "O"), pixel_size=3.0) for backend in ("native", reference))
    difference = ours.correlation - theirs.correlation
    high = theirs.correlation > 0.8
    assert int(high[:20].sum()) > 5
    assert float(difference[high].abs().max()) < 0.05
    # least squares weighs badly measured directions less than RELION's gridding does: the halves agree better in weak shells
    assert float(difference[1:35].mean()) > 0.0
    assert float(difference[1:35].min()) > -0.08
    assert ours.resolution(0.143) < 10.8


def test_the_ribosome_has_the_hand_of_its_reference(data_root, tmp_path):
    source = data_root / "ribosome-tilts-c1"
    table = ParticleTable.read(source / "ribosome_tilts_1430.star")
    stacks, file_id, index = table.image_locations()
    absolute = table.with_columns({"rlnImageName": [f"{place + 1:06d}@{stacks[stack]}" for stack, place in zip(file_id, index, strict=True)]})
    stars = []
    for half in (1, 2):
        stars.append(tmp_path / f"half{half}.star")
        absolute.take(table.halves() == half).write(stars[-1])
    first, second = half_maps(tmp_path, stars, "native", "C1")
    reference = torch.from_numpy(read_map(source / "tomodrgn_reference_reconstruct.mrc")[0])
    sphere = soft_sphere(32, 12.0, 2.0)
    half_fsc = fourier_shell_correlation(first * sphere, second * sphere, pixel_size=12.0).correlation
    right = fourier_shell_correlation(first + second, reference, pixel_size=12.0).correlation
    mirror = fourier_shell_correlation(first + second, reference.flip(0).roll(1, 0), pixel_size=12.0).correlation
    assert half_fsc[[1, 4, 5, 7]].tolist() == pytest.approx([0.97, 0.78, 0.63, 0.42], abs=0.08)
    assert float(right[4]) > 0.75
    assert float(mirror[4]) < 0.25
