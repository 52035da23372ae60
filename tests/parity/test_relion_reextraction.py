"""Re-extraction of particles with poses against relion_preprocess --reextract_data_star, with and without --recenter."""

import numpy as np
import pytest

from cryorestore.io.star import read_star
from parity.relion_runs import Settings, assert_same_particles, needs_relion, run_ours, run_relion, star

pytestmark = needs_relion


@pytest.fixture(scope="module")
def refined(simulated):
    """A table as a refinement writes it: 24 rows whose micrographs alternate, origins up to 4 px, some at exactly half a pixel."""
    generator, count = np.random.default_rng(7), 24
    stems = generator.integers(1, 4, count)
    origins = generator.uniform(-20, 20, (count, 2))
    origins[:6] = [[2.5, -2.5], [7.5, -7.5], [0.0, 5.0], [2.4, -2.6], [12.5, 0.1], [-0.5, -17.5]]
    places = generator.uniform(30, 226, (count, 2))
    particles = {
        "rlnCoordinateX": places[:, 0],
        "rlnCoordinateY": places[:, 1],
        "rlnImageName": [f"{row + 1:06d}@Extract/job007/particles.mrcs" for row in range(count)],
        "rlnMicrographName": [f"micrographs/mic_{stem:04d}.mrc" for stem in stems],
        "rlnOpticsGroup": [str(2 - stem % 2) for stem in stems],
        **{name: generator.uniform(8e3, 2e4, count) for name in ("rlnDefocusU", "rlnDefocusV")},
        **{name: generator.uniform(0, 90, count) for name in ("rlnDefocusAngle", "rlnPhaseShift", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")},
        "rlnOriginXAngst": origins[:, 0],
        "rlnOriginYAngst": origins[:, 1],
        "rlnRandomSubset": generator.integers(1, 3, count),
        "rlnGroupName": [f"group_{stem}" for stem in stems],
        "rlnMine": [f"text{row}" for row in range(count)],
    }

    def write(pixel_size):
        optics = read_star(simulated.folder / "micrographs.star").blocks["optics"]
        columns = {name: optics.column(name) for name in optics.columns if name != "rlnMicrographPixelSize"}
        sizes = {"rlnImagePixelSize": [str(pixel_size)] * 2, "rlnImageSize": ["40"] * 2, "rlnImageDimensionality": ["2"] * 2}
        return star(simulated.folder / f"refined_{pixel_size}.star", optics=columns | sizes, particles=particles)

    return write


@pytest.mark.parametrize("recentre", [False, True], ids=["", "recentre"])
@pytest.mark.parametrize("pixel_size", [5.0, 10.0], ids=["unbinned", "from_binned"])
@pytest.mark.parametrize("settings", [Settings(40), Settings(48, 32, 12, True), Settings(64, None, 24, True, False)], ids=str)
def test_particles_cut_anew_are_relions(simulated, refined, settings, pixel_size, recentre):
    table = refined(pixel_size)
    theirs = run_relion(simulated, settings, *(["--recenter"] if recentre else []), reextract=table.name)
    assert_same_particles(theirs, run_ours(simulated, settings, particles_star=table, recentre=recentre))


def test_recentred_boxes_are_where_the_origins_say(simulated, refined):
    table = refined(5.0)
    before = read_star(table).blocks["particles"]
    after = run_ours(simulated, Settings(40), particles_star=table, recentre=True).rows
    order = [before.column("rlnMine").index(name) for name in after.column("rlnMine")]
    for axis in "XY":
        whole = before.take(order).floats(f"rlnCoordinate{axis}") - before.take(order).floats(f"rlnOrigin{axis}Angst") / 5.0
        np.testing.assert_allclose(after.floats(f"rlnCoordinate{axis}") - after.floats(f"rlnOrigin{axis}Angst") / 5.0, whole, atol=1e-5)
        assert (np.abs(after.floats(f"rlnOrigin{axis}Angst")) <= 2.5 + 1e-6).all()


@pytest.mark.parametrize("recentre", [False, True], ids=["", "recentre"])
def test_refined_particles_of_apoferritin_are_cut_as_relion_cuts_them(apoferritin, data_root, recentre):
    """The refinement's table says the micrographs' pixel size; its images had 3 A, which RELION wants to be told."""
    blocks = read_star(data_root / "apoferritin-empiar10146/particles_with_poses.star").blocks
    optics, rows = ({name: block.column(name) for name in block.columns} for block in (blocks["optics"], blocks["particles"]))
    sizes = {"rlnImagePixelSize": ["3.0"], "rlnImageSize": ["72"], "rlnImageDimensionality": ["2"]}
    # RELION takes every row whose micrograph's name contains the name that is asked for
    first = [name == rows["rlnMicrographName"][0] for name in rows["rlnMicrographName"]]
    kept = {name: [cell for cell, keep in zip(cells, first, strict=True) if keep] for name, cells in rows.items()}
    kept["rlnImageName"] = [f"{row + 1:06d}@refined.mrcs" for row in range(sum(first))]
    table = star(apoferritin.folder / "refined.star", optics=optics | sizes, particles=kept)
    settings = Settings(144, 72, 26, True)
    theirs = run_relion(apoferritin, settings, *(["--recenter"] if recentre else []), reextract=table.name)
    assert len(theirs.rows) > 100
    assert_same_particles(theirs, run_ours(apoferritin, settings, particles_star=table, recentre=recentre))
