"""Curves, mask and sharpened map beside relion_postprocess and relion_mask_create 3.1, on relion_reconstruct's half-maps of real particles."""

import shutil
import subprocess

import numpy as np
import pytest
import torch

from cryorestore.extract import extract_particles
from cryorestore.fsc import FscCurve, read_pair
from cryorestore.io.mrc import read_map, write_map
from cryorestore.io.star import read_star
from cryorestore.masks import soft_sphere
from cryorestore.normalize import normalize_particles
from cryorestore.particles import ParticleTable
from cryorestore.reconstruct import reconstruct_map
from cryorestore.resolution.correction import masked_curves
from cryorestore.resolution.curve_files import last_resolution
from cryorestore.resolution.curves import write_fsc
from cryorestore.resolution.filters import low_pass
from cryorestore.resolution.masking import read_mask, tight_mask
from cryorestore.resolution.sharpening import sharpen_map
from cryorestore.split import split_particles

PROGRAMS = ("relion_reconstruct", "relion_postprocess", "relion_mask_create")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.relion,
    pytest.mark.skipif(any(shutil.which(name) is None for name in PROGRAMS), reason="RELION's programs are not installed"),
]
SEEDS = range(1, 11)
CURVES = {
    "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
    "masked": "rlnFourierShellCorrelationMaskedMaps",
    "randomised": "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
    "corrected": "rlnFourierShellCorrelationCorrected",
}


def reconstruct_halves(folder, stars, symmetry):
    for half, star in enumerate(stars, start=1):
        outputs = {"map": folder / f"half{half}.mrc", "map_odd": folder / "odd.mrc", "map_even": folder / "even.mrc"}
        reconstruct_map(star=star, **outputs, backend="relion", symmetry=symmetry)


def apoferritin(source, folder):
    """Micrographs to half-maps as the shipped configuration does it: 144 px scaled to 72 px of 3 A."""
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
    reconstruct_halves(folder, [folder / "half1_star.star", folder / "half2_star.star"], "O")


def ribosome(source, folder):
    """Tilt images of 32 px at 12 A."""
    table = ParticleTable.read(source / "ribosome_tilts_1430.star")
    stacks, file_id, index = table.image_locations()
    absolute = table.with_columns({"rlnImageName": [f"{place + 1:06d}@{stacks[stack]}" for stack, place in zip(file_id, index, strict=True)]})
    stars = [folder / f"half{half}.star" for half in (1, 2)]
    for half, star in enumerate(stars, start=1):
        absolute.take(table.halves() == half).write(star)
    reconstruct_halves(folder, stars, "C1")


SETS = {"apoferritin-empiar10146": (apoferritin, 24.0, 5.0), "ribosome-tilts-c1": (ribosome, 10.0, 4.0)}
"""Maker, and radius and edge of the mask (px)."""


@pytest.fixture(scope="module", params=SETS)
def folder(request, data_root, tmp_path_factory):
    """Folder with half1.mrc, half2.mrc and mask.mrc."""
    make, radius, edge = SETS[request.param]
    path = tmp_path_factory.mktemp(request.param)
    make(data_root / request.param, path)
    volume, _, pixel_size = read_pair(path / "half1.mrc", path / "half2.mrc")
    write_map(path / "mask.mrc", soft_sphere(volume.shape[-1], radius, edge).numpy(), pixel_size=pixel_size)
    return path


