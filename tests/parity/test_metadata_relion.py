"""Tables that we write, read by RELION's own programs: columns that RELION does not know must not disturb it, nor change what it says."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from cryorestore.importing import import_particles
from cryorestore.io.mrc import read_map
from cryorestore.joining import join_particles
from cryorestore.normalize import normalize_particles
from cryorestore.particles import ParticleTable
from cryorestore.split import split_particles
from helpers import BOX, simulate_particles, write_particles

pytestmark = pytest.mark.relion
COUNT = 40
OWN = ("rlnCryorestoreImageHash", "rlnCryorestoreRow", "rlnCryorestoreHoldout")


def run(program, *arguments, folder):
    """Run one of RELION's programs; what it printed."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([program, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """A table as it leaves the chain: imported, normalized, split and joined, with every column of ours, in a folder with a blank."""
    folder = tmp_path_factory.mktemp("our tables")
    star = write_particles(folder, simulate_particles(COUNT, sigma=0.3))
    import_particles(particles=star, star=folder / "imported.star")
    names = {"normalized_stack": "n.mrcs", "normalized_star": "n.star", "normalized_cs": "n.cs", "statistics_csv": "s.csv", "rejects_star": "r.star"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        import_particles(particles="imported.star", star="imported.star")
        normalize_particles(star="imported.star", **names, bg_radius=12)
        halves = {f"{kind}{half}_star": f"{kind}{half}.star" for kind in ("half", "unposed") for half in (1, 2)}
        split_particles(star="n.star", **halves)
        join_particles(half1_star="half1.star", half2_star="half2.star", source_star="n.star", joined_star="joined.star", joined_cs="joined.cs")
    return folder


def test_the_star_handler_keeps_rows_columns_and_values(joined):
    run("relion_star_handler", "--i", "joined.star", "--o", "out.star", "--select", "rlnRandomSubset", "--minval", "1", folder=joined)
    before, after = ParticleTable.read(joined / "joined.star"), ParticleTable.read(joined / "out.star")
    assert len(after) == COUNT
    assert after.particles.column("rlnImageName") == before.particles.column("rlnImageName")
    for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnDefocusU"):
        assert np.allclose(after.particles.floats(name), before.particles.floats(name), atol=1e-4), name
    assert after.halves().tolist() == before.halves().tolist()
    assert after.pixel_size == before.pixel_size


def test_our_own_columns_come_back_from_relion_as_they_were(joined):
    run("relion_star_handler", "--i", "joined.star", "--o", "own.star", "--select", "rlnRandomSubset", "--minval", "2", folder=joined)
    before, after = ParticleTable.read(joined / "joined.star"), ParticleTable.read(joined / "own.star")
    second = before.take(before.halves() == 2)
    for name in OWN:
        assert after.particles.column(name) == second.particles.column(name), name
    assert np.array_equal(ParticleTable(after.particles, after.optics, joined / "own.star").load_images(), second.load_images())


def test_the_image_handler_reads_the_images_that_the_rows_name(joined):
    out = run("relion_image_handler", "--i", "joined.star", "--stats", folder=joined)
    table = ParticleTable.read(joined / "joined.star")
    lines = re.findall(r"^(\S+@\S+) .*stddev= (\S+) minval= (\S+) maxval= ([^;\s]+)", out, re.MULTILINE)
    said = {name: [float(number) for number in numbers] for name, *numbers in lines}
    assert list(said) == table.particles.column("rlnImageName")
    images = table.load_images()
    expected = np.stack([images.std((1, 2)), images.min((1, 2)), images.max((1, 2))], 1)
    assert np.allclose(np.array(list(said.values())), expected, rtol=1e-4, atol=1e-4)


def test_reconstruct_gives_the_same_map_with_our_columns_and_without(joined):
    table = ParticleTable.read(joined / "joined.star")
    own = [name for name in table.particles.columns if name.startswith("rlnCryorestore")]
    assert set(OWN) <= set(own)
    ParticleTable(table.particles.without_columns(own), table.optics, table.path).write(joined / "plain.star")
    maps = []
    for name in ("joined", "plain"):
        run("relion_reconstruct", "--i", f"{name}.star", "--o", f"{name}.mrc", "--ctf", folder=joined)
        maps.append(read_map(joined / f"{name}.mrc")[0])
    assert maps[0].shape == (BOX, BOX, BOX)
    assert maps[0].std() > 0
    assert np.array_equal(*maps)


@pytest.mark.parametrize("name", ["metadata-cryodrgn/relion31.6opticsgroups.star", "metadata-aspire/sample_particles_relion30.star"])
def test_relion_reads_what_we_make_of_other_versions_tables(data_root, tmp_path, name):
    table = ParticleTable.read(data_root / name)
    table.write(tmp_path / "a.star")
    run("relion_star_handler", "--i", "a.star", "--o", "b.star", "--select", "rlnOpticsGroup", "--minval", "1", folder=tmp_path)
    again = ParticleTable.read(tmp_path / "b.star")
    assert len(again) == len(table)
    assert len(again.optics) == len(table.optics)
    assert np.allclose(again.pixel_sizes(), table.pixel_sizes(), atol=1e-5)
    assert np.allclose(again.origins(), table.origins(), atol=1e-4)


def test_quoted_names_are_read_by_relion(joined, tmp_path):
    table = ParticleTable.read(joined / "joined.star")
    named = table.with_columns({"rlnMicrographName": [f"my mics/m {row}.mrc" for row in range(len(table))]})
    named.write(tmp_path / "a.star")
    run("relion_star_handler", "--i", "a.star", "--o", "b.star", "--select", "rlnRandomSubset", "--minval", "1", folder=tmp_path)
    assert ParticleTable.read(tmp_path / "b.star").micrograph_names() == named.micrograph_names()
