"""Many data sets in one run: one that fails, what a change reruns, and how long planning takes."""

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cryorestore.io.mrc import MrcStackWriter
from cryorestore.io.star import StarBlock, write_star
from cryorestore.named_files import note_files

ROOT = Path(__file__).parents[2]
PLANNING_LIMIT = 60.0
"""seconds for 200 data sets of 2,000 micrographs each: twice what a quiet processor is to take, since other tests run beside this one"""

pytestmark = pytest.mark.slow


def snakemake(folder, *arguments, root=ROOT, path=os.environ["PATH"]):
    command = [sys.executable, "-m", "snakemake", *arguments, "--snakefile", str(root / "Snakefile"), "--directory", str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "CRYORESTORE_DATA"} | {"PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--profile", str(root / "profiles/local")], capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout + done.stderr


def planned(folder, *arguments, root, path=os.environ["PATH"]):
    """Number of jobs by rule that a dry-run plans."""
    code, output = snakemake(folder, *arguments, "--dry-run", "--quiet", "rules", root=root, path=path)
    assert code == 0, output
    if "Nothing to be done" in output:
        return {}
    rows = [line.split() for line in output.split("Job stats:")[1].split("total")[0].splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project, whose modules nobody changes but a test."""
    copy = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "Snakefile", copy)
    for name in ("rules", "scripts", "config", "src", "envs", "report", "profiles"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


# One data set fails


def make_stack(folder, *, count, whole):
    """Particles without poses; a stack that is not whole lacks its second half."""
    folder.mkdir(parents=True, exist_ok=True)
    with MrcStackWriter(folder / "stack.mrcs", count=count, box_size=32, pixel_size=2.0) as writer:
        writer.append(np.random.default_rng(1).normal(size=(count, 32, 32)).astype(np.float32))
    if not whole:
        os.truncate(folder / "stack.mrcs", 1024 + count * 32 * 32 * 2)
    columns = {"rlnImageName": [f"{row}@stack.mrcs" for row in range(1, count + 1)], "rlnOpticsGroup": ["1"] * count}
    columns |= {"rlnDefocusU": ["10000.0"] * count, "rlnDefocusV": ["10000.0"] * count, "rlnDefocusAngle": ["0.0"] * count}
    optics = {"rlnOpticsGroup": ["1"], "rlnImagePixelSize": ["2.0"], "rlnImageSize": ["32"], "rlnVoltage": ["300.0"]}
    optics |= {"rlnSphericalAberration": ["2.7"], "rlnAmplitudeContrast": ["0.1"]}
    tables = {"optics": StarBlock.from_columns(optics), "particles": StarBlock.from_columns(columns)}
    write_star(folder / "particles.star", tables)


@pytest.fixture
def three(tmp_path):
    """Configuration of three small data sets by a table, all like one dataset file; the second is broken."""
    for name in ("first", "second", "third"):
        make_stack(tmp_path / name, count=8, whole=name != "second")
    (tmp_path / "small.yaml").write_text(
        "input: {kind: star, particles_star: set-by-the-table.star, has_poses: false, box_size: 32}\n"
        "normalize: {bg_radius: 12}\nmask: {radius: 25}\nposes: {shift_sigma: 2.0}\ndenoisers: []\n"
    )
    names = ("first", "second", "third")
    rows = "".join(f"{name}\tsmall\t{name}/particles.star\n" for name in names)
    (tmp_path / "datasets.tsv").write_text(f"dataset\tlike\tinput.particles_star\n{rows}")
    (tmp_path / "run.yaml").write_text(f"datasets_table: {tmp_path}/datasets.tsv\ndatasets_dir: {tmp_path}\ndata_root: {tmp_path}\n")
    return tmp_path


def states(folder):
    with (folder / "results/datasets.tsv").open() as stream:
        return {row["dataset"]: row for row in csv.DictReader(stream, delimiter="\t")}


def test_a_data_set_that_fails_leaves_the_others_running_and_is_listed_until_it_is_mended(three, copy):
    code, output = snakemake(three, "reprocess", "--configfile", str(three / "run.yaml"), root=copy)
    assert code != 0
    assert "disk: " in output
    rows = states(three)
    assert {name: row["status"] for name, row in rows.items()} == {"first": "finished", "second": "failed", "third": "finished"}
    assert (three / rows["second"]["log"]).is_file()
    assert "stack.mrcs" in rows["second"]["message"]
    assert (three / "results/third/normalized/particles.star").is_file()
    make_stack(three / "second", count=8, whole=True)
    code, output = snakemake(three, "reprocess", "--configfile", str(three / "run.yaml"), root=copy)
    assert code == 0, output
    assert {row["status"] for row in states(three).values()} == {"finished"}
    assert "3 finished, 0 failed" in (three / "results/datasets.html").read_text()
    assert json.loads((three / "results/datasets.json").read_text())["counts"]["finished"] == 3
    assert planned(three, "reprocess", "--configfile", str(three / "run.yaml"), root=copy) == {}


def test_a_changed_stack_behind_an_unchanged_table_is_read_again_once(three, copy):
    asked = ("--configfile", str(three / "run.yaml"), "--config", "datasets=[first]")
    code, output = snakemake(three, *asked, root=copy)
    assert code == 0, output
    assert planned(three, *asked, root=copy) == {}
    stack, star = (three / "first" / name for name in ("stack.mrcs", "particles.star"))
    before = star.stat().st_mtime_ns
    content = bytearray(stack.read_bytes())
    content[-2:] = b"\0\0"
    stack.write_bytes(content)
    assert star.stat().st_mtime_ns == before
    assert {"import_particles", "normalize_particles", "preflight"} <= planned(three, *asked, root=copy).keys()
    code, output = snakemake(three, *asked, root=copy)
    assert code == 0, output
    assert "1 of 1 files changed since they were read before" in (three / "logs/import_particles/first.log").read_text()
    assert planned(three, *asked, root=copy) == {}


def test_a_run_that_does_not_fit_the_disk_starts_no_job(three):
    disk = shutil.disk_usage(three).free
    settings = ["--config", "simulate={count: 1000, per_micrograph: 100000, micrograph_size: 4096}", "datasets=[demo]", "disk_check=refuse"]
    assert disk < 1000 * 100000 * 64**2 * 4 * 6
    code, output = snakemake(three, *settings)
    assert code != 0
    assert "free some, set results to another disk" in output
    assert "Traceback" not in output
    assert not (three / "results").exists()


# What a change reruns


@pytest.fixture(scope="module")
def project(copy):
    """The copy, in which the tiny data set is done: its files are empty, Snakemake's records are those of a real run."""
    code, output = snakemake(copy, "--summary", *TINY, root=copy)
    assert code == 0, output
    for line in output.splitlines():
        name = line.split("\t")[0]
        if "/" in name and len(line.split("\t")) > 5:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).mkdir(exist_ok=True) if name.endswith("/coordinates") else (copy / name).touch()
    code, output = snakemake(copy, "--touch", "--forceall", *TINY, root=copy)
    assert code == 0, output
    assert planned(copy, *TINY, root=copy) == {}
    return copy


