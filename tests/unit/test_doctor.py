"""The doctor on made-up machines: what each lacks is told with its mend, and the exit code says whether a run works."""

import sys
from collections import namedtuple
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from cryorestore import doctor
from cryorestore.cli import main
from cryorestore.config import load_configuration
from cryorestore.doctor import LEAST_DISK, LEAST_MEMORY, RELION, examine_machine

PROGRAMS = {"cryodrgn": "cryodrgn", "relion_reconstruct": "relion_reconstruct"}
SINFO = "echo 'gpu* up 4'"
SCONTROL = "echo 'AccountingStorageType = accounting_storage/slurmdbd'"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Put programs of these names on a PATH that has no others; each prints what its shell line says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(*names, **lines):
        for name, line in {**dict.fromkeys(names, ":"), **lines}.items():
            (folder / name).write_text(f"#!/bin/sh\n{line}\n")
            (folder / name).chmod(0o755)

    return install


def found(tmp_path, subject, **overrides):
    """What the doctor says of one subject, for the demo."""
    settings = {"datasets": ["demo"], "results": str(tmp_path / "results"), "programs": PROGRAMS}
    (finding,) = (finding for finding in examine_machine(load_configuration({**settings, **overrides})) if finding.subject == subject)
    assert bool(finding.mend) == (finding.level != "ok")
    return finding


def test_a_machine_without_slurm_says_who_needs_it(machine, tmp_path):
    finding = found(tmp_path, "SLURM")
    assert (finding.level, finding.found) == ("warning", "no sbatch on PATH")
    assert "module load slurm" in finding.mend
    assert "only --profile profiles/slurm" in finding.mend


def test_a_cluster_that_keeps_accounts_is_in_order(machine, tmp_path):
    machine("sbatch", sinfo=SINFO, sacct="echo '7|COMPLETED'", scontrol=SCONTROL)
    finding = found(tmp_path, "SLURM")
    assert (finding.level, finding.found) == ("ok", "partitions: gpu* up 4")


@pytest.mark.parametrize(
    ("programs", "words", "mend"),
    [
        ({"sinfo": "exit 1"}, "names no partition", "run sinfo"),
        ({"sinfo": SINFO, "scontrol": SCONTROL}, "partitions: gpu* up 4", "slurm-status-command: squeue"),
        ({"sinfo": SINFO, "sacct": ":", "scontrol": "echo 'AccountingStorageType = (null)'"}, "partitions", "slurm-status-command: squeue"),
        ({"sinfo": SINFO, "sacct": ":", "scontrol": SCONTROL}, "partitions", "sacct knows no job of yours"),
    ],
)
def test_a_cluster_that_does_not_tell_how_jobs_end_says_what_to_set(machine, tmp_path, programs, words, mend):
    machine("sbatch", **programs)
    finding = found(tmp_path, "SLURM")
    assert finding.level == "warning"
    assert words in finding.found
    assert mend in finding.mend


@pytest.mark.parametrize(("present", "level"), [((), "warning"), (RELION[:1], "warning"), (RELION, "ok")])
def test_programs_of_relion_that_are_absent_are_named_with_their_mend(machine, tmp_path, present, level):
    machine(*present)
    finding = found(tmp_path, "RELION")
    assert finding.level == level
    absent = finding.found.partition("not found: ")[2]
    assert absent == ", ".join(RELION[len(present) :])
    assert ("apt-get install relion" in finding.mend) == bool(absent)


@pytest.mark.parametrize("name", ["conda", "mamba"])
def test_conda_or_mamba_will_do(machine, tmp_path, name):
    lacking = found(tmp_path, "conda")
    assert (lacking.level, "Miniforge" in lacking.mend) == ("warning", True)
    machine(name)
    assert found(tmp_path, "conda").found == str(tmp_path / "bin" / name)


@pytest.mark.parametrize(
    ("used", "program", "mend"),
    [("cryodrgn", "cryodrgn", "make setup"), ("relion", "relion_reconstruct", "apt-get install relion"), ("native", None, "")],
)
def test_a_backend_that_the_run_uses_and_that_is_not_there_is_an_error_and_any_other_a_warning(machine, tmp_path, used, program, mend):
    for name in PROGRAMS:
        finding = found(tmp_path, name, reconstruct={"backend": used})
        assert finding.level == ("error" if name == program else "warning")
        assert f"{name} is not found" in finding.found
        assert f"set programs.{name}, or reconstruct.backend: native" in finding.mend
    machine(*PROGRAMS)
    assert {found(tmp_path, name, reconstruct={"backend": used}).level for name in PROGRAMS} == {"ok"}
    if program:
        (tmp_path / "bin" / program).unlink()
        assert mend in found(tmp_path, program, reconstruct={"backend": used}).mend


