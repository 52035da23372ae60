"""Scenes for the parity tests: simulated micrographs, experimental ones, each with picks over the edges."""

import numpy as np
import pytest

from cryorestore.io.coordinates import read_coordinates
from cryorestore.io.mrc import read_micrograph, write_micrograph
from cryorestore.io.star import read_star
from cryorestore.simulate import simulate_micrographs
from parity.relion_runs import Scene, optics_table, star

SIMULATION = {
    "molecule": "demo",
    "box_size": 40,
    "pixel_size": 5.0,
    "micrograph_size": 256,
    "snr_structural": 1.4,
    "snr_shot": 0.05,
    "voltage": 300.0,
    "spherical_aberration": 2.7,
    "amplitude_contrast": 0.1,
    "defocus_range": (8000.0, 20000.0),
    "conformer_fraction": 0.0,
    "conformer_chain": "A",
    "conformer_angle": 0.0,
    "pick_error_px": 2.0,
    "rotation_error": 0.0,
    "shift_error": 0.0,
    "junk_fraction": 0.0,
    "seed": 4,
}
OVER_THE_EDGE = np.array([[3.7, 150.2], [-4.6, 20.0], [250.9, 240.9], [170.5, -0.4], [251, 5]])


def simulate(folder, **settings):
    """Simulate micrographs, their picks and the table of true poses."""
    names = {"micrographs_star": "simulated.star", "coordinates_dir": "coordinates", "particles_star": "particles.star"}
    truths = {"truth_star": "truth.star", "truth_stack": "truth.mrcs", "truth_map": "truth.mrc"}
    simulate_micrographs(**{key: folder / name for key, name in (names | truths).items()}, **{**SIMULATION, **settings})
    return folder


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """Simulated micrographs in two optics groups; picks with a picker's columns, whole, fractional and over the edges, none on the fourth."""
    folder = simulate(tmp_path_factory.mktemp("simulated"), count=4, per_micrograph=10)
    table = read_star(folder / "simulated.star").blocks["micrographs"]
    columns = {name: table.column(name) for name in table.columns}
    columns |= {"rlnOpticsGroup": ["1", "2", "1", "2"], "rlnPhaseShift": ["0.0", "0.0", "90.0", "0.0"]}
    columns |= {"rlnCtfMaxResolution": ["3.1", "3.2", "3.3", "3.4"], "rlnCtfFigureOfMerit": ["0.1", "0.2", "0.3", "0.4"]}
    star(folder / "micrographs.star", optics=optics_table([5.0, 5.0]), micrographs=columns)
    generator = np.random.default_rng(0)
    for number in (1, 2, 3):
        whole = read_coordinates(folder / "coordinates" / f"mic_{number:04d}_picks.star")
        places = np.concatenate([np.stack([whole.x, whole.y], 1), generator.uniform(20, 236, (6, 2)), OVER_THE_EDGE[number - 1 :: 2]])
        count = len(places)
        picks = {"rlnCoordinateX": places[:, 0], "rlnCoordinateY": places[:, 1], "rlnAutopickFigureOfMerit": generator.uniform(0, 1, count)}
        picks |= {"rlnClassNumber": np.arange(count), "rlnAnglePsi": np.round(generator.uniform(-180, 180, count), 3)}
        star(folder / "picks" / "micrographs" / f"mic_{number:04d}_pick.star", plain=picks)
    return Scene(folder)


@pytest.fixture(scope="session")
def apoferritin(tmp_path_factory, data_root):
    """All nine experimental micrographs of apoferritin with their hand picks, and `one.star` with the first of them.

    The micrographs are float32 copies: RELION 3.1.3 takes unsigned 16-bit values above 32767 for negative ones.
    """
    source, folder = data_root / "apoferritin-empiar10146", tmp_path_factory.mktemp("apoferritin")
    blocks = read_star(source / "micrographs.star").blocks
    optics, rows = ({name: block.column(name) for name in block.columns} for block in (blocks["optics"], blocks["micrographs"]))
    star(folder / "micrographs.star", optics=optics, micrographs=rows)
    star(folder / "one.star", optics=optics, micrographs={name: cells[:1] for name, cells in rows.items()})
    for name in rows["rlnMicrographName"]:
        write_micrograph(folder / name, read_micrograph(source / name)[0], pixel_size=1.5)
        picks = (source / name).with_name((source / name).stem + "_manualpick.star")
        (folder / "picks" / "micrographs").mkdir(parents=True, exist_ok=True)
        (folder / "picks" / "micrographs" / picks.name).write_bytes(picks.read_bytes())
    return Scene(folder, suffix="_manualpick.star")


@pytest.fixture(scope="session")
def contaminated(tmp_path_factory, data_root):
    """The experimental micrograph with autopicks; its pixel size is not known, and 1.5 A stands for it."""
    source, folder = data_root / "micrograph-contaminated", tmp_path_factory.mktemp("contaminated")
    (folder / "micrographs").mkdir()
    for name in ("Ucsf_stack_1142_DW.mrc", "Ucsf_stack_1142_DW_autopick.star"):
        (folder / "micrographs" / name).write_bytes((source / name).read_bytes())
    rows = {"rlnMicrographName": ["micrographs/Ucsf_stack_1142_DW.mrc"], "rlnOpticsGroup": ["1"]}
    star(folder / "micrographs.star", optics=optics_table([1.5]), micrographs=rows)
    return Scene(folder, suffix="_autopick.star", picks="./")