TINY = ("--config", "datasets=[tiny]", "datasets_dir=config/test/datasets", "denoisers=[ours]")
PREPARED = {"simulate_micrographs", "extract_particles"}
LEARNT = {"make_training_pairs", "train_diffusion", "train_postprocess"}


@pytest.mark.parametrize(
    ("change", "present", "absent"),
    [
        (
            "postprocess={steps: 400}",
            {"train_postprocess", "restore_particles", "write_report"},
            PREPARED | {"make_training_pairs", "train_diffusion"},
        ),
        ("normalize={bg_radius: 12}", {"normalize_particles", "split_particles", "reconstruct_map", *LEARNT}, PREPARED),
        (
            "report={montage_count: 4}",
            {"evaluate_restoration", "write_report"},
            PREPARED | LEARNT | {"restore_particles", "reconstruct_map", "compute_fsc"},
        ),
        ("restore={evidence_threshold: 0.4}", {"restore_particles"}, PREPARED | LEARNT | {"normalize_particles"}),
        ("fsc={thresholds: [0.5, 0.2, 0.143]}", {"compute_fsc", "write_report"}, PREPARED | LEARNT | {"restore_particles", "reconstruct_map"}),
        ("split={holdout_fraction: 0.2}", {"split_particles"}, PREPARED | {"normalize_particles"}),
    ],
)
def test_a_changed_parameter_reruns_what_depends_on_it_and_nothing_else(project, change, present, absent):
    plan = set(planned(project, *TINY, change, root=project))
    assert present <= plan
    assert not absent & plan


