import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cryorestore.config import STEPS, input_files, load_configuration

ROOT = Path(__file__).parents[2]
CONTROLS = {"control_noise_only", "control_phase_randomised", "control_shared_network"}
FULL_ON_GPUS = {"control_changed_map", "control_junk", "train_control_diffusion", "train_control_postprocess"}
FOLDS_ON_GPUS = {"train_fold_diffusion", "train_fold_postprocess", "restore_fold"}
DATASETS = sorted(path.stem for path in (ROOT / "config/datasets").glob("*.yaml"))


def snakemake(folder, *arguments, root=ROOT):
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile"), "--directory", str(folder), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "CRYORESTORE_DATA"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def dry_run(folder, *arguments, root=ROOT):
    return snakemake(folder, "--dry-run", "--quiet", "rules", "--profile", str(root / "profiles/local"), *arguments, root=root)


def job_counts(output):
    lines = output.split("Job stats:")[1].split("total")[0].splitlines()
    return {line.split()[0]: int(line.split()[1]) for line in lines if len(line.split()) == 2 and line.split()[1].isdigit()}


def placeholders(folder, *names):
    """Empty files where the data sets expect theirs: a dry-run looks at names only."""
    settings = load_configuration({"datasets": list(names), "data_root": str(folder)}).settings
    for name in names:
        files = input_files(settings[name])
        files.pop("coordinates", None)
        Path(files.pop("project_root", folder)).mkdir(parents=True, exist_ok=True)
        if settings[name]["input"]["coordinates"]:
            files["picks"] = str(folder / settings[name]["input"]["coordinates"].replace("*", "mic_0001"))
        for path in [path for value in files.values() for path in ([value] if isinstance(value, str) else value)]:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).touch()


def test_the_snakefile_is_one_page_and_every_rules_file_is_included():
    text = (ROOT / "Snakefile").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
    every = text + "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk"))
    assert all(f'{path.name}"' in every for path in (ROOT / "rules").glob("*.smk"))


def test_all_shipped_data_sets_are_planned_in_one_run(tmp_path):
    placeholders(tmp_path / "data", *DATASETS)
    done = dry_run(tmp_path, "--config", f"datasets=[{','.join(DATASETS)}]", f"data_root={tmp_path / 'data'}")
    assert done.returncode == 0, done.stderr
    jobs = job_counts(done.stdout + done.stderr)
    assert jobs["normalize_particles"] == len(DATASETS)
    # halves x stacks: the demo has raw and two methods, five sets raw and one, two raw alone
    assert jobs["reconstruct_map"] == 2 * (3 + 5 * 2 + 2 * 1)
    assert jobs["compute_truth_fsc"] == 3 + 2 + 1
    assert jobs["find_poses"] == 2 * jobs["judge_poses"] == 2 * 2


@pytest.mark.parametrize(
    ("target", "absent", "present"),
    [
        ("restore", {"write_report", "compute_fsc", "evaluate_restoration"}, {"join_particles", "train_postprocess"}),
        ("reconstruct", {"write_report", "evaluate_restoration"}, {"compute_fsc", "compute_truth_fsc"}),
        ("controls", {"write_report", "evaluate_restoration"}, CONTROLS | {"control_raw"}),
        ("report", set(), {"write_report", "write_summary", *CONTROLS}),
    ],
)
def test_each_target_plans_its_own_part(tmp_path, target, absent, present):
    done = dry_run(tmp_path, target, "--config", "datasets=[demo]")
    assert done.returncode == 0, done.stderr
    jobs = job_counts(done.stdout + done.stderr).keys()
    assert not absent & jobs
    assert present <= jobs


def test_methods_stand_side_by_side_and_one_without_network_trains_nothing(tmp_path):
    done = dry_run(tmp_path, "--config", "denoisers=[ours,sr3,map-bayes]")
    assert done.returncode == 0, done.stderr
    jobs = job_counts(done.stdout + done.stderr)
    assert (jobs["train_diffusion"], jobs["train_postprocess"], jobs["restore_particles"], jobs["make_training_pairs"]) == (4, 2, 6, 2)


def test_every_method_of_the_configuration_is_planned_by_its_name(tmp_path):
    methods = load_configuration({"datasets": ["demo"]}).settings["demo"]["methods"]
    done = dry_run(tmp_path, "--config", f"denoisers=[{','.join(methods)}]")
    assert done.returncode == 0, done.stderr
    jobs = job_counts(done.stdout + done.stderr)
    assert jobs["restore_particles"] == 2 * len(methods) == 32
    assert jobs["train_diffusion"] == 2 * sum(method["network"] != "none" for method in methods.values())


