"""A file behind an unchanged table: seen where it changed, once, and never by reading the table."""

import json
import os

import pytest

from bad_input.files import micrographs, table
from cryorestore.config import named_files_version
from cryorestore.extract import extract_particles
from cryorestore.importing import import_particles
from cryorestore.named_files import note_files


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.mrcs" for number in range(3)]
    for path in paths:
        path.write_bytes(b"1234")
    return paths


def later(path):
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))


def longer(path):
    state = path.stat()
    path.write_bytes(b"12345")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("version", [None, "of-an-earlier-change"])
@pytest.mark.parametrize("change", [later, longer])
def test_a_changed_file_is_another_version_until_it_is_read_again(tmp_path, files, version, change):
    record = tmp_path / "work/files.json"
    note_files(record, files, version=version)
    assert named_files_version(record) == version
    change(files[1])
    changed = named_files_version(record)
    assert changed not in (None, version)
    assert named_files_version(record) == changed
    # the step ran with that parameter: the next plan has the same one
    note_files(record, files, version=changed)
    assert named_files_version(record) == changed


def test_a_file_that_is_gone_is_no_change_since_it_cannot_be_read_anew(tmp_path, files):
    record = tmp_path / "files.json"
    note_files(record, files, version=None)
    files[0].unlink()
    assert named_files_version(record) is None
    later(files[1])
    assert named_files_version(record) is not None


@pytest.mark.parametrize("content", [None, "", "[1, 2]", '{"version": null}', '{"version": null, "files": {"a": 7}}'])
def test_without_a_record_or_with_a_damaged_one_nothing_is_said_to_have_changed(tmp_path, content):
    record = tmp_path / "files.json"
    if content is not None:
        record.write_text(content)
    assert named_files_version(record) is None


def test_import_notes_the_stacks_and_says_which_changed(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    star, record = table(tmp_path), tmp_path / "work/files.json"
    options = {"particles": star, "star": tmp_path / "out.star", "files_record": record}
    import_particles(**options)
    assert list(json.loads(record.read_text())["files"]) == [str(tmp_path / "stack.mrcs")]
    later(tmp_path / "stack.mrcs")
    with caplog.at_level("INFO", logger="cryorestore"):
        import_particles(**options, files_version=named_files_version(record))
    assert f"1 of 1 files changed since they were read before; first: {tmp_path}/stack.mrcs" in caplog.text


def test_extraction_notes_the_micrographs(tmp_path):
    micrographs(tmp_path, "10 10 16 16\n20 20 16 16\n")
    outputs = {"stack": tmp_path / "p.mrcs", "star": tmp_path / "p.star", "rejects_star": tmp_path / "r.star"}
    work = tmp_path / "work"
    given = {"micrographs_star": tmp_path / "micrographs.star", "coordinates": tmp_path / "a.box", "box_size": 16, "pixel_size": 1.5}
    extract_particles(**given, **outputs, work_dir=work, files_record=work / "files.json", files_version="v")
    assert list(json.loads((work / "files.json").read_text())["files"]) == [str(tmp_path / "mics/a.mrc")]
    assert [path.name for path in work.iterdir()] == ["files.json"]
    later(tmp_path / "mics/a.mrc")
    assert named_files_version(work / "files.json") not in (None, "v")
