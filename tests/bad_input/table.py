"""The table of errors and messages in docs/troubleshooting.md, made by running every case: `python tests/bad_input/table.py`."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bad_input.cases import CASES
from bad_input.running import run_case
from cryorestore.config.paths import PROJECT_ROOT
from made_pages import write_made_part

PAGE = PROJECT_ROOT / "docs" / "troubleshooting.md"
BEGIN = "<!-- made by tests/bad_input/table.py from the tests; do not edit -->\n"
END = "<!-- end of what is made -->\n"


def row(seen: str, message: str) -> str:
    """A line of the table."""
    text = message.replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
    return f"| {seen} | {text} |\n"


def table() -> str:
    """The whole table, Markdown."""
    rows = []
    for case in CASES.values():
        with tempfile.TemporaryDirectory() as folder:
            case.make(Path(folder))
            rows.append(row(case.seen, run_case(case, Path(folder))[2]))
    return "\n| what is wrong | message |\n|---|---|\n" + "".join(rows) + "\n"


def main() -> None:
    """Write it into the page."""
    write_made_part(PAGE, BEGIN, END, table())


if __name__ == "__main__":
    main()