def test_full_controls_train_on_changed_maps_and_basic_ones_train_nothing(tmp_path):
    settings = ("--config", "denoisers=[ours,map-bayes]")
    basic = dry_run(tmp_path, "report", *settings)
    assert basic.returncode == 0, basic.stderr
    assert not {"train_control_diffusion", "make_control_maps", "control_junk"} & job_counts(basic.stdout + basic.stderr).keys()
    full = dry_run(tmp_path, "report", *settings, "controls={level: full}")
    assert full.returncode == 0, full.stderr
    jobs = job_counts(full.stdout + full.stderr)
    found = {
        name: jobs[name] for name in ("make_control_maps", "make_control_pairs", "train_control_diffusion", "control_changed_map", "control_junk")
    }
    assert found == {"make_control_maps": 3, "make_control_pairs": 3, "train_control_diffusion": 3, "control_changed_map": 6, "control_junk": 2}


def test_fused_stacks_and_the_check_of_the_backend_are_made_where_they_are_asked_for(tmp_path):
    counts = []
    for asked in (["reconstruct={check: native}"], ["reconstruct={check: null}", "fusion={enabled: true}"]):
        done = dry_run(tmp_path, "--config", "denoisers=[ours]", *asked)
        assert done.returncode == 0, done.stderr
        counts.append(job_counts(done.stdout + done.stderr))
    without, made = counts
    assert (without["check_backend"], "check_backend" in made) == (1, False)
    assert "fuse_map" not in without
    # raw particles at their mean poses are mapped like any other stack; each of the two stacks has its curves
    assert (made["fuse_map"], made["reconstruct_map"] - without["reconstruct_map"], made["compute_fsc"] - without["compute_fsc"]) == (2, 2, 2)
    # summary and report tell of them
    done = dry_run(tmp_path, "report", "--config", "denoisers=[ours]", "fusion={enabled: true}")
    jobs = job_counts(done.stdout + done.stderr)
    assert (jobs["fuse_map"], jobs["compute_fsc"], jobs["compute_truth_fsc"]) == (2, made["compute_fsc"], made["compute_truth_fsc"])


def test_where_poses_are_found_each_half_finds_its_own_and_the_rest_is_as_ever(tmp_path):
    done = [dry_run(tmp_path, "--config", f"datasets=[{name}]") for name in ("demo-ab-initio", "demo")]
    found, given = (job_counts(one.stdout + one.stderr) for one in done)
    assert found["find_poses"] == 2
    assert found["split_unposed"] == found["judge_poses"] == found["adopt_poses"] == 1
    assert not {"split_unposed", "find_poses", "judge_poses", "adopt_poses"} & given.keys()
    assert "split_particles" not in found
    assert found["reconstruct_map"] == 4


def test_shards_take_jobs_of_their_own_and_one_shard_takes_none(tmp_path):
    done = dry_run(tmp_path, "restore", "--config", "denoisers=[ours]")
    assert done.returncode == 0, done.stderr
    jobs = job_counts(done.stdout + done.stderr)
    assert jobs["restore_particles"] == 2
    assert not {"restore_shard", "gather_shards"} & jobs.keys()
    done = dry_run(tmp_path, "report", "--config", "denoisers=[ours]", "restore={shards: 3}")
    assert done.returncode == 0, done.stderr
    jobs = job_counts(done.stdout + done.stderr)
    assert (jobs["restore_shard"], jobs["gather_shards"]) == (6, 2)
    assert "restore_particles" not in jobs


def test_cross_fitted_halves_are_learned_and_restored_fold_by_fold(tmp_path):
    done = dry_run(tmp_path, "report", "--config", "denoisers=[ours]", "restore={cross_fit: true}")
    assert done.returncode == 0, done.stderr
    jobs = job_counts(done.stdout + done.stderr)
    folds = ("reconstruct_fold", "make_fold_pairs", "train_fold_diffusion", "train_fold_postprocess", "restore_fold")
    assert [jobs[name] for name in folds] == [4] * 5
    assert (jobs["split_folds"], jobs["gather_folds"]) == (2, 2)
    assert "restore_particles" not in jobs


def test_training_on_several_nodes_is_an_mpi_job_and_on_one_is_not(tmp_path):
    asked = {}
    for nodes in (1, 2):
        target = "results/demo/models/ours/half1/diffusion.safetensors"
        settings = ("--config", f"compute={{processes: 4, nodes: {nodes}, device: cuda, threads: 3}}")
        done = snakemake(tmp_path, "--dry-run", "--cores", "64", target, *settings)
        assert done.returncode == 0, done.stderr
        job = (done.stdout + done.stderr).split("rule train_diffusion:")[1].split("\n\n")[0]
        threads = next(line.split()[1] for line in job.splitlines() if "threads:" in line)
        resources = next(line.split(":", 1)[1] for line in job.splitlines() if "resources:" in line)
        asked[nodes] = {"threads": threads} | dict(item.strip().split("=") for item in resources.split(",") if "=" in item)
    assert {name: asked[1][name] for name in ("threads", "gpu", "processes", "nodes")} == {
        "threads": "12",
        "gpu": "4",
        "processes": "4",
        "nodes": "1",
    }
    assert not {"mpi", "tasks", "tasks_per_gpu"} & asked[1].keys()
    assert {name: asked[2][name] for name in ("threads", "gpu", "mpi", "tasks", "tasks_per_gpu", "nodes")} == {
        "threads": "3",
        "gpu": "4",
        "mpi": "srun",
        "tasks": "4",
        "tasks_per_gpu": "0",
        "nodes": "2",
    }


