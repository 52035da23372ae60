import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryorestore.errors import CryorestoreError
from cryorestore.extract import extract_particles
from cryorestore.geometry import euler_to_matrices, random_rotations
from cryorestore.io.mrc import read_map, read_micrograph
from cryorestore.io.star import read_star
from cryorestore.molecule import load_molecule, molecule_volume, project_molecule, turn_chain
from cryorestore.particles import ParticleTable
from cryorestore.simulate import OFFSET, SIGNAL_COUNTS, simulate_micrographs

BOX, PIXEL, PER_MICROGRAPH = 40, 5.0, 25
SETTINGS = {
    "molecule": "demo",
    "count": 2,
    "per_micrograph": PER_MICROGRAPH,
    "box_size": BOX,
    "pixel_size": PIXEL,
    "micrograph_size": 256,
    "snr_structural": 1.4,
    "snr_shot": 0.05,
    "voltage": 300.0,
    "spherical_aberration": 2.7,
    "amplitude_contrast": 0.1,
    "defocus_range": (8000.0, 20000.0),
    "conformer_fraction": 0.3,
    "conformer_chain": "A",
    "conformer_angle": 20.0,
    "pick_error_px": 2.0,
    "rotation_error": 2.5,
    "shift_error": 0.5,
    "junk_fraction": 0.2,
    "seed": 4,
}
NOISE_FREE = {"snr_structural": float("inf"), "snr_shot": float("inf")}


def simulate(folder, **settings):
    outputs = {
        "micrographs_star": "simulated/micrographs.star",
        "coordinates_dir": "simulated/coordinates",
        "particles_star": "simulated/particles.star",
        "truth_star": "truth/truth.star",
        "truth_stack": "truth/truth.mrcs",
        "truth_map": "truth/map.mrc",
        "noise_stack": "truth/noise.mrcs",
    }
    simulate_micrographs(**{name: folder / path for name, path in outputs.items()}, **{**SETTINGS, **settings})
    return ParticleTable.read(folder / "truth" / "truth.star"), ParticleTable.read(folder / "simulated" / "particles.star")


def extract(folder, **settings):
    extract_particles(
        micrographs_star=folder / "simulated" / "micrographs.star",
        coordinates=folder / "simulated" / "coordinates",
        particles_star=folder / "simulated" / "particles.star",
        stack=folder / "p.mrcs",
        star=folder / "p.star",
        rejects_star=folder / "r.star",
        box_size=BOX,
        **settings,
    )
    return ParticleTable.read(folder / "p.star")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noisy")
    return folder, *simulate(folder)


def classes(truth):
    return truth.particles.ints("rlnClassNumber")


def test_a_noise_free_micrograph_extracted_at_the_pick_is_the_truth_image(tmp_path):
    truth, _ = simulate(tmp_path, **NOISE_FREE, per_micrograph=4, junk_fraction=0.25, micrograph_size=512, count=1)
    extracted = extract(tmp_path).load_images() + OFFSET
    clean = truth.load_images()
    particles = classes(truth) > 0
    assert particles.sum() == 3
    # neighbours are far away here; what is left of them is the CTF's tail
    assert np.abs(extracted - clean)[particles].max() < 0.02 * clean[particles].max()
    assert np.corrcoef(extracted[particles].ravel(), clean[particles].ravel())[0, 1] > 0.9995


def test_every_pick_has_a_row_with_a_pose_and_dark_protein(noisy):
    folder, truth, _ = noisy
    table = extract(folder)
    assert table.particles.ints("rlnCryorestoreHasPose").tolist() == [1] * 2 * PER_MICROGRAPH
    extracted, clean = table.load_images(), truth.load_images()
    particles = classes(truth) > 0
    assert np.corrcoef(extracted[particles].ravel(), clean[particles].ravel())[0, 1] > 0.1


def test_shifting_by_the_true_origin_centres_the_particle(tmp_path):
    truth, _ = simulate(
        tmp_path,
        **NOISE_FREE,
        count=1,
        pick_error_px=4.0,
        amplitude_contrast=1.0,
        spherical_aberration=0.0,
        defocus_range=(0.0, 0.0),
        junk_fraction=0.0,
    )
    images = truth.load_images()
    y, x = np.indices((BOX, BOX)) - BOX // 2
    weights = images.sum((1, 2))
    centres = np.stack([(images * x).sum((1, 2)), (images * y).sum((1, 2))], 1) / weights[:, None]
    first = classes(truth) == 1
    assert np.abs(truth.origins()).max() > 1.5 * PIXEL
    np.testing.assert_allclose(centres[first], -truth.origins()[first] / PIXEL, atol=0.02)


