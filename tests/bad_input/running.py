"""Run a case's command in its folder, and put its message into a form that is the same everywhere."""

import contextlib
import io
import os
import re
import sys
from pathlib import Path
from unittest.mock import patch

from bad_input.cases import Case
from cryorestore.cli import main


def run(command: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and what was said on stderr; the command runs in this process, with `folder` as the current one."""
    before, said = Path.cwd(), io.StringIO()
    os.chdir(folder)
    try:
        with patch.object(sys, "argv", ["cryorestore", *command]), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            main()
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    finally:
        os.chdir(before)
    return code, said.getvalue()


def run_case(case: Case, folder: Path) -> tuple[int, str, str]:
    """Exit code, everything that was said, and the message as the table shows it; `folder` is made already."""
    code, said = run(case.command.split(), folder)
    _, _, message = said.partition("error: ")
    return code, said, shown(message, folder)


def shown(message: str, folder: Path) -> str:
    """One line without the folder, long lists shortened."""
    text = message.strip().replace(f"{folder}/", "")
    text = re.sub(r"tried .*?; mend", "tried …; mend", text, flags=re.DOTALL)
    text = re.sub(r"allowed: (\w[\w.-]*, ){4}[^;\n]*", lambda found: ", ".join(found[0].split(", ")[:3]) + ", …", text)
    return re.sub(r"\s+", " ", text)