def postprocess(folder, *options):
    """Tables of a run of relion_postprocess. It ends with an error when it draws: without Ghostscript, and without a mask before `data_guinier`."""
    _, _, pixel_size = read_pair(folder / "half1.mrc", folder / "half2.mrc")
    (folder / "relion").mkdir(exist_ok=True)
    (folder / "relion/p.star").unlink(missing_ok=True)
    command = ["relion_postprocess", "--i", "half1.mrc", "--i2", "half2.mrc", "--o", "relion/p", "--angpix", str(pixel_size), "--verb", "0", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (folder / "relion/p.star").exists(), done.stderr
    return read_star(folder / "relion/p.star").blocks


@pytest.fixture(scope="module")
def theirs(folder):
    """RELION's table of ten seeds."""
    tables = [postprocess(folder, "--mask", "mask.mrc", "--force_mask", "--random_seed", str(seed)) for seed in SEEDS]
    return {name: np.stack([table["fsc"].floats(column) for table in tables]) for name, column in CURVES.items()} | {"general": tables[0]["general"]}


@pytest.fixture(scope="module")
def ours(folder):
    """Our curves of ten seeds, each with one draw of random phases, as RELION has it."""
    first, second, pixel_size = read_pair(folder / "half1.mrc", folder / "half2.mrc")
    mask = read_mask(folder / "mask.mrc", box_size=first.shape[-1])
    return [masked_curves(first, second, mask, pixel_size=pixel_size, randomisations=1, seed=seed) for seed in SEEDS]


@pytest.mark.parametrize("name", ["unmasked", "masked"])
def test_curves_without_chance_are_relions_in_every_shell(ours, theirs, name):
    difference = ours[0].named()[name].correlation.numpy() - theirs[name][0]
    assert np.abs(difference).max() < 1e-4


def test_phases_are_randomised_from_the_same_shell(ours, theirs):
    frequency = float(ours[0].unmasked.spatial_frequency[ours[0].randomised_from])
    assert 1 / frequency == pytest.approx(float(theirs["general"].column("rlnRandomiseFrom")[0]), rel=1e-4)


@pytest.mark.parametrize("name", ["randomised", "corrected"])
def test_curves_with_chance_lie_among_relions(ours, theirs, name):
    """The mean of ten seeds is within 3 standard deviations of RELION's ten; and the two means differ by no more than their own scatter."""
    values = np.stack([curves.named()[name].correlation.numpy() for curves in ours])
    shells = slice(ours[0].randomised_from + 2, None)
    difference = np.abs(values.mean(0) - theirs[name].mean(0))[shells]
    spread, own_spread = (part.std(0, ddof=1)[shells] for part in (theirs[name], values))
    assert (difference <= 3 * spread).all()
    assert (difference <= 4.5 * np.sqrt((spread**2 + own_spread**2) / len(SEEDS))).all()


def test_before_the_correction_begins_the_corrected_curve_is_relions(ours, theirs):
    first = ours[0].randomised_from + 2
    assert np.abs(ours[0].corrected.correlation.numpy() - theirs["corrected"][0])[:first].max() < 1e-4


def test_the_final_resolution_is_that_of_relions_shell(ours, theirs):
    """Of RELION's own corrected curve, so that chance plays no part."""
    curve = FscCurve(ours[0].corrected.spatial_frequency, torch.from_numpy(theirs["corrected"][0]).float())
    assert last_resolution(curve) == pytest.approx(float(theirs["general"].column("rlnFinalResolution")[0]), rel=1e-4)


def test_the_mask_of_a_threshold_is_relions_voxel_by_voxel(folder):
    first, second, pixel_size = read_pair(folder / "half1.mrc", folder / "half2.mrc")
    mean = 0.5 * (first + second)
    write_map(folder / "mean.mrc", mean.numpy(), pixel_size=pixel_size)
    resolution = 5 * pixel_size
    filtered = low_pass(mean, resolution=resolution, pixel_size=pixel_size)
    threshold = 0.3 * float(filtered.max())
    options = {"lowpass": resolution, "angpix": pixel_size, "ini_threshold": threshold, "extend_inimask": 3, "width_soft_edge": 6}
    command = [
        "relion_mask_create",
        "--i",
        "mean.mrc",
        "--o",
        "theirs.mrc",
        *(text for key, value in options.items() for text in (f"--{key}", str(value))),
    ]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    theirs = torch.from_numpy(read_map(folder / "theirs.mrc")[0])
    mine = tight_mask(filtered, threshold=threshold, extend_px=3.0, edge_px=6.0)
    # a voxel that stands on the threshold may fall to either side
    assert float(((mine - theirs).abs() > 1e-4).float().mean()) < 1e-4
    assert 0.001 < float(theirs.mean()) < 0.9


@pytest.mark.parametrize("weighted", [True, False])
def test_the_sharpened_map_is_relions(folder, weighted):
    volume, _, pixel_size = read_pair(folder / "half1.mrc", folder / "half2.mrc")
    halves = {f"half_map_{half}": folder / f"half{half}.mrc" for half in (1, 2)}
    fsc = {"curve": folder / "fsc.csv", "figures": folder / "fsc.json"}
    write_fsc(**halves, **fsc, plot=folder / "fsc.svg")
    names = {"map": "s.mrc", "guinier": "g.csv", "plot": "g.svg", "star": "g.star", "sharpening": "s.json"}
    outputs = {key: folder / name for key, name in names.items()}
    fit_from, fit_to, lowpass = volume.shape[-1] * pixel_size / 3, 2.5 * pixel_size, 3.2 * pixel_size
    sharpen_map(**halves, **fsc, **outputs, fit_from=fit_from, fit_to=fit_to, lowpass=lowpass, fsc_weighting=weighted)
    options = {"--autob_lowres": fit_from, "--autob_highres": fit_to, "--low_pass": lowpass}
    given = ["--auto_bfac", *(text for key, value in options.items() for text in (key, str(value)))]
    relion = postprocess(folder, *given, *([] if weighted else ["--skip_fsc_weighting"]))
    if weighted and relion["fsc"].floats(CURVES["unmasked"])[0] < 0:
        pytest.skip("the halves' means have opposite signs here: without a mask RELION then weights every shell with 0")
    mine, theirs = read_star(outputs["star"]).blocks["general"], relion["general"]
    for column in ("rlnBfactorUsedForSharpening", "rlnCorrelationFitGuinierPlot"):
        assert float(mine.column(column)[0]) == pytest.approx(float(theirs.column(column)[0]), rel=0.01)
    volumes = [read_map(path)[0] for path in (outputs["map"], folder / "relion/p.mrc")]
    assert np.abs(volumes[0] - volumes[1]).max() < 0.01 * np.abs(volumes[1]).max()
    tables = read_star(outputs["star"]).blocks["guinier"], postprocess(folder, "--mask", "mask.mrc", "--force_mask")["guinier"]
    original = [table.floats("rlnLogAmplitudesOriginal") for table in tables]
    assert np.abs(original[0] - original[1]).max() < 1e-3