def test_the_truth_image_is_the_projection_of_the_truth_map_at_the_true_pose(tmp_path):
    plain = {"amplitude_contrast": 1.0, "spherical_aberration": 0.0, "defocus_range": (0.0, 0.0), "conformer_fraction": 0.0, "junk_fraction": 0.0}
    truth, _ = simulate(tmp_path, **NOISE_FREE, **plain, count=1)
    volume, pixel_size = read_map(tmp_path / "truth" / "map.mrc")
    assert pixel_size == PIXEL
    z, y, x = (axis.ravel() for axis in np.indices(volume.shape) - BOX // 2)
    shells = np.fft.fftfreq(BOX, 1 / BOX)
    low = np.abs(shells) <= 4
    k = np.stack(np.meshgrid(shells[low], shells[low]), -1).reshape(-1, 2)
    for row in range(3):
        a, shift = truth.rotation_matrices()[row], -truth.origins()[row] / PIXEL
        places = k @ a[:2]
        wave = np.exp(-2j * np.pi * (places @ np.stack([x, y, z]) + (k @ shift)[:, None]) / BOX)
        expected = wave @ volume.ravel().astype(float)
        image = np.fft.fft2(np.fft.ifftshift(truth.load_images([row])[0]))[np.ix_(low, low)].ravel()
        assert np.abs(image - expected).max() < 0.02 * np.abs(expected).max()


def test_the_signal_to_noise_ratios_are_those_asked_for(noisy):
    folder, truth, _ = noisy
    clean, particles = truth.load_images(), classes(truth) > 0
    structural = ParticleTable.read(folder / "truth" / "truth.star").with_images(folder / "truth" / "noise.mrcs", box_size=BOX).load_images()
    extracted = extract(folder).load_images() + OFFSET
    names = np.array(truth.micrograph_names())
    for name in np.unique(names):
        here = names == name
        signal = clean[here & particles].var((1, 2)).mean()
        empty = here & (np.abs(clean).max((1, 2)) == 0)
        shot = (extracted - structural)[here]
        # neighbours add to the variance in the boxes, so measure beside the picks: the whole micrograph less all signal
        micrograph, _ = read_micrograph(folder / "simulated" / name)
        assert empty.sum() == 3
        assert signal / micrograph.var() == pytest.approx(0.05, rel=0.25)
        assert signal / shot[empty[here]].var() == pytest.approx(0.05, rel=0.1)


def test_structural_noise_has_its_variance_before_the_ctf(tmp_path):
    flat = {"amplitude_contrast": 1.0, "spherical_aberration": 0.0, "defocus_range": (0.0, 0.0)}
    simulate(tmp_path, **flat, snr_structural=1.4, snr_shot=float("inf"), count=1)
    truth = ParticleTable.read(tmp_path / "truth" / "truth.star")
    noise = truth.with_images(tmp_path / "truth" / "noise.mrcs", box_size=BOX).load_images()
    signal = truth.load_images()[classes(truth) > 0].var((1, 2)).mean()
    assert signal / noise.var() == pytest.approx(1.4, rel=0.05)


def test_projections_have_the_counts_promised():
    molecule = load_molecule("demo")
    images = project_molecule(molecule, random_rotations(20, np.random.default_rng(2)), np.zeros((20, 2)), box_size=BOX, pixel_size=PIXEL)
    assert images.sum((1, 2)).numpy() == pytest.approx(molecule.weights.sum(), rel=1e-4)
    assert SIGNAL_COUNTS > 0


def test_pose_errors_have_the_size_asked_for(tmp_path):
    small = {
        "micrograph_size": 1300,
        "per_micrograph": 900,
        "count": 1,
        "junk_fraction": 0.0,
        "molecule": str(_two_atoms(tmp_path)),
        "conformer_fraction": 0.0,
    }
    truth, given = simulate(tmp_path, **small)
    turn = Rotation.from_matrix(given.rotation_matrices() @ np.swapaxes(truth.rotation_matrices(), 1, 2)).magnitude()
    assert np.degrees(np.sqrt((turn**2).mean())) == pytest.approx(2.5, rel=0.05)
    missed = (given.origins() - truth.origins()) / PIXEL
    assert np.sqrt((missed**2).sum(1).mean()) == pytest.approx(0.5, rel=0.08)


def _two_atoms(folder):
    line = "HETATM{0:5d}  C   LIG {1}   1    {2:8.3f}{3:8.3f}{4:8.3f}  1.00  0.00           C  \n"
    path = folder / "two.pdb"
    path.write_text(line.format(1, "A", 0, 0, 0) + line.format(2, "B", 8, 4, 0) + "END\n")
    return path


def test_picks_are_whole_pixels_near_the_centre_and_no_particles_overlap(noisy):
    _, truth, _ = noisy
    picks = np.stack([truth.particles.floats(f"rlnCoordinate{axis}") for axis in "XY"], 1)
    np.testing.assert_array_equal(picks, np.rint(picks))
    assert np.abs(truth.origins()).max() <= 2.0 * PIXEL
    centres = (picks - truth.origins() / PIXEL)[:PER_MICROGRAPH]
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1) + 1e6 * np.eye(PER_MICROGRAPH)
    assert distance.min() >= load_molecule("demo").diameter / PIXEL - 1e-6
    assert (picks >= BOX / 2).all()
    assert (picks <= 256 - BOX / 2).all()


