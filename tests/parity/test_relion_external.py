"""The chain as an External job that RELION's own pipeliner starts, stops and goes on with; what it writes, RELION's programs open."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import yaml

from cryorestore.external import ABORT_NOW, EXIT
from cryorestore.io.mrc import HEADER_BYTES, write_map
from cryorestore.io.star import StarBlock, read_star, write_star
from cryorestore.particles import ParticleTable
from helpers import BOX, PIXEL, simulate_particles, write_particles

ROOT = Path(__file__).parents[2]
PROGRAMS = ("relion_pipeliner", "relion_reconstruct", "relion_image_handler", "relion_refine", "relion_mask_create", "relion_postprocess")
JOB, COUNT, PATIENCE = "External/job020", 160, 600
KEYS = ("poses", "posterior", "pairs", "diffusion", "postprocess", "controls", "report", "reconstruct")
SETTINGS = {"denoisers": ["ours"], "normalize": {"bg_radius": 13}, "preflight": {"refuse": False}}
TABLE, RAW, RESTORED = "Refine3D/job012/run_data.star", "Extract/job007/particles.star", f"{JOB}/restored.ours_particles.star"
RUNNING, SCHEDULED, SUCCEEDED, ABORTED = "0", "1", "2", "4"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.relion,
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"RELION's {', '.join(PROGRAMS)} are not all installed"),
]


def make_project(folder, *, count=COUNT):
    """A project of RELION with an Extract and a Refine3D job, an empty pipeline, and what differs in this run from the defaults."""
    data = simulate_particles(count, sigma=1.0)
    for name in ("Extract/job007", "Refine3D/job012"):
        (folder / name).mkdir(parents=True)
    number = np.arange(count)
    extra = {"rlnImageName": [f"{row + 1:06d}@Extract/job007/particles.mrcs" for row in number], "rlnRandomSubset": 1 + number % 2}
    extra |= {"rlnMicrographName": [f"micrographs/{row // 40}.mrc" for row in number], "rlnCoordinateX": 9.0 * number, "rlnCoordinateY": 7.0 * number}
    write_particles(folder / "Extract/job007", data, extra=extra).rename(folder / TABLE)
    write_map(folder / "reference.mrc", data["volume"].numpy(), pixel_size=PIXEL)
    write_star(folder / "default_pipeline.star", {"pipeline_general": StarBlock.from_columns({"rlnPipeLineJobCounter": ["20"]})})
    tiny = yaml.safe_load((ROOT / "config/test/datasets/tiny.yaml").read_text(encoding="utf-8"))
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS | {key: tiny[key] for key in KEYS}), encoding="utf-8")
    return folder


def executable():
    """The program that RELION calls."""
    return str(Path(sys.executable).with_name("cryorestore-relion-external"))


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}


def relion(folder, *command):
    """Run one of RELION's programs in a folder; what it said, with line ends for the carriage returns of its progress bars."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment(), check=False, timeout=PATIENCE)
    said = (done.stdout + done.stderr).replace("\r", "\n")
    assert done.returncode == 0, said[-3000:]
    return said


def call(folder, *options, table=TABLE, job=JOB):
    """Start the job by hand as RELION would."""
    command = [
        executable(),
        "--o",
        f"{job}/",
        "--in_parts",
        table,
        "--particle_diameter",
        "100",
        "--configfile",
        "settings.yaml",
        *options,
        "--j",
        "1",
    ]
    return subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment())


def exits(folder, job=JOB):
    return sorted(path.name for path in (folder / job).glob("RELION_JOB_*"))


def wait_for(path):
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.2)


