"""The SLURM profile without a cluster: what it would submit, told by stand-ins for SLURM's programs, and the examples of docs/hpc.md."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cryorestore.cluster import check_status_query
from cryorestore.errors import CryorestoreError
from slurm.profiles import SHIPPED, changed_profile, planned_jobs

ROOT = Path(__file__).parents[2]
EXAMPLES = dict(re.findall(r"^### (.+?)\n.*?^```yaml\n(.*?)^```", (ROOT / "docs/hpc.md").read_text(), re.M | re.S))
GPU_RULES = {"train_diffusion", "train_postprocess", "restore_particles", "restore_shard", "restore_unposed", "restore_fold", "find_poses"}
GPU_RULES |= {"restore_general"}
GPU_RULES |= {"train_control_diffusion", "train_control_postprocess", "train_fold_diffusion", "train_fold_postprocess"}
GPU_RULES |= {f"control_{name}" for name in ("noise_only", "phase_randomised", "shared_network", "changed_map", "junk")}
TINY = ["--configfile", str(ROOT / "config/test/tiny.yaml")]


def snakemake(folder, *arguments, path=None):
    line = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder), "--nocolor", *arguments]
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"} if path else None
    return subprocess.run(line, capture_output=True, text=True, env=environment, check=False, timeout=120)


def stand_in(folder, name, script):
    """A program of that name, first in the path."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(tmp_path):
    """A folder of stand-ins for SLURM's programs: every job fails at once, and what sbatch was asked stands in `calls` beside it."""
    folder = tmp_path / "bin"
    stand_in(folder, "sbatch", f'echo "$@" >> {tmp_path}/calls; wc -l < {tmp_path}/calls')
    stand_in(folder, "squeue", f'for job in $(seq $(wc -l < {tmp_path}/calls)); do echo "$job|FAILED"; done')
    stand_in(folder, "scontrol", "echo 'MinJobAge = 300 sec'")
    stand_in(folder, "sacct", 'echo "Slurm accounting storage is disabled" >&2; exit 1')
    stand_in(folder, "sinfo", "echo cpu")
    return folder


def submitted(tmp_path, programs, target, changes):
    """What sbatch was asked for `target`, whose inputs are there, and for its retries."""
    quick = {"slurm-init-seconds-before-status-checks": 1, "max-status-checks-per-second": 10, "latency-wait": 1, "retries": 2}
    profile = changed_profile(tmp_path / "profile", {**quick, **changes})
    place = tmp_path / "run"
    done = snakemake(place, "--profile", str(profile), target, *TINY, path=programs)
    calls = tmp_path / "calls"
    assert calls.exists(), done.stdout + done.stderr
    return [line.split(" --wrap=")[0] for line in calls.read_text().splitlines()]


def test_one_line_says_where_the_gpu_rules_go():
    text = SHIPPED.read_text()
    profile = yaml.safe_load(text)
    assert set(profile["set-resources"]) == GPU_RULES
    assert {tuple(sorted(asked.items())) for asked in profile["set-resources"].values()} == {(("slurm_partition", "gpu"),)}
    assert text.count("slurm_partition: gpu") == 1


def test_the_gpu_rules_are_those_that_have_a_gpu_among_their_resources():
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    blocks = re.split(r"^rule ", rules, flags=re.M)[1:]
    own = {block.split(":")[0] for block in blocks if re.search(r"^ +gpu=", block, re.M)}
    inherited = {name for base, name in re.findall(r"^use rule (\w+) as (\w+) with:", rules, re.M) if base in own}
    assert own | inherited == GPU_RULES


@pytest.mark.slow
def test_memory_and_run_time_double_with_every_retry(tmp_path, programs):
    calls = submitted(tmp_path, programs, "results/tiny/simulated/particles.star", {})
    assert [re.search(r"--mem (\d+)", call)[1] for call in calls] == ["4096", "8192", "16384"]
    assert [re.search(r" -t (\d+)", call)[1] for call in calls] == ["30", "60", "120"]
    for call in calls:
        assert " -p cpu " in call
        assert "--requeue" in call
        assert "--open-mode=append" in call
        assert "--cpus-per-task=1" in call


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "expected"),
    [({"gpu": 2}, "--gpus=2"), ({"gpu": 0, "gres": "gpu:a100:2"}, "--gres=gpu:a100:2"), ({"gpu": 1, "gpu_model": "a100"}, "--gpus=a100:1")],
    ids=["gpus", "gres", "model"],
)
def test_gpus_are_asked_for_with_one_task(tmp_path, programs, asked, expected):
    rule = {"simulate_micrographs": {"slurm_partition": "gpu", "slurm_account": "lab", "qos": "high", **asked}}
    stand_in(programs, "sacctmgr", "echo lab")
    call = submitted(tmp_path, programs, "results/tiny/simulated/particles.star", {"retries": 0, "set-resources": rule})[0]
    assert [word for word in call.split() if word.startswith(("--gpus", "--gres"))] == [expected]
    assert "--ntasks" not in call.replace("--ntasks=1 ", "")
    for once in ("--mem ", " -t ", "--cpus-per-task=", " -p gpu ", " -A lab", "--qos=high"):
        assert call.count(once) == 1, call


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_the_documentation_are_profiles_that_plan_a_run(tmp_path, name):
    changes = yaml.safe_load(EXAMPLES[name])
    profile = changed_profile(tmp_path / "profile", changes)
    stand_in(tmp_path / "bin", "apptainer", "echo apptainer version 1.3.6")
    done = snakemake(tmp_path / "run", "--profile", str(profile), *TINY, "--dry-run", path=tmp_path / "bin")
    assert done.returncode == 0, done.stdout + done.stderr
    planned = done.stdout + done.stderr
    for asked in changes.get("set-resources", {}).values():
        for resource, value in asked.items():
            assert f"{resource}={value}" in planned