def test_junk_has_its_share_half_empty_half_something(noisy):
    _, truth, _ = noisy
    junk = truth.load_images()[classes(truth) == 0]
    assert len(junk) == 2 * 5
    assert (np.abs(junk).max((1, 2)) == 0).sum() == 2 * 3
    assert np.abs(junk).max() > 3 * SIGNAL_COUNTS


def test_half_sets_and_images_are_left_to_later_steps(noisy):
    folder, _, given = noisy
    assert "rlnRandomSubset" not in given.particles
    assert "rlnImageName" not in given.particles
    assert "rlnImageSize" not in read_star(folder / "simulated" / "micrographs.star").blocks["optics"]


def test_the_same_seed_gives_the_same_bytes_and_more_micrographs_change_none(tmp_path, noisy):
    folder, *_ = noisy
    simulate(tmp_path, count=3)
    for path in ("simulated/micrographs/mic_0002.mrc", "simulated/coordinates/mic_0001_picks.star", "truth/map.mrc"):
        assert (tmp_path / path).read_bytes() == (folder / path).read_bytes()
    simulate(tmp_path, count=2, seed=5)
    assert (tmp_path / "simulated/micrographs/mic_0001.mrc").read_bytes() != (folder / "simulated/micrographs/mic_0001.mrc").read_bytes()


def test_the_volumes_projection_is_the_image():
    molecule = load_molecule("demo")
    volume = molecule_volume(molecule, box_size=BOX, pixel_size=PIXEL)
    image = project_molecule(molecule, euler_to_matrices(np.zeros((1, 3))), np.zeros((1, 2)), box_size=BOX, pixel_size=PIXEL)[0]
    torch.testing.assert_close(volume.sum(0), image, atol=0.01 * float(image.max()), rtol=0)


def test_the_second_conformer_turns_one_chain_alone():
    molecule = load_molecule("demo")
    turned = turn_chain(molecule, chain="A", angle=20.0)
    moved = np.linalg.norm(turned.positions - molecule.positions, axis=1)
    assert moved[molecule.chains != "A"].max() == 0
    assert 4 < np.sqrt((moved[molecule.chains == "A"] ** 2).mean()) < 15
    with pytest.raises(CryorestoreError, match="chains A, B, C"):
        turn_chain(molecule, chain="Z", angle=20.0)


def test_the_demo_molecule_is_the_entry_reduced(data_root):
    entry, demo = load_molecule(data_root / "models" / "7pbl.pdb.gz"), load_molecule("demo")
    np.testing.assert_allclose(demo.positions, entry.positions, atol=0.06)
    np.testing.assert_array_equal(demo.chains, entry.chains)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"box_size": 24}, "box_size: found 24"),
        ({"micrograph_size": 128}, "micrograph_size: found 128"),
        ({"molecule": "no/such.cif"}, "no/such.cif"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, settings, found):
    with pytest.raises(CryorestoreError, match=found):
        simulate(tmp_path, **settings)
