import csv
import json
import os

import pytest

from cryorestore.bulk import summarize_datasets
from cryorestore.summary import gpu_hours, read_benchmarks

SUMMARY = {
    "method": "ours",
    "particles": 100,
    "box_size": 64,
    "pixel_size": 3.0,
    "resolution_raw_0143": 7.5,
    "self_consistency_restored_0143": None,
    "self_consistency_reason": "withheld: <because>",
    "truth_resolution_raw_05": None,
    "truth_resolution_restored_05": None,
    "seconds_total": 7200.0,
    "gpu_hours": 1.5,
    "controls": {"noise_only": {"verdict": "failed"}, "other": {"verdict": "passed"}},
    "failed_controls": ["noise_only"],
}


@pytest.fixture
def run(tmp_path):
    """Three data sets: one that finished, one whose normalization failed after an earlier whole run, one that never began."""
    for name in ("good", "bad"):
        write(tmp_path / f"results/{name}/summary.json", json.dumps(SUMMARY), age=100)
    finish(tmp_path, "extract_particles/good", begun=300, ended=200)
    finish(tmp_path, "extract_particles/bad", begun=300, ended=200)
    write(tmp_path / "logs/normalize_particles/bad.log", "2026-01-01 INFO begins\n2026-01-01 00:00 ERROR error: a stack is short\nand more\n", age=50)
    write(tmp_path / "logs/restore_particles/bad_ours_half1.log", "", age=40)
    return tmp_path


def write(path, text, *, age):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (1e9 - age, 1e9 - age))


def finish(folder, job, *, begun, ended):
    write(folder / f"logs/{job}.log", "", age=begun)
    write(folder / f"benchmarks/{job}.tsv", "", age=ended)


def summarized(folder, **more):
    outputs = {name: folder / file for name, file in (("table", "t.tsv"), ("summary", "t.json"), ("page", "t.html"))}
    folders = {name: folder / name for name in ("results", "logs", "benchmarks")}
    targets = {name: [str(folder / f"results/{name}/summary.json")] for name in ("good", "bad", "late")}
    summarize_datasets(targets=targets, **folders, **outputs, **more)
    return {row["dataset"]: row for row in json.loads(outputs["summary"].read_text())["datasets"]}


def test_each_data_set_has_its_state_and_only_a_finished_one_figures(run):
    rows = summarized(run, run_log="run.log")
    assert {name: row["status"] for name, row in rows.items()} == {"good": "finished", "bad": "failed", "late": "not finished"}
    assert (rows["good"]["resolution_raw_0143"], rows["good"]["seconds_total"], rows["good"]["gpu_hours"]) == (7.5, 7200.0, 1.5)
    assert (rows["good"]["controls_passed"], rows["good"]["controls_failed"]) == ("1 of 2", "noise_only")
    assert rows["bad"]["resolution_raw_0143"] is None
    assert rows["late"]["log"] == "run.log"


def test_the_methods_of_a_finished_data_set_stand_side_by_side_and_the_best_is_marked(run):
    methods = {name: SUMMARY | {"method": name, "psnr_restored": psnr} for name, psnr in (("map-bayes", 25.0), ("ours", 26.5))}
    write(run / "results/good/methods.json", json.dumps(methods), age=100)
    rows = summarized(run)
    assert [(row["method"], row["psnr_restored"], row["best"]) for row in rows["good"]["methods"]] == [
        ("ours", 26.5, True),
        ("map-bayes", 25.0, False),
    ]
    assert rows["bad"]["methods"] == []
    page = (run / "t.html").read_text()
    assert page.count("★") == 1
    assert page.index("<h2>Methods</h2>") < page.index("26.50 ★") < page.index("map-bayes")


def test_a_failure_is_that_of_the_first_job_with_its_log_and_last_error(run):
    row = summarized(run)["bad"]
    assert row["failed_step"] == "normalize_particles"
    assert row["log"] == str(run / "logs/normalize_particles/bad.log")
    assert row["message"] == "error: a stack is short"


def test_a_job_that_was_killed_says_nothing_and_is_listed(run):
    (run / "logs/normalize_particles/bad.log").unlink()
    row = summarized(run)["bad"]
    assert row["failed_step"] == "restore_particles"
    assert "killed" in row["message"]


def test_a_failure_that_a_later_run_made_good_is_none(run):
    write(run / "results/bad/summary.json", json.dumps(SUMMARY), age=10)
    assert summarized(run)["bad"]["status"] == "finished"


def test_a_name_that_begins_like_another_is_another(run):
    write(run / "logs/normalize_particles/good2_half1.log", "", age=10)
    assert summarized(run)["good"]["status"] == "finished"


def test_the_table_and_the_page_hold_the_same_and_the_page_escapes(run):
    rows = summarized(run)
    table = list(csv.DictReader((run / "t.tsv").open(), delimiter="\t"))
    assert [row["dataset"] for row in table] == list(rows) == ["good", "bad", "late"]
    assert table[0]["resolution_raw_0143"] == "7.5"
    assert table[1]["resolution_raw_0143"] == ""
    page = (run / "t.html").read_text()
    assert "1 finished, 1 failed, 1 not finished" in page
    assert "withheld: &lt;because&gt;" in page
    assert "a stack is short" in page


@pytest.mark.parametrize(
    ("resources", "gpus"),
    [
        ({"gpu": 2, "mem_mb": 10}, 2),
        ({"gpu": 0, "gres": "gpu:a100:3"}, 3),
        ({"gres": "gpu:1"}, 1),
        ({"gres": "gpu:a100"}, 1),
        ({"gres": "lustre:4"}, 0),
        ({"mem_mb": 10}, 0),
        (None, None),
    ],
)
def test_gpu_hours_are_seconds_times_gpus_asked_for_and_unknown_where_benchmarks_do_not_tell(tmp_path, resources, gpus):
    text = "s\tmax_rss\n7200\t1\n" if resources is None else f"s\tmax_rss\tresources\n7200\t1\t{resources}\n"
    write(tmp_path / "train_diffusion/a.tsv", text, age=0)
    steps = read_benchmarks([tmp_path / "train_diffusion/a.tsv"])
    assert steps[0]["gpus"] == gpus
    assert gpu_hours(steps) == (None if gpus is None else 2.0 * gpus)
