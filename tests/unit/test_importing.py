import numpy as np
import pytest

from cryorestore.errors import CryorestoreError
from cryorestore.importing import import_particles
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
