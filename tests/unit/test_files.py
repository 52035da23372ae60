import os
import subprocess
import sys

import pytest

from cryorestore import files
from cryorestore.files import ABANDONED_AFTER, atomic_path, files_together


def write(path, text="new"):
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_two_and(fail, folder):
    with files_together():
        write(folder / "a.mrcs")
        assert (folder / "a.mrcs").read_text() == "old"
        write(folder / "a.star")
        if fail:
            raise RuntimeError


def test_files_that_belong_together_appear_at_the_end(tmp_path):
    write(tmp_path / "a.mrcs", "old")
    write_two_and(False, tmp_path)
    assert (tmp_path / "a.mrcs").read_text() == (tmp_path / "a.star").read_text() == "new"
    assert names(tmp_path) == ["a.mrcs", "a.star"]


def test_after_a_failure_none_of_them_appears(tmp_path):
    write(tmp_path / "a.mrcs", "old")
    with pytest.raises(RuntimeError):
        write_two_and(True, tmp_path)
    assert (tmp_path / "a.mrcs").read_text() == "old"
    assert names(tmp_path) == ["a.mrcs"]


def test_a_dead_process_temporary_file_is_removed_and_a_living_ones_kept(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, living = (f".a.{files._HOST}.{process}.partial.star" for process in (ended.pid, os.getppid()))
    for name in (left, living, f".b.{files._HOST}.{ended.pid}.partial.star"):
        (tmp_path / name).touch()
    write(tmp_path / "a.star")
    assert names(tmp_path) == sorted([living, f".b.{files._HOST}.{ended.pid}.partial.star", "a.star"])


def test_another_machines_temporary_file_is_removed_when_it_is_old(tmp_path):
    old, new = (tmp_path / f".a.elsewhere.{process}.partial.star" for process in (1, 2))
    for path in (old, new):
        path.touch()
    os.utime(old, (0, new.stat().st_mtime - ABANDONED_AFTER - 60))
    write(tmp_path / "a.star")
    assert names(tmp_path) == [new.name, "a.star"]
