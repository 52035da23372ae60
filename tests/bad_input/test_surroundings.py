"""Names, sizes and disks that are legal and rare: what is right goes through, what is not ends in one message."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bad_input import files
from bad_input.cases import CONVERT, NORMALIZE, SPLIT
from bad_input.running import run
from cryorestore.io.mrc import HEADER_BYTES, MrcStackReader
from cryorestore.particles import ParticleTable


def normalize(folder):
    code, said = run(NORMALIZE.split(), folder)
    assert code == 0, said
    return ParticleTable.read(folder / "out/n.star")


def left_over(folder):
    return [path.name for path in folder.rglob("*") if "partial" in path.name]


@pytest.mark.parametrize("name", ["two words", "Bücher – 数据 🔬", "it's", "a@b", "#1", "-x", "[x]*?", "data_", "_x"])
def test_any_folder_name_goes_through(tmp_path, name):
    plain, odd = tmp_path / "plain", tmp_path / name
    for folder in (plain, odd):
        folder.mkdir()
        files.table(folder)
        inside = folder / name
        inside.mkdir()
        (folder / "stack.mrcs").rename(inside / "stack.mrcs")
        rows = ParticleTable.read(folder / "particles.star")
        images = [f"{number + 1:06d}@{name}/stack.mrcs" for number in range(6)]
        rows.with_columns({"rlnImageName": images}).write(folder / "particles.star")
    expected, found = normalize(plain), normalize(odd)
    assert np.array_equal(found.load_images(), expected.load_images())
    assert run(SPLIT.split(), odd)[0] == 0
    assert run(CONVERT.split(), odd)[0] == 0
    again = ParticleTable.read(odd / "out/p.cs").particles.column("rlnImageName")
    assert again == [f"{number + 1:06d}@{name}/stack.mrcs" for number in range(6)]


def test_a_machine_stamp_of_the_other_byte_order_does_not_change_the_images(tmp_path):
    files.table(tmp_path)
    expected = MrcStackReader(tmp_path / "stack.mrcs").read([0, 5])
    files.put(tmp_path / "stack.mrcs", 212, b"\x11\x11\0\0")
    assert np.array_equal(MrcStackReader(tmp_path / "stack.mrcs").read([0, 5]), expected)
    normalize(tmp_path)


def test_images_that_are_not_finite_are_set_aside_and_listed(tmp_path):
    files.table(tmp_path)
    files.pixel(tmp_path / "stack.mrcs", 2, np.nan)
    files.pixel(tmp_path / "stack.mrcs", 5, -np.inf)
    assert len(normalize(tmp_path)) == 4
    rejects = ParticleTable.read(tmp_path / "out/r.star").particles
    assert [name[:6] for name in rejects.column("rlnImageName")] == ["000002", "000005"]


def test_names_with_dots_in_a_table_write_nothing_elsewhere(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    files.table(project, particles={"rlnMicrographName": ["../../../evil.mrc"] * 6, "rlnImageOriginalName": ["000001@../../evil.mrcs"] * 6})
    table = normalize(project)
    assert table.micrograph_names() == ["../../../evil.mrc"] * 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["project"]
    assert sorted(path.name for path in project.iterdir()) == ["out", "particles.star", "stack.mrcs"]


def test_rows_of_one_particle_within_a_half_are_kept_and_said(tmp_path):
    files.edit(files.table(tmp_path), "000003@", "000001@")
    code, said = run(SPLIT.split(), tmp_path)
    assert code == 0
    assert "1 rows name a particle again (first: rows 1 and 3)" in said


def test_three_particles_in_two_halves_go_through_with_a_warning(tmp_path):
    files.table(tmp_path, count=3)
    code, said = run(SPLIT.split(), tmp_path)
    assert code == 0
    assert "half 2 has only 1 particles" in said


@pytest.mark.slow
def test_the_last_of_many_rows_is_named(tmp_path):
    files.stack(tmp_path / "stack.mrcs", count=1)
    with (tmp_path / "particles.star").open("w", encoding="utf-8") as table:
        table.write("data_\nloop_\n_rlnImageName\n_rlnDefocusU\n_rlnImagePixelSize\n")
        table.writelines("1@stack.mrcs 9000 1.5\n" for _ in range(199_999))
        table.write("2@stack.mrcs 9000 1.5\n")
    code, said = run(NORMALIZE.split(), tmp_path)
    assert code == 1
    assert "particles.star: row 200000: found rlnImageName 2@stack.mrcs, expected a number from 1 to 1" in said


def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    """Below /sys nobody makes folders, root neither."""
    files.table(tmp_path)
    code, said = run(SPLIT.replace("out/", "/sys/cryorestore/").split(), tmp_path)
    assert (code, "Traceback" in said) == (1, False), said
    assert "error: /sys/cryorestore: cannot be read or written (" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["particles.star", "stack.mrcs"]


def test_an_output_below_a_file_is_named(tmp_path):
    files.table(tmp_path)
    (tmp_path / "out").write_text("a file\n", encoding="utf-8")
    code, said = run(NORMALIZE.split(), tmp_path)
    assert (code, "Traceback" in said) == (1, False), said
    assert "error: out: " in said
    assert (tmp_path / "out").read_text(encoding="utf-8") == "a file\n"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(folder)], check=False).returncode != 0:
        pytest.skip("a small file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named_and_the_next_run_goes_through(tmp_path, small_disk):
    files.table(tmp_path)
    (tmp_path / "out").symlink_to(small_disk)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(16_384))
    code, said = run(NORMALIZE.split(), tmp_path)
    assert (code, "Traceback" in said) == (1, False), said
    assert "error: the disk is full" in said
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
    filler.unlink()
    assert len(normalize(tmp_path)) == 6


def test_a_link_to_a_file_is_followed_for_reading(tmp_path):
    files.table(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "stack.mrcs").rename(tmp_path / "elsewhere/stack.mrcs")
    Path(tmp_path / "stack.mrcs").symlink_to("elsewhere/stack.mrcs")
    assert MrcStackReader(tmp_path / "stack.mrcs").path.stat().st_size == HEADER_BYTES + 6 * 16 * 16 * 4
    normalize(tmp_path)
