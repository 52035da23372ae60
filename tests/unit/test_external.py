"""The External job's side of RELION's pipeline: its inputs, settings, nodes and exit files. The chain that it starts has tests of its own."""

import os
import threading
import time

import mrcfile
import numpy as np
import pytest
import yaml

from bad_input.files import BOX, maps, stack, table
from bad_input.running import run
from cryorestore.config import load_configuration
from cryorestore.external import ABORT_NOW, EXIT, Aborted, _enter_results, _run_chain, _write_settings
from cryorestore.io.mrc import write_map
from cryorestore.io.star import read_star
from cryorestore.particles import ParticleTable

JOB_STAR = """
# version 30001

data_job

_rlnJobType                            10
_rlnJobIsContinue                       0


# version 30001

data_joboptions_values

loop_
_rlnJobOptionVariable #1
_rlnJobOptionValue #2
particle_diameter         20
sym_name         D2
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project's folder with Refine3D/job012 as RELION 3.1.3 writes it; it is the current one."""
    folder = tmp_path / "Refine3D/job012"
    folder.mkdir(parents=True)
    table(tmp_path, particles={"rlnImageName": [f"{number:06d}@stack.mrcs" for number in range(1, 7)]})
    (tmp_path / "particles.star").rename(folder / "run_data.star")
    (folder / "job.star").write_text(JOB_STAR, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def exits(folder):
    return sorted(path.name for path in folder.glob("RELION_JOB_*"))


@pytest.mark.parametrize(
    ("options", "facts"), [("", "--in_parts is missing"), ("--in_mics mics.star --in_parts a.star", "--in_mics: found mics.star, expected particles")]
)
def test_a_job_that_cannot_start_says_why_and_leaves_relions_file(tmp_path, options, facts):
    code, said = run(f"relion-external --o External/job020/ {options} --j 2".split(), tmp_path)
    assert (code, "Traceback" in said) == (1, False), said
    assert facts in said
    assert exits(tmp_path / "External/job020") == [EXIT["failure"]]


def test_an_end_of_an_earlier_run_does_not_stay(tmp_path):
    job = tmp_path / "External/job020"
    job.mkdir(parents=True)
    (job / EXIT["success"]).touch()
    run(["relion-external", "--o", "External/job020/", "--in_parts", "absent.star"], tmp_path)
    assert exits(job) == [EXIT["failure"]]


def test_settings_come_from_the_job_that_wrote_the_particles(project):
    maps(project)
    (project / "mine.yaml").write_text("denoisers: [map-bayes]\nfsc: {thresholds: [0.5, 0.143]}\n", encoding="utf-8")
    out = project / "External/job020"
    out.mkdir(parents=True)
    given = {"reference": project / "map1.mrc", "mask": project / "map2.mrc", "configfile": project / "mine.yaml"}
    _write_settings(out, project / "Refine3D/job012/run_data.star", symmetry=None, particle_diameter=None, **given)
    written = yaml.safe_load((out / "cryorestore.yaml").read_text(encoding="utf-8"))
    settings = load_configuration(written).settings["relion"]
    assert (settings["symmetry"], settings["input"]["box_size"], settings["input"]["has_poses"]) == ("D2", BOX, True)
    assert settings["input"]["particles_star"].endswith("Refine3D/job012/run_data.star")
    assert settings["input"]["reference_map"] == str(project / "map1.mrc")
    assert (settings["fsc"]["mask"], settings["fsc"]["thresholds"]) == (str(project / "map2.mrc"), [0.5, 0.143])
    assert settings["denoisers"] == ["map-bayes"]


def test_results_are_nodes_that_relion_finds_from_the_projects_folder(project):
    out = project / "External/job020"
    results = out / "results/relion"
    for half in (1, 2):
        (results / f"restored.ours/half{half}").mkdir(parents=True)
        stack(results / f"restored.ours/half{half}/particles.mrcs", count=3)
        write_map(results / f"raw/half{half}/map.mrc", np.full((8, 8, 8), half), pixel_size=1.5)
    names = [f"{number}@results/relion/restored.ours/half{half}/particles.mrcs" for number in (1, 2, 3) for half in (1, 2)]
    ParticleTable.read("Refine3D/job012/run_data.star").with_columns({"rlnImageName": names}).write(results / "restored.ours/particles.star")
    _enter_results(out)
    nodes = read_star(out / "RELION_OUTPUT_NODES.star").blocks["output_nodes"]
    listed = dict(zip(nodes.column("rlnPipeLineNodeName"), nodes.column("rlnPipeLineNodeType"), strict=True))
    expected = {"External/job020/restored.ours_particles.star": "3"}
    expected |= {f"External/job020/raw_half{half}_class001_unfil.mrc": "10" for half in (1, 2)}
    assert listed == expected
    assert all(os.path.exists(name) for name in listed)  # noqa: PTH110  (names from the current folder, as RELION takes them)
    images = read_star(next(iter(listed))).blocks["particles"].column("rlnImageName")
    assert images[:2] == [f"000001@External/job020/results/relion/restored.ours/half{half}/particles.mrcs" for half in (1, 2)]
    assert mrcfile.read("External/job020/raw_half2_class001_unfil.mrc").mean() == 2


@pytest.mark.slow
def test_relions_request_to_stop_ends_the_chain(project):
    out = project / "External/job020"
    out.mkdir(parents=True)
    _write_settings(out, project / "Refine3D/job012/run_data.star", reference=None, mask=None, symmetry=None, particle_diameter=None, configfile=None)
    threading.Timer(0.5, (out / ABORT_NOW).touch).start()
    begin = time.monotonic()
    with pytest.raises(Aborted, match=ABORT_NOW):
        _run_chain(out, cores=1, control=out)
    assert time.monotonic() - begin < 120
    assert not (out / ABORT_NOW).exists()