@pytest.mark.parametrize("change", ["keep_intermediates=false", "disk_check=none", "container=other.sif", "data_root=/elsewhere"])
def test_what_belongs_to_the_run_alone_reruns_nothing(project, change):
    assert planned(project, *TINY, change, root=project) == {}


def test_a_changed_module_reruns_the_steps_that_use_it_and_no_others(project):
    module = project / "src/cryorestore/postprocess.py"
    text = module.read_text()
    module.write_text(text + "\n# another end\n")
    plan = set(planned(project, *TINY, root=project))
    module.write_text(text)
    assert {"train_postprocess", "restore_particles"} <= plan
    assert not plan & {*PREPARED, "normalize_particles", "split_particles", "make_training_pairs"}


def test_changing_to_conda_reruns_nothing(project, tmp_path):
    path = path_with_conda(tmp_path)
    assert planned(project, *TINY, "--sdm", "conda", root=project, path=path) == {}
    with_the_trap = planned(project, *TINY, "--sdm", "conda", "--rerun-triggers", "software-env", root=project, path=path)
    assert {"extract_particles", "train_diffusion"} <= with_the_trap.keys()


def path_with_conda(folder):
    """PATH with conda on it: the machine's own, or a stand-in that answers what a dry-run asks, which is where conda would put things."""
    if shutil.which("conda"):
        return os.environ["PATH"]
    information = json.dumps({"conda_prefix": str(folder), "platform": "linux-64", "conda_version": "25.1.0"})
    priority = json.dumps({"get": {"channel_priority": "strict"}})
    answers = f"info) echo '{information}';; config) echo '{priority}';; --version) echo 'conda 25.1.0';; *) exit 1;;"
    program = folder / "conda"
    program.write_text(f"#!/bin/sh\ncase $1 in {answers} esac\n")
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


# Scale


def test_two_hundred_data_sets_of_two_thousand_micrographs_are_planned_in_time(tmp_path):
    rows = ["dataset\tlike\tinput.micrographs_star\tinput.coordinates\tinput.particles_star\n"]
    for number in range(200):
        name = f"set{number:03d}"
        (tmp_path / name / "picks").mkdir(parents=True)
        for file in ("micrographs.star", "particles.star"):
            (tmp_path / name / file).touch()
        for micrograph in range(2000):
            os.link(tmp_path / name / "particles.star", tmp_path / name / f"picks/mic_{micrograph:04d}.star")
        note_files(
            tmp_path / f"results/{name}/work/extract_particles/files.json", sorted((tmp_path / name / "picks").iterdir()), version=None
        )  # stands for the micrographs that a former run read
        rows.append(f"{name}\tlike-this\t{name}/micrographs.star\t{name}/picks/*.star\t{name}/particles.star\n")
    (tmp_path / "like-this.yaml").write_text(
        "input: {kind: micrographs}\nextract: {box_size: 256, scale: 128}\nnormalize: {bg_radius: 48}\nmask: {radius: 90}\n"
    )
    (tmp_path / "datasets.tsv").write_text("".join(rows))
    (tmp_path / "run.yaml").write_text(f"datasets_table: {tmp_path}/datasets.tsv\ndatasets_dir: {tmp_path}\ndata_root: {tmp_path}\n")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    plan = planned(tmp_path, "reprocess", "--configfile", str(tmp_path / "run.yaml"), root=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{sum(plan.values())} jobs planned in {seconds:.1f} s of processor time")
    assert plan["extract_particles"] == 200
    assert sum(plan.values()) < 200 * 40
    assert seconds <= PLANNING_LIMIT
