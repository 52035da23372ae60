"""Every STAR and .cs file at hand opens with what its header says, or ends in the error that its header deserves."""

from typing import NamedTuple

import numpy as np
import pytest
import starfile

from cryorestore.errors import CryorestoreError
from cryorestore.io.coordinates import read_coordinates
from cryorestore.micrographs import read_micrographs
from cryorestore.particles import ParticleTable


class Opens(NamedTuple):
    """What is read of a table; `box` is the images' size, or the part of the message that says why there is none."""

    rows: int
    optics_groups: int
    pixel_sizes: tuple[float, ...]
    poses: int
    halves: tuple[int, int]
    box: int | str


NO_IMAGES = "column _rlnImageName is missing, expected a table of particle images"
NOT_HERE = "expected a file; tried .* mend the name or set project_root"
PARTICLES = {
    "apoferritin-empiar10146/particles_with_poses.star": Opens(1208, 1, (1.5,), 1208, (611, 597), NO_IMAGES),
    "metadata-aspire/sample_particles_relion30.star": Opens(17, 2, (1.338,), 17, (10, 7), 200),
    "metadata-aspire/sample_particles_relion31.star": Opens(17, 2, (1.4,), 17, (10, 7), 200),
    "metadata-cryodrgn/FinalRefinement-OriginalParticles-PfCRT.star": Opens(5, 1, (1.035,), 5, (1, 4), f"row 1: .*PfCRT.mrcs.*{NOT_HERE}"),
    "metadata-cryodrgn/cryosparc_J2_particles_exported.cs": Opens(22, 1, (1.345,), 0, (0, 0), f"row 1: found .J1/imported/.*{NOT_HERE}"),
    "metadata-cryodrgn/empiar_10076_7.cs": Opens(7, 1, (1.31,), 0, (0, 0), 320),
    "metadata-cryodrgn/empiar_10076_7.star": Opens(7, 1, (1.31,), 0, (0, 0), 320),
    "metadata-cryodrgn/relion31.6opticsgroups.star": Opens(139, 6, (1.24, 1.25), 139, (74, 65), f"row 1: found .Polish/job520/.*{NOT_HERE}"),
    "metadata-cryodrgn/relion31.star": Opens(5, 1, (2.806,), 5, (5, 0), 256),
    "metadata-cryodrgn/relion5.star": Opens(17, 1, (0.89,), 17, (11, 6), f"row 1: found .toy_images_a.mrcs.*{NOT_HERE}"),
    "metadata-cryodrgn/sta_testing_bin8.star": Opens(219, 1, (1.96,), 219, (39, 180), 64),
    "metadata-empiar10204/run_it016_data.star": Opens(4748, 1, (1.24483,), 4748, (2337, 2411), f"row 1: found .Polish/job028/.*{NOT_HERE}"),
    "ribosome-tilts-c1/ribosome_tilts_1430.star": Opens(1430, 1, (12.0,), 1430, (715, 715), 32),
}
REFUSED = {
    "metadata-aspire/rln_proj_64.star": "no pixel size, expected _rlnImagePixelSize in its optics table; add it or set pixel_size",
    "metadata-aspire/rln_proj_65.star": "no pixel size, expected _rlnImagePixelSize in its optics table; add it or set pixel_size",
    "metadata-aspire/starfile_3796.star.gz": "check that it is a STAR file|gzip",
}
MICROGRAPHS = {"apoferritin-empiar10146/micrographs.star": (9, 1.5)}


def is_coordinates(name):
    return name.endswith(("_manualpick.star", "_autopick.star"))


def count_rows(path):
    """The rows by another reader."""
    if path.suffix == ".cs":
        return len(np.load(path))
    tables = starfile.read(path, always_dict=True)
    return len(tables.get("particles", next(table for name, table in tables.items() if name != "optics")))


def test_every_table_at_hand_is_listed_here(data_root):
    found = {path.relative_to(data_root).as_posix() for ending in ("*.star", "*.cs", "*.star.gz") for path in data_root.rglob(ending)}
    assert {name for name in found if not is_coordinates(name)} == {*PARTICLES, *REFUSED, *MICROGRAPHS}


@pytest.mark.parametrize("name", PARTICLES)
def test_a_table_of_particles_opens_with_what_its_header_says(data_root, name):
    expected, table = PARTICLES[name], ParticleTable.read(data_root / name)
    assert len(table) == expected.rows == count_rows(data_root / name)
    assert len(table.optics) == expected.optics_groups
    assert sorted(set(table.pixel_sizes().round(5).tolist())) == list(expected.pixel_sizes)
    assert int(table.has_poses.sum()) == expected.poses
    assert tuple(int((table.halves() == half).sum()) for half in (1, 2)) == expected.halves
    if isinstance(expected.box, str):
        with pytest.raises(CryorestoreError, match=expected.box):
            table.load_images([0])
    else:
        assert table.load_images([0, len(table) - 1]).shape == (2, expected.box, expected.box)


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_cannot_be_used_is_refused_with_its_name(data_root, name):
    with pytest.raises(CryorestoreError, match=f"{name}.*({REFUSED[name]})"):
        ParticleTable.read(data_root / name)


@pytest.mark.parametrize("name", ["metadata-aspire/rln_proj_64.star", "metadata-aspire/rln_proj_65.star"])
def test_a_missing_pixel_size_can_be_given(data_root, name):
    table = ParticleTable.read(data_root / name, pixel_size=5.0)
    assert len(table) == count_rows(data_root / name)
    assert table.box_size == int(name[-7:-5])
    assert table.has_poses.all()


def test_every_file_of_picks_opens(data_root):
    names = [path for path in sorted(data_root.rglob("*.star")) if is_coordinates(path.name)]
    assert len(names) == 10
    for path in names:
        picks = read_coordinates(path)
        assert len(picks) == count_rows(path) > 0
        assert (picks.figure_of_merit is not None) == ("autopick" in path.name)


@pytest.mark.parametrize("name", MICROGRAPHS)
def test_a_table_of_micrographs_opens(data_root, name):
    count, pixel_size = MICROGRAPHS[name]
    table = read_micrographs(data_root / name, pixel_size=None)
    assert len(table.micrographs) == count == count_rows(data_root / name)
    assert table.pixel_sizes(table.optics.column("rlnOpticsGroup"), None).tolist() == [pixel_size]