def test_picks_without_a_pose_are_restored_by_the_methods_that_need_none(tmp_path):
    placeholders(tmp_path / "data", "empiar-10146")
    done = dry_run(tmp_path, "restore", "--config", "datasets=[empiar-10146]", f"data_root={tmp_path / 'data'}", "denoisers=[ours,sr3+post]")
    assert done.returncode == 0, done.stderr
    jobs = job_counts(done.stdout + done.stderr)
    assert (jobs["restore_particles"], jobs["restore_unposed"]) == (4, 2)


def test_the_general_weights_restore_particles_without_poses_and_train_nothing(tmp_path):
    placeholders(tmp_path / "data", "aspire-sample")
    settings = ("datasets=[aspire-sample]", f"data_root={tmp_path / 'data'}", "denoisers=[general]")
    done = dry_run(tmp_path, "--config", *settings, "input={has_poses: false}")
    assert done.returncode == 0, done.stderr
    jobs = job_counts(done.stdout + done.stderr)
    assert jobs["restore_general"] == 1
    assert not {"split_particles", "make_training_pairs", "join_particles", "write_report", "control_noise_only"} & jobs.keys()
    done = dry_run(tmp_path, "--config", *settings)
    assert done.returncode == 0, done.stderr
    jobs = job_counts(done.stdout + done.stderr)
    assert (jobs["restore_particles"], jobs["control_noise_only"], jobs["control_shared_network"]) == (2, 1, 1)
    assert not {"restore_general", "train_diffusion"} & jobs.keys()


def test_other_methods_are_refused_where_there_are_no_poses(tmp_path):
    placeholders(tmp_path / "data", "aspire-sample")
    settings = ("datasets=[aspire-sample]", f"data_root={tmp_path / 'data'}", "denoisers=[general,ours]", "input={has_poses: false}")
    done = dry_run(tmp_path, "--config", *settings)
    assert done.returncode != 0
    assert "denoisers = ['general', 'ours']: all but general learn from the half's own map" in done.stdout + done.stderr


def test_a_wrong_configuration_starts_no_job(tmp_path):
    done = dry_run(tmp_path, "--config", "normalize={bg_radius: 40}")
    assert done.returncode != 0
    assert "normalize.bg_radius = 40: at most 32 px" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_missing_data_are_told_with_how_to_obtain_them(tmp_path):
    done = dry_run(tmp_path, "--config", "datasets=[empiar-10028]", f"data_root={tmp_path}")
    assert done.returncode != 0
    assert "empiar-10028/shiny_2sets.star" in done.stdout + done.stderr
    assert "Download EMPIAR-10028" in done.stdout + done.stderr


def test_the_workflow_has_no_lints(tmp_path):
    done = snakemake(tmp_path, "--lint")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_step_has_a_rule_and_a_script_of_its_name():
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    for name in STEPS:
        assert f"rule {name}:" in rules
        assert f"../scripts/{name}.py" in rules
        assert (ROOT / "scripts" / f"{name}.py").is_file()
    assert len(list((ROOT / "scripts").glob("*.py"))) == len(STEPS)


def test_the_slurm_profile_goes_to_the_gpu_partition_where_networks_run():
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    asking = {rule for rule, resources in profile["set-resources"].items() if resources["slurm_partition"] == "gpu"}
    assert asking == {
        "train_diffusion",
        "train_postprocess",
        "restore_particles",
        "restore_shard",
        "restore_unposed",
        "restore_general",
        *CONTROLS,
        *FULL_ON_GPUS,
        *FOLDS_ON_GPUS,
        "find_poses",
    }
    assert profile["rerun-triggers"] == ["mtime", "params", "input", "code"]


@pytest.mark.slow
def test_a_changed_module_reruns_the_steps_that_use_it_and_no_others(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(ROOT / "Snakefile", project)
    for name in ("rules", "scripts", "config", "src", "envs", "report", "profiles"):
        shutil.copytree(ROOT / name, project / name)
    arguments = ("results/tiny/extracted/particles.star", "--configfile", str(project / "config/test/tiny.yaml"))
    ran = snakemake(project, "--profile", str(project / "profiles/local"), *arguments, root=project)
    assert ran.returncode == 0, ran.stderr
    assert planned(project, *arguments) == {}
    (project / "src/cryorestore/restore.py").open("a").write("\n# a step after these\n")
    assert planned(project, *arguments) == {}
    (project / "src/cryorestore/extract.py").open("a").write("\n# a step among these\n")
    assert planned(project, *arguments) == {"extract_particles": 1}


def planned(project, *arguments):
    done = dry_run(project, *arguments, root=project)
    assert done.returncode == 0, done.stderr
    return {} if "Nothing to be done" in done.stdout + done.stderr else job_counts(done.stdout + done.stderr)