def job_status(folder):
    return read_star(folder / "default_pipeline.star").blocks["pipeline_processes"].column("rlnPipeLineProcessStatus")


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """One job that a scheduler's SIGTERM ends, that RELION starts and aborts, and that RELION goes on with to its end; the exit files of each."""
    folder = make_project(tmp_path_factory.mktemp("project"))
    options = {"fn_exe": executable(), "in_part": TABLE, "in_3dref": "reference.mrc", "nr_threads": "1"}
    options |= {"param1_label": "particle_diameter", "param1_value": "100", "param2_label": "configfile", "param2_value": "settings.yaml"}
    given = ";".join(f"{name} == {value}" for name, value in options.items())
    relion(folder, "relion_pipeliner", "--addJob", "External", "--addJobOptions", given)
    told = {"scheduled": job_status(folder)}

    with call(folder, "--in_3dref", "reference.mrc") as job:
        wait_for(folder / JOB / "results/relion/normalized/particles.star")
        job.send_signal(signal.SIGTERM)
        said = job.communicate(timeout=PATIENCE)[0]
    told["terminated"] = (job.returncode, exits(folder), said)

    run = ["relion_pipeliner", "--RunJobs", f"{JOB}/", "--schedule", "test", "--sec_wait_after", "1"]
    with subprocess.Popen(run, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()) as pipeliner:
        wait_for(folder / JOB / "results/relion/pairs/half1/pairs.safetensors")
        (folder / JOB / ABORT_NOW).touch()
        pipeliner.wait(PATIENCE)
    told["aborted"] = (exits(folder), job_status(folder))

    before = (folder / JOB / "results/relion/normalized/particles.mrcs").stat().st_mtime_ns
    relion(folder, *run)
    told["finished"] = (exits(folder), job_status(folder))
    told["kept"] = before == (folder / JOB / "results/relion/normalized/particles.mrcs").stat().st_mtime_ns
    return folder, told


@pytest.fixture(scope="module")
def project(course):
    return course[0]


def test_relion_schedules_the_job_as_one_of_its_own(course):
    assert course[1]["scheduled"] == [SCHEDULED]


def test_a_schedulers_signal_ends_the_job_as_aborted(course):
    code, files, said = course[1]["terminated"]
    assert (code, files) == (1, [EXIT["aborted"]])
    assert "stopped: received SIGTERM; started again, the job goes on where it was" in said
    assert "Traceback" not in said


def test_relions_own_abort_ends_the_job_that_relion_started(course):
    """RELION starts jobs in the background, where SIGINT is ignored: Snakemake must hear of it all the same."""
    assert course[1]["aborted"] == ([EXIT["aborted"]], [ABORTED])


def test_relion_goes_on_with_the_job_and_finds_it_succeeded(course):
    assert course[1]["finished"] == ([EXIT["success"]], [SUCCEEDED])
    assert course[1]["kept"]


def test_the_results_are_nodes_of_relions_pipeline(project):
    nodes = read_star(project / JOB / "RELION_OUTPUT_NODES.star").blocks["output_nodes"]
    ours = dict(zip(nodes.column("rlnPipeLineNodeName"), nodes.column("rlnPipeLineNodeType"), strict=True))
    assert ours == {RESTORED: "3", **{f"{JOB}/raw_half{half}_class001_unfil.mrc": "10" for half in (1, 2)}}
    blocks = read_star(project / "default_pipeline.star").blocks
    known = dict(zip(blocks["pipeline_nodes"].column("rlnPipeLineNodeName"), blocks["pipeline_nodes"].column("rlnPipeLineNodeType"), strict=True))
    assert ours.items() <= known.items()
    assert blocks["pipeline_output_edges"].column("rlnPipeLineEdgeToNode") == list(ours)
    assert set(blocks["pipeline_input_edges"].column("rlnPipeLineEdgeFromNode")) == {TABLE, "reference.mrc"}


def test_rows_are_those_of_the_input_in_its_order_with_their_half_sets(project, monkeypatch):
    monkeypatch.chdir(project)
    given, restored = (read_star(name).blocks["particles"] for name in (TABLE, RESTORED))
    for name in ("rlnMicrographName", "rlnCoordinateX", "rlnRandomSubset", "rlnAngleRot", "rlnOriginXAngst", "rlnDefocusU"):
        assert restored.column(name) == given.column(name)
    assert restored.column("rlnImageOriginalName") == given.column("rlnImageName")


