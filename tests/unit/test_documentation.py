"""The pages are built without a warning, their links lead somewhere, and nothing that is there is left out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cryorestore.cli import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TEXTS = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
OUTPUT = re.compile(r"<results>/\{dataset\}/([^\"]+)\"")


def test_the_pages_are_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert {path.stem for path in tmp_path.glob("*.html")} >= {path.stem for path in DOCS.glob("*.md")}


@pytest.mark.parametrize("page", TEXTS, ids=lambda path: path.name)
def test_links_between_files_lead_to_files(page):
    targets = [target.partition("#")[0] for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in DOCS.glob("*.md") if f": {page.name}\n" not in navigation] == []


def test_every_command_is_listed():
    commands = {name for name in app if not name.startswith("-")}
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert len(commands) > 20
    assert [name for name in sorted(commands) if f"`{name}`" not in page] == []


def test_every_output_of_a_rule_is_listed():
    page = (DOCS / "outputs.md").read_text(encoding="utf-8")
    outputs = {Path(found).name for rules in sorted((ROOT / "rules").glob("*.smk")) for found in OUTPUT.findall(rules.read_text(encoding="utf-8"))}
    assert len(outputs) > 20
    assert [
        name for name in sorted(outputs) if not re.search(rf"(^|[`/ ,{{]){re.escape(name)}|{re.escape(Path(name).stem)}\.\{{", page, re.MULTILINE)
    ] == []
