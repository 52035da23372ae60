import subprocess
import sys

import pytest

from cryorestore.cli import app, main
from cryorestore.commands import with_separate_entries
from cryorestore.config import STEPS


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["cryorestore", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code, capsys.readouterr()


def test_the_list_of_commands_has_every_step_and_imports_none():
    code = """
import sys
from cryorestore.cli import app
app("--help", exit_on_error=False, result_action="return_value")
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}, check=True)
    assert all(rule.replace("_", "-") in done.stdout for rule in STEPS)


@pytest.mark.parametrize("rule", [*STEPS, "restore"])
def test_every_command_explains_its_options(rule, capsys):
    app([rule.replace("_", "-"), "--help"], exit_on_error=False, result_action="return_value")
    assert "[required]" in capsys.readouterr().out


def test_an_error_of_the_user_is_one_message_and_exit_code_1(monkeypatch, capsys, tmp_path):
    files = ["--half-map-1", "absent.mrc", "--half-map-2", "absent.mrc"]
    outputs = [text for name in ("curve", "plot", "figures") for text in (f"--{name}", str(tmp_path / name))]
    code, output = run(monkeypatch, capsys, "compute-fsc", *files, *outputs)
    assert code == 1
    assert output.err.startswith("error: absent.mrc: ")
    assert "Traceback" not in output.err


def test_a_configuration_is_checked_without_snakemake(monkeypatch, capsys, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("extract: {box_size: 63}")
    code, output = run(monkeypatch, capsys, "check-config", "--configfile", str(wrong))
    assert code == 1
    assert "extract.box_size = 63" in output.err
    assert run(monkeypatch, capsys, "check-config", "--datasets", "demo", "empiar-10146")[0] in (0, None)


def test_a_docstring_entry_for_two_names_becomes_two():
    docstring = "Do.\n\n    Parameters\n    ----------\n    a, b\n        Both,\n        of them.\n    c\n        One.\n"
    expected = docstring.replace(
        "    a, b\n        Both,\n        of them.\n", "".join(f"    {name}\n        Both,\n        of them.\n" for name in "ab")
    )
    assert with_separate_entries(docstring) == expected