def test_relion_image_handler_reads_every_restored_image(project, monkeypatch):
    monkeypatch.chdir(project)
    relion(project, "relion_image_handler", "--i", RESTORED, "--o", "look.mrcs")
    np.testing.assert_array_equal(mrcfile.read("look.mrcs"), ParticleTable.read(RESTORED).load_images())


def test_relion_reconstruct_makes_the_true_map_of_restored_particles(project):
    relion(project, "relion_reconstruct", "--i", RESTORED, "--o", "map.mrc", "--ctf", "--maxres", "16")
    assert correlation(project / "map.mrc", project / "reference.mrc") > 0.8


def test_a_short_relion_refine_takes_restored_particles(project):
    (project / "refined").mkdir()
    options = "--firstiter_cc --ini_high 24 --iter 2 --K 1 --particle_diameter 120 --ctf --norm --scale --zero_mask"
    sampling = "--healpix_order 1 --offset_range 3 --offset_step 2"
    files = ["--i", RESTORED, "--ref", "reference.mrc", "--o", "refined/run"]
    relion(project, "relion_refine", *files, *options.split(), *sampling.split())
    table = read_star(project / "refined/run_it002_data.star").blocks["particles"]
    assert len(table.column("rlnImageName")) == COUNT
    assert correlation(project / "refined/run_it002_class001.mrc", project / "reference.mrc") > 0.7


def test_relion_postprocess_takes_the_raw_half_maps(project):
    first, out = f"{JOB}/raw_half1_class001_unfil.mrc", "PostProcess/job021"
    (project / out).mkdir(parents=True)
    relion(project, "relion_mask_create", "--i", first, "--o", "mask.mrc", "--ini_threshold", "0.05", "--lowpass", "20", "--extend_inimask", "3")
    relion(project, "relion_postprocess", "--i", first, "--mask", "mask.mrc", "--o", f"{out}/postprocess", "--angpix", str(PIXEL))
    general = read_star(project / out / "postprocess.star").blocks["general"]
    assert float(general.column("rlnFinalResolution")[0]) < 30


def correlation(path, reference):
    volumes = [mrcfile.read(one).ravel() for one in (path, reference)]
    return np.corrcoef(*volumes)[0, 1]


# Bad input


@pytest.fixture
def small(tmp_path):
    return make_project(tmp_path, count=12)


def without_poses(folder):
    blocks = read_star(folder / TABLE).blocks
    kept = [name for name in blocks["particles"].columns if not name.startswith(("rlnAngle", "rlnOrigin"))]
    columns = {name: blocks["particles"].column(name) for name in kept}
    write_star(folder / RAW, {"optics": blocks["optics"], "particles": StarBlock.from_columns(columns)})


def truncate(folder):
    os.truncate(folder / "Extract/job007/particles.mrcs", HEADER_BYTES + 5 * BOX**2 * 4)


def take_away(folder):
    (folder / "Extract/job007/particles.mrcs").unlink()


@pytest.mark.parametrize(
    ("spoil", "table", "facts"),
    [
        (without_poses, RAW, f"{RAW}: found no particle with a pose, expected particles with poses, such as {TABLE}; refine them first"),
        (truncate, TABLE, "Extract/job007/particles.mrcs: "),
        (take_away, TABLE, "Extract/job007/particles.mrcs"),
    ],
)
def test_a_job_with_bad_input_ends_as_failed_and_says_why(small, spoil, table, facts):
    spoil(small)
    with call(small, table=table) as job:
        said = job.communicate(timeout=PATIENCE)[0]
    assert job.returncode == 1
    assert exits(small) == [EXIT["failure"]]
    assert facts in said
    assert "Traceback" not in said
    assert not (small / JOB / "RELION_OUTPUT_NODES.star").exists()
