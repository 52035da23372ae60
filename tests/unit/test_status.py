"""The status of real runs of Snakemake on a small workflow: while it runs, when a job failed, when it was killed, when all is done."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from cryorestore.errors import CryorestoreError
from cryorestore.status import print_status, read_status, status
from cryorestore.status.estimate import estimate_end
from cryorestore.status.losses import all_losses, last_progress
from cryorestore.status.queue import queued_jobs
from cryorestore.status.run_log import FAILED, FINISHED, RUNNING, RunJob, RunLog, latest_run

WORKFLOW = """
rule all:
    input: "results/a/slow.txt", "results/a/broken.txt"

rule quick:
    output: "results/{dataset}/quick.txt"
    log: "logs/quick/{dataset}.log"
    benchmark: "benchmarks/quick/{dataset}.tsv"
    shell: "echo done > {output}"

rule slow:
    input: "results/{dataset}/quick.txt"
    output: "results/{dataset}/slow.txt"
    log: "logs/slow/{dataset}.log"
    benchmark: "benchmarks/slow/{dataset}.tsv"
    shell:
        "echo '2026-01-01 00:00:00,000 INFO training … 40 % 120/300, 12.3/s, 150 s left' > {log}; "
        "while [ ! -e go ]; do sleep 0.1; done; echo > {output}"

rule broken:
    input: "results/{dataset}/quick.txt"
    output: "results/{dataset}/broken.txt"
    log: "logs/broken/{dataset}.log"
    benchmark: "benchmarks/broken/{dataset}.tsv"
    shell: "[ -e mended ] || {{ echo '2026-01-01 00:00:00,000 ERROR error: a stack is short' > {log}; exit 1; }}; echo > {output}"
"""


def start(folder):
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--keep-going", "--nocolor", "--rerun-incomplete"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def wait_for(found, seconds=120):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.1)


def snakemake_said(folder):
    return "".join(path.read_text() for path in folder.glob(".snakemake/log/*"))


def told(folder):
    console = Console(record=True, width=200, force_terminal=False, file=io.StringIO())
    now = datetime.now()
    found = read_status(folder, None, now=now)
    print_status(found, console, now=now)
    return found, console.export_text()


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """What was told of one run while it ran and one of its jobs had failed, after it was killed, and after a second run had mended it."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "Snakefile").write_text(WORKFLOW)
    first = start(folder)
    try:
        wait_for(lambda: (folder / "logs/slow/a.log").exists() and "Error in rule" in snakemake_said(folder))
        running = told(folder)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    killed = told(folder)
    for name in ("go", "mended"):
        (folder / name).touch()
    subprocess.run([sys.executable, "-m", "snakemake", "--unlock"], cwd=folder, check=True, capture_output=True)
    assert start(folder).wait(120) == 0
    return folder, running, killed, told(folder)


def test_a_run_that_goes_on_tells_what_is_done_what_runs_what_failed_and_when_it_ends(course):
    found, text = course[1]
    assert found.state == "running"
    assert {job.rule: job.state for job in found.run.jobs.values()} == {"quick": FINISHED, "slow": RUNNING, "broken": FAILED}
    assert "running; 1 of 4 jobs done, 1 failed" in text
    assert "slow | a | 0:00:" in text
    assert "training 40 % 120/300, 12.3/s, 150 s left" in text
    assert "error: a stack is short" in text
    assert 60 < found.estimate.seconds <= 150


def test_a_run_that_was_killed_is_stopped_and_has_no_end(course):
    found, text = course[2]
    assert found.state == "stopped"
    assert found.estimate.seconds is None
    assert "start it again to go on" in text


def test_a_run_that_is_over_is_finished(course):
    found, text = course[3]
    assert found.state == "finished"
    assert {job.rule for job in found.run.of_state(FINISHED)} == {"all", "slow", "broken"}
    assert "running:" not in text


def test_the_status_is_printed_as_json(course, capsys):
    status(folder=course[0], as_json=True)
    content = json.loads(capsys.readouterr().out)
    assert content["results"] == str(course[0] / "results")
    assert (content["state"], content["jobs_planned"], content["jobs_finished"]) == ("finished", 3, 3)
    assert {job["rule"] for job in content["jobs"]} == {"all", "slow", "broken"}


def test_a_folder_without_a_run_says_where_it_looked(tmp_path):
    with pytest.raises(CryorestoreError, match=r"\.snakemake/log: found no log, expected a run"):
        latest_run(tmp_path)


def test_a_log_of_slurm_jobs_is_read_with_the_runs_name_and_a_retry(tmp_path):
    """Lines as the SLURM executor wrote them in a run of this project's small chain."""
    path = tmp_path / ".snakemake/log/2026-01-01.snakemake.log"
    path.parent.mkdir(parents=True)
    block = [
        "rule train_diffusion:",
        "    input: results/tiny/pairs/half1/pairs.safetensors",
        "    log: logs/train_diffusion/tiny_ours_half1.log",
        "    jobid: 13",
        "    benchmark: benchmarks/train_diffusion/tiny_ours_half1.tsv",
        "    wildcards: dataset=tiny, method=ours, half=1",
    ]
    failed = [
        "[Wed Nov 25 05:01:13 2026]",
        "Error in rule train_diffusion:",
        "    jobid: 13",
        "Shutting down, this might take some time.",
        "Trying to restart job 13.",
    ]
    head = ["  Date: 2026-11-25 04:59:13", "  Host: vm", "SLURM run ID: cryorestore_abf7", "Job stats:", "job                count", "-----  -----"]
    planned = ["train_diffusion        1", "all                    1", "total                  2"]
    lines = [*head, *planned, "[Wed Nov 25 05:00:00 2026]", *block, *failed, "[Wed Nov 25 05:02:00 2026]", *block]
    path.write_text("\n".join(lines))
    run = latest_run(tmp_path)
    (job,) = run.jobs.values()
    assert not run.is_over
    assert (run.run_id, run.planned) == ("cryorestore_abf7", {"train_diffusion": 1, "all": 1})
    assert (job.state, job.dataset, job.name, job.began) == (RUNNING, "tiny", "tiny, ours, 1", datetime(2026, 11, 25, 5, 2))


