import re
from html.parser import HTMLParser

import numpy as np
import pytest

from cryorestore import plots
from cryorestore.report import write_report
from results_tree import make_tree

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Collects what the tests ask about, and fails on a tag that is not closed."""

    def __init__(self, text):
        super().__init__()
        self.images, self.ids, self.links, self.headings, self.open, self.text = [], [], [], [], [], ""
        self.scrollers, self.remote = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(values)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        if "scroll" in values.get("class", "").split():
            self.scrollers.append(values)
        if tag in ("h1", "h2", "h3"):
            self.headings.append(tag)
        self.remote += [value for name, value in attributes if name in ("src", "href") and not value.startswith(("data:", "#"))]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data


def _report(tree, *, truth=True, denoisers=("ours",), controls=True, **changes):
    for method in denoisers:
        tree.evaluate(truth=truth, method=method)
    tree.summarize(truth=truth, controls=controls, denoisers=denoisers)
    files = tree.report_files(truth=truth, denoisers=denoisers) | changes
    write_report(**files, denoisers=list(denoisers))
    return files["report"].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("results"), methods=("ours", "sr3+post"))


@pytest.fixture(scope="module")
def html(tree):
    return _report(tree, denoisers=("ours", "sr3+post"))


def test_the_page_needs_no_network(html):
    page = Page(html)
    assert page.remote == []
    assert not re.search(r"https?://(?!www\.w3\.org)", html)
    assert "url(" not in html


def test_every_picture_has_an_alternative_text(html):
    page = Page(html)
    assert len(page.images) > 5 * 6 + 9 + 6
    assert all(image["alt"].strip() for image in page.images)
    assert all(image["src"].startswith(("data:image/png;base64,", "data:image/svg+xml;base64,")) for image in page.images)


def test_the_keyboard_reaches_every_section_and_every_scrolling_table(html):
    page = Page(html)
    assert len(set(page.ids)) == len(page.ids)
    assert {link.lstrip("#") for link in page.links} <= set(page.ids)
    assert page.scrollers
    assert all(scroller["tabindex"] == "0" and scroller["aria-label"] for scroller in page.scrollers)
    assert page.headings[0] == "h1"
    assert page.headings.count("h1") == 1


def test_the_verdict_comes_first_and_says_what_the_restored_fsc_is(html):
    page = Page(html)
    text = re.sub(r"\s+", " ", page.text)
    assert text.index("half-map FSC 0.143): this is the resolution of this data set") < text.index("Particles against the clean images")
    assert "measures self-consistency, not resolution" in text
    assert "restoration is better than the Wiener filter" in text
    assert "Passed controls: noise only" in text


def test_every_figure_names_its_file(html, tree):
    page = Page(html)
    for name in (
        "raw/fsc.csv",
        "restored.sr3+post/fsc_truth.csv",
        "models/ours/half2/diffusion_history.csv",
        "evaluation/ours.json",
        "raw/provenance.json",
    ):
        assert str(tree.root / name) in page.text


def test_both_methods_stand_in_the_table(html):
    assert html.count('<th scope="row">sr3+post</th>') == 1


def test_the_same_results_give_the_same_bytes(tree, html):
    assert _report(tree, denoisers=("ours", "sr3+post")) == html


def test_a_failed_control_is_in_the_verdict(tmp_path):
    text = Page(_report(make_tree(tmp_path, control_passed=False))).text
    assert "Failed controls: noise only" in text
    assert "No figure is given here: withheld: control noise_only failed" in text


def test_real_data_without_truth_controls_or_training_make_a_report_too(tmp_path):
    html = _report(make_tree(tmp_path), truth=False, controls=False, diffusion_histories=[], postprocess_histories=[], provenance=[])
    page = Page(html)
    assert "There is no truth for these data" in page.text
    assert "No control was run" in page.text
    assert "None" not in page.text
    assert "nan" not in re.sub(r"\s+", " ", page.text).split(" ")


def test_names_are_escaped(tree, html, tmp_path):
    summary = tmp_path / "summary.json"
    summary.write_text((tree.root / "summary.json").read_text().replace("made_up", "<script>alert(1)</script>"))
    files = tree.report_files(denoisers=("ours", "sr3+post")) | {"summary": summary, "report": tmp_path / "report.html"}
    write_report(**files, denoisers=["ours", "sr3+post"])
    assert "<script>alert" not in files["report"].read_text(encoding="utf-8")


def test_a_plot_is_the_same_bytes_each_time_and_has_no_date(tmp_path):
    curve = {"half-map FSC": (np.linspace(0, 0.25, 17), np.linspace(1, 0, 17))}
    for name in ("a.svg", "b.svg"):
        plots.plot_fsc(curve, tmp_path / name, thresholds=(0.5, 0.143), pixel_size=2.0)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"dc:date" not in (tmp_path / "a.svg").read_bytes()


def test_the_first_row_of_an_image_is_drawn_at_the_bottom():
    import io

    from PIL import Image

    image = np.zeros((4, 4))
    image[0] = 1.0
    pixels = np.asarray(Image.open(io.BytesIO(plots.grey_png(image, low=0, high=1))).convert("L"))
    assert pixels[-1].min() == 255
    assert pixels[:-1].max() == 0