def test_the_documentation_has_examples_for_typical_clusters():
    text = "\n".join(EXAMPLES.values())
    for word in ("slurm_account", "qos", "gpu:a100", "slurm-status-command: sacct", "apptainer", "preempt"):
        assert word in text + "\n".join(EXAMPLES), word


def test_sacct_without_accounting_is_told_before_anything_is_submitted(tmp_path, programs):
    profile = changed_profile(tmp_path / "profile", {"slurm-status-command": "sacct"})
    done = snakemake(tmp_path / "run", "--profile", str(profile), *TINY, path=programs)
    assert done.returncode != 0
    assert "cannot be had from sacct" in done.stdout + done.stderr
    assert "slurm-status-command: squeue" in done.stdout + done.stderr
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("sacct", "this cluster keeps no accounts (Slurm accounting storage is disabled)"), ("sacct-refused", None), ("sacct-empty", None)],
)
def test_public_report_16_sacct_that_is_disabled_refused_or_empty(make_case, monkeypatch, tmp_path, name, expected):
    case = make_case("case-16-fake-sacct")
    answer = next(case.rglob(name))
    stand_in(tmp_path / "first", "sacct", f'exec {answer} "$@"')
    stand_in(tmp_path / "first", "scontrol", "echo 'AccountingStorageType = accounting_storage/slurmdbd'")
    monkeypatch.setenv("PATH", f"{tmp_path / 'first'}:{os.environ['PATH']}")
    if expected:
        with pytest.raises(CryorestoreError, match=re.escape(expected)):
            check_status_query("sacct")
    else:
        assert "slurm-status-command: squeue" in check_status_query("sacct")[0]


def test_sacct_that_never_answers_is_told(monkeypatch, tmp_path):
    stand_in(tmp_path, "sacct", "exec sleep 5")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(CryorestoreError, match=r"did not answer within 0 s.*squeue"):
        check_status_query("sacct", patience=0.2)


def test_no_sacct_at_all_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CryorestoreError, match="no such program"):
        check_status_query("sacct")


@pytest.mark.parametrize(("age", "doubts"), [("300 sec", 0), ("60 sec", 1)])
def test_squeue_that_forgets_too_soon_is_told(monkeypatch, tmp_path, age, doubts):
    stand_in(tmp_path, "scontrol", f"echo 'MinJobAge = {age}'")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert len(check_status_query("squeue")) == doubts


@pytest.mark.slow
def test_public_report_17_two_gpus_are_one_task(make_case, tmp_path, programs, monkeypatch):
    recorder = next(make_case("case-17-fake-sbatch").rglob("sbatch"))
    monkeypatch.setenv("FAKE_SBATCH_LOG", str(tmp_path / "recorded"))
    stand_in(programs, "sbatch", f'{recorder} "$@"; echo >> {tmp_path}/calls')
    stand_in(programs, "squeue", "echo '4711|FAILED'")
    submitted(tmp_path, programs, "results/tiny/simulated/particles.star", {"retries": 0, "set-resources": {"simulate_micrographs": {"gpu": 2}}})
    call = (tmp_path / "recorded").read_text().split(" --wrap=")[0]
    assert call.count("--gpus=2") == 1
    assert "ntasks" not in call
    for once in ("--mem ", " -t ", "--cpus-per-task="):
        assert call.count(once) == 1


def test_jobs_are_grouped_so_that_a_data_set_submits_fewer(tmp_path):
    done = snakemake(tmp_path / "run", "--profile", str(SHIPPED.parent), *TINY, "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    jobs, submitted = planned_jobs(done.stdout + done.stderr)
    assert jobs == int(re.search(r"^total +(\d+)", done.stdout + done.stderr, re.M)[1]) - 1
    assert submitted <= 0.75 * jobs
