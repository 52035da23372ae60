import hashlib
import json
import socket

import pytest

from cryorestore import provenance
from cryorestore.provenance import file_fingerprint, write_provenance


@pytest.fixture
def entry(tmp_path):
    (tmp_path / "a.star").write_text("data_\n")

    def write(step):
        path = tmp_path / "result" / "provenance.json"
        write_provenance(
            path, step=step, parameters={"box_size": 64}, inputs={"star": tmp_path / "a.star"}, outputs={"maps": ["b.mrc", "c.mrc"]}, seed=3
        )
        return json.loads(path.read_text())

    return write


def test_an_entry_tells_inputs_parameters_and_versions(entry, tmp_path):
    found = entry("compute_fsc")["compute_fsc"]
    assert found["inputs"] == {"star": {str(tmp_path / "a.star"): hashlib.sha256(b"data_\n").hexdigest()}}
    assert found["outputs"] == {"maps": ["b.mrc", "c.mrc"]}
    assert (found["parameters"], found["seed"]) == ({"box_size": 64}, 3)
    assert found["packages"]["numpy"].startswith("2.")
    assert found["finished_utc"].endswith("+00:00")


def test_steps_of_one_folder_stand_side_by_side(entry):
    entry("first")
    assert set(entry("second")) == {"first", "second"}


def test_the_machine_is_not_named(entry):
    assert socket.gethostname() not in json.dumps(entry("step"))


def test_a_long_file_is_sampled_and_a_change_of_its_end_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(provenance, "_SAMPLE_BYTES", 10)
    path = tmp_path / "a.mrcs"
    path.write_bytes(bytes(2000))
    before = file_fingerprint(path)
    assert before.startswith("sampled-")
    path.write_bytes(bytes(1999) + b"x")
    assert file_fingerprint(path) != before


def test_a_folder_has_the_fingerprint_of_its_files(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a").write_text("1")
    before = file_fingerprint(tmp_path / "f")
    (tmp_path / "f" / "a").write_text("2")
    assert file_fingerprint(tmp_path / "f") != before
