"""The small chain through a real slurmctld, its jobs interrupted in every way that a cluster knows, and its results equal to a local run's."""

import os
import random
import re
import time

import pytest
import yaml

from results_bytes import differences, fingerprints
from slurm.interruptions import Interruptions, end_leftovers
from slurm.profiles import SHIPPED, changed_profile
from slurm.running import CONFIGURATION, LOCAL, QUICK, Snakemake, run_to_end, running

pytestmark = pytest.mark.slurm
LONGEST = 1800.0
GPU_RULES = yaml.safe_load(SHIPPED.read_text())["set-resources"]
CHANGES = {
    "default-resources": {"runtime": 77},
    "set-resources": {
        "extract_particles": {"mem_mb": "100 * 10 ** (attempt - 1)"},
        "train_postprocess": {"slurm_partition": "spot", "gpu": 0, "gres": "gpu:1", "runtime": "1 if attempt == 1 else 60"},
    },
}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A run without a cluster, which goes on while the other one waits in its queue."""
    folder = tmp_path_factory.mktemp("local")
    with Snakemake(folder, *CONFIGURATION, profile=LOCAL, log=folder.with_name("local.log")) as snakemake:
        yield folder, snakemake


@pytest.fixture(scope="module")
def reference(local):
    folder, snakemake = local
    assert snakemake.wait(LONGEST) == 0, snakemake.tail()
    return fingerprints(folder / "results")


@pytest.fixture(scope="module")
def run(cluster, local, tmp_path_factory):
    """The folder of an interrupted run, what befell it, and what its two Snakemakes said."""
    base = tmp_path_factory.mktemp("slurm")
    folder, profile = base / "run", changed_profile(base / "profile", CHANGES)
    folder.mkdir()
    seed = int(os.environ.get("CRYORESTORE_SEED") or random.randrange(10**6))
    print(f"\nCRYORESTORE_SEED={seed} repeats these moments")
    happening, draw = Interruptions(folder, seed), random.Random(seed)
    arguments = (*CONFIGURATION, *QUICK)
    with Snakemake(folder, *arguments, profile=profile, log=base / "first.log") as first:
        follow(first, happening, until=lambda: happening.trainings_are_over and running("restore_particles"))
        time.sleep(draw.uniform(0, 2))
    happening.done.append("kill -9 of Snakemake while restore_particles ran")
    end_leftovers(first.run_id)
    run_to_end(folder, *arguments, "--unlock", profile=profile, seconds=60)
    with Snakemake(folder, *arguments, profile=profile, log=base / "second.log") as second:
        follow(second, happening, until=lambda: not second.is_running)
    print("\n".join(happening.done))
    assert second.process.returncode == 0, second.tail()
    return folder, happening, first.log.read_text() + second.log.read_text()


def follow(snakemake, happening, until):
    end = time.monotonic() + LONGEST
    while not until() and snakemake.is_running:
        assert time.monotonic() < end, snakemake.tail()
        happening.advance()
        time.sleep(0.3)


def test_everything_that_was_planned_happened(run):
    assert run[1].is_over, run[1].done
    told = "\n".join(run[1].done)
    assert "ended by SLURM at its limit: TIMEOUT" in told
    assert "preempted, and saved" in told
    assert len(re.findall(r"\): (?:cancel|kill_script|lose_node)$", told, re.M)) == 5


def test_the_results_are_the_local_runs_bytes(run, reference):
    assert differences(fingerprints(run[0] / "results"), reference) == []
    assert len(reference) > 50


def test_trainings_went_on_where_they_were(run):
    for name in ("train_diffusion/tiny_sr3+post_half1", "train_diffusion/tiny_sr3+post_half2", "train_postprocess/tiny_sr3+post_half1"):
        assert "goes on after step" in (run[0] / f"logs/{name}.log").read_text(), name


def test_nothing_half_written_is_left(run):
    assert [path for path in (run[0] / "results").rglob("*") if "partial" in path.name and "work" not in path.parts] == []


def test_every_job_asked_for_its_partition_time_memory_and_gpus(run):
    for told in run[1].asked.values():
        rule, asked = told.split()[0], dict(word.split("=", 1) for word in told.split() if "=" in word)
        spot, gpu = "train_postprocess" in rule, any(rule.startswith(f"rule_{name}_wildcards") for name in GPU_RULES)
        assert asked["Partition"] == ("spot" if spot else "gpu" if gpu else "cpu"), told
        expected = ("gres:gpu:1", None) if spot else (None, "gres:gpu:1" if gpu else None)
        assert (asked.get("TresPerNode"), asked.get("TresPerJob")) == expected, told
        assert (asked["NumTasks"], asked["Requeue"]) == ("1", "1"), told
        assert asked["MinMemoryNode"] != "0", told
        assert asked["TimeLimit"] not in ("UNLIMITED", "01:17:00"), told


def test_too_little_memory_is_mended_by_the_next_attempt(run):
    asked = [told for told in run[1].asked.values() if told.startswith("rule_extract_particles")]
    assert "MinMemoryNode=100M" in asked[0]
    assert any("MinMemoryNode=1000M" in told for told in asked[1:])


def test_short_steps_travel_together(run):
    rules = [told.split()[0] for told in run[1].asked.values()]
    assert not [rule for rule in rules if re.match("rule_(split|join|compute_fsc|compute_truth|evaluate|write)", rule)]


def test_logs_of_failed_jobs_are_kept(run):
    kept = [str(path.relative_to(run[0] / "logs/slurm")) for path in (run[0] / "logs/slurm").rglob("*.log")]
    assert any("train_diffusion" in path for path in kept), kept
    assert any("extract_particles" in path for path in kept), kept


def test_a_gpu_that_is_none_is_told(run):
    assert "no GPU" in (run[0] / "logs/train_diffusion/tiny_sr3+post_half1.log").read_text()