@pytest.mark.parametrize(("driver", "mend"), [((), "slow in large boxes"), (("nvidia-smi",), "install a CUDA build of torch")])
def test_without_a_gpu_the_mend_depends_on_whether_there_is_a_driver(machine, tmp_path, monkeypatch, driver, mend):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    machine(*driver)
    finding = found(tmp_path, "torch and GPU")
    assert finding.level == "warning"
    assert "no GPU" in finding.found
    assert mend in finding.mend


def test_gpus_are_told_with_their_memory(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(name=f"card {number}", total_memory=8 * 10**9))
    finding = found(tmp_path, "torch and GPU")
    assert finding.level == "ok"
    assert "card 0 with 8 GB, card 1 with 8 GB" in finding.found


def test_too_little_disk_is_told_with_what_makes_room(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "free_bytes", lambda folder: LEAST_DISK - 1)
    finding = found(tmp_path, "results")
    assert finding.level == "warning"
    assert "set results to another disk" in finding.mend
    monkeypatch.setattr(doctor, "free_bytes", lambda folder: LEAST_DISK)
    assert found(tmp_path, "results").level == "ok"


def test_results_that_cannot_be_written_are_an_error(machine, tmp_path):
    (tmp_path / "file").touch()
    finding = found(tmp_path, "results", results=str(tmp_path / "file/results"))
    assert (finding.level, "cannot be written" in finding.found) == ("error", True)
    assert "set results to a folder" in finding.mend


def test_too_little_memory_is_told_with_what_takes_less(machine, tmp_path, monkeypatch):
    pages = {"SC_PHYS_PAGES": LEAST_MEMORY // 4096 - 1, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    finding = found(tmp_path, "cores and memory")
    assert finding.level == "warning"
    assert "compute.batch_size" in finding.mend
    pages["SC_PHYS_PAGES"] += 2
    assert found(tmp_path, "cores and memory").level == "ok"


@pytest.mark.parametrize(("package", "subject"), [("mrcfile", "packages"), ("torch", "torch")])
def test_a_package_that_is_not_installed_is_an_error(machine, tmp_path, monkeypatch, package, subject):
    known = metadata.version

    def version(name):
        if name == package:
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(metadata, "version", version)
    finding = found(tmp_path, subject)
    assert finding.level == "error"
    assert "make setup" in finding.mend
    assert package in finding.mend + finding.subject


def test_an_old_python_is_an_error(machine, tmp_path, monkeypatch):
    version = namedtuple("Version", "major minor micro releaselevel serial")
    monkeypatch.setattr(sys, "version_info", version(3, 10, 1, "final", 0))
    finding = found(tmp_path, "Python")
    assert finding.level == "error"
    assert "PYTHON=/path/to/python3.11" in finding.mend


def test_input_files_that_are_missing_are_an_error_of_their_data_set(machine, tmp_path):
    given = {"kind": "star", "particles_star": "absent.star", "how_to_obtain": "ask the microscopist"}
    finding = found(tmp_path, "data set demo", data_root=str(tmp_path), input=given)
    assert finding.level == "error"
    assert f"particles_star: {tmp_path}/absent.star" in finding.mend
    assert "ask the microscopist" in finding.mend
    assert found(tmp_path, "data set demo").found == "input files are there, simulated"


@pytest.mark.parametrize(("backend", "code"), [("native", 0), ("cryodrgn", 1)])
def test_the_exit_code_says_whether_this_run_works(machine, tmp_path, monkeypatch, capsys, backend, code):
    settings = tmp_path / "run.yaml"
    settings.write_text(f"results: {tmp_path}/results\nprograms: {{cryodrgn: cryodrgn}}\nreconstruct: {{backend: {backend}}}\n")
    monkeypatch.setattr(sys, "argv", ["cryorestore", "doctor", "--configfile", str(settings), "--datasets", "demo"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert (stopped.value.code or 0) == code
    shown = capsys.readouterr().out
    assert all(subject in shown for subject in ("Python", "SLURM", "RELION", "conda", "data set demo"))
    assert not (tmp_path / "results").exists()
