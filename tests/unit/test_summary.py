import io
import json

import pytest
from rich.console import Console

from cryorestore.errors import CryorestoreError
from cryorestore.files import read_json, write_json
from cryorestore.summary import SELF_CONSISTENCY, headline, print_headline, write_summary
from results_tree import make_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    tree = make_tree(tmp_path_factory.mktemp("results"))
    tree.evaluate()
    return tree


def _summary(tree, **changes):
    summary, methods = tree.summarize(**changes)
    return json.loads(summary.read_text()), json.loads(methods.read_text())


def test_a_passed_control_lets_the_self_consistency_through(tree):
    summary, _ = _summary(tree)
    expected = json.loads((tree.root / "restored.ours/fsc.json").read_text())["resolutions"]["0.143"]
    assert summary[SELF_CONSISTENCY] == expected
    assert summary["controls"]["noise_only"]["verdict"] == "passed"


def test_without_controls_the_self_consistency_is_withheld(tree):
    summary, _ = _summary(tree, controls=False)
    assert summary[SELF_CONSISTENCY] is None
    assert "no control was run" in summary["self_consistency_reason"]


def test_a_failed_control_withholds_it_and_says_why(tmp_path):
    tree = make_tree(tmp_path, control_passed=False)
    tree.evaluate()
    summary, _ = _summary(tree)
    assert summary[SELF_CONSISTENCY] is None
    assert summary["self_consistency_reason"] == "withheld: control noise_only failed: 20 % of the noise images accepted"


def test_resolutions_of_fused_stacks_stand_by_their_names_and_there_are_none_without(tmp_path):
    tree = make_tree(tmp_path)
    tree.evaluate()
    assert _summary(tree)[0]["fused"] == {}
    tree.fuse()
    summary, methods = _summary(tree, fused=True)
    expected = {
        stack: {
            "resolution_0143": read_json(tree.root / stack / "fsc.json")["resolutions"]["0.143"],
            "truth_resolution_05": read_json(tree.root / stack / "fsc_truth.json")["resolutions"]["0.5"],
        }
        for stack in ("fused.marginal", "fused.mean-pose")
    }
    assert summary["fused"] == methods["ours"]["fused"] == expected
    assert all(value is not None for figures in expected.values() for value in figures.values())


def test_time_is_the_sum_and_memory_the_largest(tree):
    summary, _ = _summary(tree)
    assert summary["seconds_total"] == pytest.approx(90.5)
    assert summary["peak_memory_gib"] == pytest.approx(2.0)


def test_all_methods_stand_in_methods_and_the_first_in_the_summary(tmp_path):
    tree = make_tree(tmp_path, methods=("ours", "sr3+post"))
    for method in ("ours", "sr3+post"):
        tree.evaluate(method=method)
    summary, methods = _summary(tree, denoisers=("sr3+post", "ours"))
    assert summary["method"] == "sr3+post"
    assert methods.keys() == {"ours", "sr3+post"}
    assert methods["sr3+post"] == summary


@pytest.mark.parametrize("agreement", [0.98, None])
def test_the_agreement_of_another_backend_stands_in_the_summary(tree, agreement):
    write_json(tree.root / "backend_check.json", {"backend": "relion", "agreement": agreement, "reason": None})
    files = {"evaluations": [tree.root / "evaluation/ours.json"], "restored_fscs": [tree.root / "restored.ours/fsc.json"]}
    files |= {"summary": tree.root / "checked.json", "methods": tree.root / "checked_methods.json", "raw_fsc": tree.root / "raw/fsc.json"}
    backend_check = tree.root / "backend_check.json"
    write_summary(**files, controls=[], benchmarks=[], backend_check=backend_check, dataset="made_up", denoisers=["ours"])
    assert read_json(files["summary"])["backend_agreement"] == agreement


def test_a_missing_file_of_a_method_is_told(tree):
    fscs = {"raw_fsc": tree.root / "raw/fsc.json", "restored_fscs": [tree.root / "restored.ours/fsc.json"] * 2}
    outputs = {"summary": tree.root / "unwritten.json", "methods": tree.root / "unwritten.json"}
    with pytest.raises(CryorestoreError, match="evaluations: found 1 files, expected one for each of ours, other"):
        write_summary(evaluations=["ours.json"], controls=[], benchmarks=[], **fscs, **outputs, dataset="made_up", denoisers=["ours", "other"])
    assert not outputs["summary"].exists()


def test_without_truth_the_scores_are_null(tmp_path):
    tree = make_tree(tmp_path)
    tree.evaluate(truth=False)
    summary, _ = _summary(tree, truth=False)
    assert all(summary[name] is None for name in ("psnr_raw", "psnr_restored", "frc05_raw", "truth_resolution_raw_05"))
    assert summary["resolution_raw_0143"] is not None


def test_the_headline_never_shows_the_self_consistency(tree):
    summary, _ = _summary(tree)
    text = " ".join(f"{label} {value}" for label, value in headline(summary))
    assert "PSNR raw / Wiener / restored" in text
    assert "consistency" not in text


def test_the_headline_is_plain_lines_off_a_terminal_and_a_table_on_one(tree):
    summary, _ = _summary(tree)
    plain, table = (io.StringIO() for _ in range(2))
    print_headline(summary, report="report.html", console=Console(file=plain, force_terminal=False, width=200))
    print_headline(summary, report="report.html", console=Console(file=table, force_terminal=True, width=120))
    assert plain.getvalue().splitlines()[-1] == "report: report.html"
    assert "│" not in plain.getvalue()
    assert "│" in table.getvalue()