@pytest.mark.parametrize("results", ["/{folder}/scratch/apo/results", "elsewhere", "apo"])
def test_results_are_found_where_the_runs_jobs_write_them_and_else_asked_for(tmp_path, capsys, results):
    """Also where the folder is called as the data set is."""
    where = results.replace("/{folder}", str(tmp_path))
    path = tmp_path / "run/.snakemake/log/2026-01-01.snakemake.log"
    path.parent.mkdir(parents=True)
    outputs = [f"{where}/apo/{name}" for name in ("imported/particles.star", "apo/map.mrc, x.mrc", "models/ours/half1/diffusion.safetensors")]
    blocks = [
        [f"rule step{number}:", f"    output: {name}", f"    jobid: {number}", "    wildcards: dataset=apo"] for number, name in enumerate(outputs)
    ]
    head = ["  Date: 2026-11-25 04:59:13", "  Host: elsewhere", "Job stats:", "job    count", "-----  -----", "step0      1", "total      3"]
    path.write_text("\n".join(head + [line for block in blocks for line in block]))
    status(folder=tmp_path / "run")
    assert f"{tmp_path / 'run' / where} is not there; say with --results where the results are" in capsys.readouterr().out
    history = tmp_path / "run" / where / "apo/models/ours/half1/diffusion_history.csv"
    history.parent.mkdir(parents=True)
    history.write_text("step,images,seconds,training_loss,validation_loss,learning_rate\n7,80,2,0.7,,1\n")
    status(folder=tmp_path / "run", as_json=True)
    assert [losses["step"] for losses in json.loads(capsys.readouterr().out)["losses"]] == [7]


def test_results_that_are_given_and_no_folder_are_refused(course, tmp_path):
    with pytest.raises(CryorestoreError, match="found no folder, expected that of the results; leave it out"):
        status(folder=course[0], results=tmp_path / "absent")


def test_the_end_is_what_waits_and_runs_divided_by_the_jobs_side_by_side():
    began = datetime(2026, 1, 1, 12)
    minute = timedelta(minutes=1)
    run = RunLog(path=Path(), planned={"short": 6, "long": 1, "new": 1, "all": 1})
    for number in range(4):
        begin = began + number // 2 * minute
        run.jobs[str(number)] = RunJob(str(number), "short", began=begin, ended=begin + minute, state=FINISHED)
    now = began + 3 * minute
    run.jobs["9"] = RunJob("9", "long", began=began + 2 * minute)
    found = estimate_end(run, {"short": [60.0, 60.0], "long": [90.0]}, {}, now=now)
    # five job minutes in three minutes; two short ones wait (120 s), of the long one 30 s are left
    assert found.seconds == pytest.approx(150 / (5 / 3))
    assert found.unknown == ["new"]
    assert estimate_end(run, {"short": [60.0]}, {"9": 400.0}, now=now).seconds == pytest.approx(400.0)
    assert estimate_end(run, {}, {}, now=now).seconds is None


def test_losses_of_finished_and_of_running_trainings_are_told(tmp_path):
    header = "step,images,seconds,training_loss,validation_loss,learning_rate\n"
    rows = {
        "models/ours/half1/diffusion_history.csv": "0,0,0,,0.9,1\n10,160,3,0.5,0.4,1\n",
        "work/train_postprocess/a_b_half2/losses.csv": "5,80,2,0.7,,1\n",
    }
    for name, text in rows.items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True)
        path.write_text(header + text)
    first, second = all_losses(tmp_path)
    assert (first.method, first.half, first.network, first.is_finished) == ("ours", "1", "diffusion", True)
    assert (first.step, first.validation_loss, first.best_validation_loss) == (10, 0.4, 0.4)
    assert (second.method, second.half, second.network, second.is_finished) == ("a_b", "2", "postprocess", False)
    assert (second.training_loss, second.validation_loss) == (0.7, None)


def test_the_last_word_of_a_training_is_its_loss_where_that_is_newer(tmp_path):
    log = tmp_path / "a.log"
    loss = "step 130: validation loss 0.02 (best 0.02 at step 130)"
    log.write_text(f"2026-01-01 00:00:00,000 INFO training … 40 % 120/300, 12.3/s, 15 s left\n2026-01-01 00:00:01,000 INFO {loss}\n")
    assert last_progress(log) == (loss, None)
    assert last_progress(tmp_path / "none.log") == ("", None)


def test_a_run_of_slurm_jobs_without_squeue_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert queued_jobs(None) == ([], "")
    assert "no squeue here" in queued_jobs("cryorestore_x")[1]
