import numpy as np
import pytest

from cryorestore.errors import CryorestoreError
from cryorestore.importing import import_particles
from cryorestore.io.mrc import MrcStackWriter
from cryorestore.io.star import StarBlock, write_star
from cryorestore.particles import ParticleTable


def test_a_star_entry_keeps_its_rows_and_finds_its_images_from_anywhere(data_root, tmp_path):
    source = data_root / "metadata-aspire/sample_particles_relion31.star"
    import_particles(particles=source, star=tmp_path / "here/particles.star", pixel_size=1.338, box_size=200)
    before, after = ParticleTable.read(source), ParticleTable.read(tmp_path / "here/particles.star")
    assert np.array_equal(after.load_images(), before.load_images())
    assert after.particles.column("rlnImageOriginalName") == before.particles.column("rlnImageName")
    assert after.particles.column("rlnDefocusU") == before.particles.column("rlnDefocusU")
    assert after.pixel_size == pytest.approx(1.338)


def test_a_cs_entry_becomes_a_table(data_root, tmp_path):
    import_particles(particles=[data_root / "metadata-cryodrgn/empiar_10076_7.cs"], star=tmp_path / "particles.star")
    table = ParticleTable.read(tmp_path / "particles.star")
    assert (len(table), table.box_size, bool(table.has_poses.any())) == (7, 320, False)


def test_another_box_than_the_configuration_says_is_refused(data_root, tmp_path):
    with pytest.raises(CryorestoreError, match=r"box of 200 px, input\.box_size says 256"):
        import_particles(particles=data_root / "metadata-aspire/sample_particles_relion31.star", star=tmp_path / "particles.star", box_size=256)
    assert not (tmp_path / "particles.star").exists()


def write_particles(folder, *, sign, count=60):
    """Blobs of one sign in noise, in two stacks, the rows in another order than the images."""
    y, x = np.indices((16, 16)) - 8
    draw = np.random.default_rng(3)
    blob = np.exp(-(x**2 + y**2) / 18.0)
    images = (sign * 3 * blob + draw.standard_normal((count, 16, 16))).astype(np.float32)
    for number, part in enumerate((images[: count // 2], images[count // 2 :])):
        with MrcStackWriter(folder / f"{number}.mrcs", count=len(part), box_size=16, pixel_size=3.0) as writer:
            writer.append(part)
    names = [f"{1 + place % (count // 2)}@{place // (count // 2)}.mrcs" for place in reversed(range(count))]
    write_star(folder / "a.star", {"": StarBlock.from_columns({"rlnImageName": names})})
    return images[::-1]


@pytest.mark.parametrize(("setting", "sign", "factor"), [(False, -1, 1), (True, -1, -1), ("auto", -1, -1), ("auto", 1, 1)])
def test_dark_particles_are_inverted_where_that_is_asked_for_or_seen(tmp_path, setting, sign, factor):
    images = write_particles(tmp_path, sign=sign)
    import_particles(particles=tmp_path / "a.star", star=tmp_path / "b.star", pixel_size=3.0, invert_contrast=setting)
    table = ParticleTable.read(tmp_path / "b.star")
    assert np.array_equal(table.load_images(), factor * images)
    assert ("rlnCryorestoreBlobSign" in table.particles) == (factor == -1)
    import_particles(particles=tmp_path / "b.star", star=tmp_path / "c.star", invert_contrast=True)
    assert np.array_equal(ParticleTable.read(tmp_path / "c.star").load_images(), -factor * images)


def test_a_contrast_that_cannot_be_told_is_left_with_a_warning(tmp_path, caplog):
    images = write_particles(tmp_path, sign=0)
    import_particles(particles=tmp_path / "a.star", star=tmp_path / "b.star", pixel_size=3.0, invert_contrast="auto")
    assert "cannot be told; set input.invert_contrast" in caplog.text
    assert np.array_equal(ParticleTable.read(tmp_path / "b.star").load_images(), images)


def test_a_table_without_any_pose_says_what_happens_and_why(tmp_path, caplog):
    write_particles(tmp_path, sign=1)
    import_particles(particles=tmp_path / "a.star", star=tmp_path / "b.star", pixel_size=3.0)
    assert "no particle has a pose: the run ends with the normalized particles" in caplog.text


def test_hashes_that_a_table_has_are_kept_and_checked_after_the_import(tmp_path):
    with MrcStackWriter(tmp_path / "s.mrcs", count=2, box_size=4, pixel_size=1.0) as writer:
        writer.append(np.arange(2, dtype=np.float32)[:, None, None] + np.zeros((1, 4, 4), np.float32))
    columns = {"rlnImageName": ["2@s.mrcs", "1@s.mrcs"], "rlnCryorestoreImageHash": writer.hashes}
    write_star(tmp_path / "a.star", {"": StarBlock.from_columns(columns)})
    import_particles(particles=tmp_path / "a.star", star=tmp_path / "out/b.star", pixel_size=1.0)
    with pytest.raises(CryorestoreError, match=r"b\.star: row 1: image 2 of .*s\.mrcs has the hash"):
        ParticleTable.read(tmp_path / "out/b.star").load_images()
