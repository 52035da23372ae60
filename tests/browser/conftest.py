"""The browser of this machine, and pages to open in it: of a made-up run, and the reports that CRYORESTORE_REPORTS names (with : between them)."""

import os
import shutil
from pathlib import Path

import pytest

from cryorestore.bulk import summarize_datasets
from cryorestore.report import write_report
from results_tree import make_tree

REPORTS = [Path(name).resolve() for name in os.environ.get("CRYORESTORE_REPORTS", "").split(os.pathsep) if name]
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
SOFTWARE_RENDERING = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
METHODS = ("ours", "sr3+post")


def pytest_generate_tests(metafunc):
    if "report" in metafunc.fixturenames:
        names = ["made-up", *(path.parent.name for path in REPORTS)]
        metafunc.parametrize("report", ["made up", *REPORTS], indirect=True, ids=names, scope="session")
    if "width" in metafunc.fixturenames:
        metafunc.parametrize("width", [1280, 390])


@pytest.fixture(scope="session")
def program():
    """The browser that is installed; the tests bring none of their own."""
    found = os.environ.get("CRYORESTORE_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(PROGRAMS)} is installed: apt-get install chromium, or set CRYORESTORE_CHROMIUM")
    return found


@pytest.fixture(scope="session")
def playwright():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")
    with api.sync_playwright() as running:
        yield running


@pytest.fixture(scope="session")
def browser(playwright, program):
    browser = playwright.chromium.launch(executable_path=program, args=SOFTWARE_RENDERING)
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    tree = make_tree(tmp_path_factory.mktemp("run") / "made_up", methods=METHODS)
    for method in METHODS:
        tree.evaluate(method=method)
    tree.summarize(denoisers=METHODS)
    return tree


@pytest.fixture(scope="session")
def report(request, tree):
    """A report: of the made-up run, or one that was named."""
    if request.param != "made up":
        return request.param
    files = tree.report_files(denoisers=METHODS)
    write_report(**files, denoisers=list(METHODS))
    return files["report"]


@pytest.fixture(scope="session")
def comparison(tree, tmp_path_factory):
    """The page across data sets: one that finished, and one that failed."""
    folder = tree.root.parent
    log = folder / "logs/train_diffusion/broken_ours_half1.log"
    log.parent.mkdir(parents=True)
    log.write_text("2026-01-01 00:00:00,000 ERROR error: micrographs/mic_7.mrc: found 12 bytes, expected 4194304; copy it again\n")
    targets = {"made_up": [str(tree.root / "summary.json")], "broken": [str(folder / "broken/summary.json")]}
    outputs = {"table": folder / "datasets.tsv", "summary": folder / "datasets.json", "page": folder / "datasets.html"}
    summarize_datasets(targets=targets, results=folder, logs=folder / "logs", benchmarks=folder / "benchmarks", **outputs)
    return outputs["page"]


class Visit:
    """An open page, and everything that it said or asked for."""

    def __init__(self, page):
        self.page, self.said, self.asked = page, [], []
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))

    @property
    def remote(self):
        return [address for address in self.asked if not address.startswith(("file:", "data:", "blob:"))]


@pytest.fixture
def visit(browser):
    """Open a file in a window of some width; the page must have said nothing and asked for nothing by the end of the test."""
    contexts, visits = [], []

    def opened(path, width):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce"))
        visits.append(Visit(contexts[-1].new_page()))
        visits[-1].page.goto(Path(path).as_uri())
        return visits[-1].page

    yield opened
    for context in contexts:
        context.close()
    assert [line for visited in visits for line in visited.said] == []
    assert [address for visited in visits for address in visited.remote] == []
