"""An extraction that is killed is taken up where it stopped, and its files are those of an unbroken one."""

import json
import logging
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from cryorestore.errors import CryorestoreError
from cryorestore.extract import extract_particles
from cryorestore.io.mrc import write_micrograph
from cryorestore.partial_stack import JOURNAL, STACK, PartialStack

COUNT, PICKS = 6, 40
KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from cryorestore.extract import extract_particles
from cryorestore.partial_stack import PartialStack

method, calls, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
original = getattr(PartialStack, method)

def counted(*arguments, **keywords):
    global calls
    result = original(*arguments, **keywords)
    calls -= 1
    if not calls:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(PartialStack, method, counted)
extract_particles(micrographs_star="mics", coordinates="picks", stack="out/p.mrcs", star="out/p.star", rejects_star="out/r.star",
                  work_dir="work", pixel_size=1.0, box_size=32, scale=24, threads=threads)
"""


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Six micrographs with forty picks each; the current folder is theirs."""
    generator = np.random.default_rng(4)
    (tmp_path / "picks").mkdir()
    for number in range(COUNT):
        write_micrograph(tmp_path / "mics" / f"m{number}.mrc", generator.standard_normal((200, 220)), pixel_size=1.0)
        places = generator.uniform(0, 200, (PICKS, 2))
        (tmp_path / "picks" / f"m{number}.txt").write_text("".join(f"{x:.3f} {y:.3f}\n" for x, y in places))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def extract(folder="out", **settings):
    outputs = {"stack": f"{folder}/p.mrcs", "star": f"{folder}/p.star", "rejects_star": f"{folder}/r.star"}
    settings = {"work_dir": "work", "box_size": 32, "scale": 24, **settings}
    extract_particles(micrographs_star="mics", coordinates="picks", pixel_size=1.0, **outputs, **settings)


def unbroken_and_resumed(scene):
    resumed = [(scene / "out" / name).read_bytes() for name in ("p.mrcs", "p.star", "r.star")]
    extract(work_dir="other")
    return [(scene / "out" / name).read_bytes() for name in ("p.mrcs", "p.star", "r.star")], resumed


def kill(method, calls, threads=1):
    command = [sys.executable, "-c", KILLED_RUN, method, str(calls), str(threads)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": ":".join(sys.path)}, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("method", "calls", "threads", "finished"),
    [("finish", 3, 1, 3), ("write", 4, 1, 3), ("finish", 2, 2, 2), ("complete", 1, 1, 6), ("publish", 1, 1, 0)],
)
def test_a_killed_run_is_taken_up_and_gives_the_same_bytes(scene, caplog, method, calls, threads, finished):
    kill(method, calls, threads)
    assert not (scene / "out" / "p.star").exists()
    with caplog.at_level(logging.INFO, "cryorestore"):
        extract()
    assert (f"{finished} of 6 micrographs are there from an earlier run" in caplog.text) == bool(finished)
    unbroken, resumed = unbroken_and_resumed(scene)
    assert unbroken == resumed
    assert not (scene / "work").exists()


def test_what_was_finished_is_not_done_again(scene, monkeypatch):
    kill("finish", 4)
    written = []
    original = PartialStack.finish
    monkeypatch.setattr(PartialStack, "finish", lambda self, number, finished: (written.append(number), original(self, number, finished)))
    extract()
    assert written == [4, 5]


def test_a_micrograph_that_changed_is_done_again_and_the_others_are_not(scene, caplog):
    kill("finish", 5)
    write_micrograph(scene / "mics" / "m1.mrc", np.random.default_rng(9).standard_normal((200, 220)), pixel_size=1.0)
    with caplog.at_level(logging.INFO, "cryorestore"):
        extract()
    assert "4 of 6 micrographs are there from an earlier run; 1 lines are damaged or of other files or settings and discarded" in caplog.text
    unbroken, resumed = unbroken_and_resumed(scene)
    assert unbroken == resumed


def test_other_settings_begin_anew(scene, caplog):
    kill("finish", 5)
    with caplog.at_level(logging.INFO, "cryorestore"):
        extract(scale=16)
    assert "0 of 6 micrographs are there from an earlier run; 5 lines are damaged or of other files or settings and discarded" in caplog.text


@pytest.mark.parametrize("damage", ["journal", "stack", "short stack"])
def test_what_is_damaged_is_done_again(scene, damage):
    kill("finish", 5)
    if damage == "journal":
        lines = (scene / "work" / JOURNAL).read_bytes().splitlines(keepends=True)
        entry = json.loads(lines[1])
        entry["hashes"] = entry["hashes"][::-1]
        lines[0], lines[1], lines[2] = lines[0][:40] + b"\n", json.dumps(entry).encode() + b"\n", b"\xff\xfe[]\n"
        (scene / "work" / JOURNAL).write_bytes(b"".join(lines)[:-30])
    else:
        with (scene / "work" / STACK).open("r+b") as stack:
            stack.seek(1024 + 24 * 24 * 4 * 50)
            stack.write(b"damage")
            if damage == "short stack":
                stack.truncate(1024 + 24 * 24 * 4 * 60)
    extract()
    unbroken, resumed = unbroken_and_resumed(scene)
    assert unbroken == resumed


def test_two_processes_do_not_write_the_same_work_folder(scene):
    with (
        PartialStack(scene / "work", count=1, box_size=8, dtype=np.dtype("<f4"), keys=["a"]),
        pytest.raises(CryorestoreError, match="another process"),
    ):
        extract()


def test_an_error_keeps_what_was_finished_and_leaves_no_output(scene, monkeypatch, caplog):
    content = (scene / "mics" / "m4.mrc").read_bytes()
    original = PartialStack.take_over

    def damaged(self, number, *, first):
        if number == 4:
            (scene / "mics" / "m4.mrc").write_bytes(content[:5000])
        return original(self, number, first=first)

    monkeypatch.setattr(PartialStack, "take_over", damaged)
    with pytest.raises(CryorestoreError, match=r"m4\.mrc: found \d+ pixels"):
        extract()
    monkeypatch.setattr(PartialStack, "take_over", original)
    assert list((scene / "out").glob("*")) == []
    (scene / "mics" / "m4.mrc").write_bytes(content)
    with caplog.at_level(logging.INFO, "cryorestore"):
        extract()
    assert re.search("[45] of 6 micrographs are there from an earlier run", caplog.text)  # the last one may have been in work
