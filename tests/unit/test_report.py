import base64
import re
import shutil
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
import torch

from cryorestore import plots
from cryorestore.ctf import ctf_2d
from cryorestore.errors import CryorestoreError
from cryorestore.files import read_json, write_json
from cryorestore.fourier import to_fourier, to_real
from cryorestore.io.mrc import read_map
from cryorestore.particles import ParticleTable
from cryorestore.report import write_report
from cryorestore.report.controls import read_controls
from cryorestore.report.curves import CurveFiles, resolution_rows
from cryorestore.report.isosurface import isosurface_maps, small_map
from cryorestore.report.spectra import reference_projections
from cryorestore.report.verdict import write_verdict
from results_tree import Tree, make_tree

VIEWER = files("cryorestore") / "vendor/3Dmol-min.js"
VOID = {"meta", "link", "img", "input", "br", "wbr"}


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


def _report(tree, denoisers):
    for method in denoisers:
        tree.evaluate(method=method)
    tree.summarize(denoisers=denoisers)
    files = tree.report_files(denoisers=denoisers)
    write_report(**files, denoisers=list(denoisers))
    return files["report"].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("results"), methods=("ours", "sr3+post"))


@pytest.fixture(scope="module")
def html(tree):
    return _report(tree, ("ours", "sr3+post"))


def test_the_page_needs_no_network(html):
    page = Page(html)
    assert page.remote == []
    own = html.replace(VIEWER.read_text(encoding="utf-8"), "")
    assert len(own) < len(html)
    assert not re.search(r"https?://(?!www\.w3\.org)", own)
    assert "url(" not in own
    assert "default-src 'none'" in html


def test_every_picture_has_an_alternative_text(html):
    page = Page(html)
    assert len(page.images) == 2 + 7 * 6 + 2 * 4 * 3 + 10 + 2
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


def test_the_same_results_give_the_same_bytes(tree, html, tmp_path):
    denoisers = ("ours", "sr3+post")
    write_report(**tree.report_files(denoisers=denoisers) | {"report": tmp_path / "again.html"}, denoisers=list(denoisers))
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == html


@pytest.mark.parametrize(
    "title",
    [
        "Particles against the clean images",
        "Power spectra",
        "Evidence of the particle in each box",
        "Half-maps, truth and controls",
        "Raw half-maps and the mask",
        "Local resolution of the raw half-maps",
        "Guinier plot of the raw map",
        "Orientations",
        "Training of the diffusion network",
        "Training of the post-processing network",
    ],
)
def test_every_figure_is_there(html, title):
    assert html.count(f"<h3>{title}</h3>") == 1


def test_the_montage_shows_each_method_and_the_halfs_own_reference(html):
    rows = re.findall(r'<tr><th scope="row">([^<]*)<small>', html)
    expected = ["raw", "Wiener filter", "restored", "restored by sr3+post", "reference projection", "truth", "posterior deviation"]
    assert rows[: len(expected)] == expected


def test_the_resolution_table_begins_with_the_raw_resolution_of_the_summary(tree, html):
    summary = read_json(tree.root / "summary.json")
    table = html[html.index("Where each curve first falls below") :]
    first = re.search(r'<tr class="first">(.*?)</tr>', table).group(1)
    assert f"{summary['resolution_raw_0143']:.2f} Å" in first
    assert "the resolution of this data set" in first


def test_a_failed_control_is_in_the_first_line_and_withholds_the_figure(tree, html, tmp_path):
    control = read_json(tree.root / "control.noise_only.ours/control.json")
    write_json(tmp_path / "control.json", control | {"verdict": "failed", "text": "20 % of the noise images accepted", "picture": None})
    controls = read_controls([tmp_path / "control.json"], box_size=32, pixel_size=4.0)
    summary = read_json(tree.root / "summary.json")
    withheld = {"self_consistency_restored_0143": None, "self_consistency_reason": "withheld: control noise_only failed: 20 % accepted"}
    verdict = write_verdict(summary | withheld, read_json(tree.root / "evaluation/ours.json"), controls, has_true_map=True)
    assert verdict.alarm == "Failed controls: noise only (ours). Do not draw conclusions from the restored map of ours."
    assert "No figure is given here: withheld: control noise_only failed" in verdict.note
    curves = CurveFiles({"raw": tree.root / "raw/fsc.csv", "ours": tree.root / "restored.ours/fsc.csv"}, {})
    rows = resolution_rows(curves, controls, {"ours": withheld}, method="ours")
    assert rows[-1]["curve"] == "ours: noise only, ungated"
    assert len(resolution_rows(curves, controls, {"ours": withheld}, method="another")) == len(rows) - 1
    assert [row["crossings"] for row in rows if row["curve"] == "ours half-maps"] == [["withheld", "withheld"]]


@pytest.mark.parametrize("reliable", [True, False])
def test_where_poses_were_found_the_page_names_their_start_and_the_hand_and_warns_of_a_map_that_is_not_reliable(tree, tmp_path, reliable):
    found = {
        "reliable": reliable,
        "statement": "the two halves found one map" if reliable else "no reliable map: half 1: two maps",
        "start": "from its particles alone",
        "hand": "that of half 1: the data alone cannot tell a map from its mirror image",
        "agreed_shell": 4,
        "box_width": 128.0,
    }
    write_json(tmp_path / "found.json", found)
    write_report(**tree.report_files() | {"report": tmp_path / "found.html", "poses_verdict": tmp_path / "found.json"}, denoisers=["ours"])
    page = (tmp_path / "found.html").read_text(encoding="utf-8")
    assert f"by each half for itself, from its particles alone: {found['statement']}. The two maps correlate above 0.5 to 32.0 Å." in page
    assert "The hand is that of half 1: the data alone cannot tell a map from its mirror image." in page
    assert ("no resolution on this page is one" in page) is not reliable


def test_a_control_brings_its_picture_its_null_and_its_curves(tmp_path):
    (tmp_path / "control.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    content = {
        "name": "shared_network",
        "method": "ours",
        "score": 0.42,
        "score_text": "mean FSC less that of own networks",
        "threshold": 0.1,
        "null": {"text": "independent networks", "value": 0.0},
        "verdict": "not judged",
        "gates": None,
        "text": "as expected",
        "picture": "control.svg",
        "details": {"fsc": {"one network": [1.0, 0.9, 0.5]}, "mean_fsc": 0.8},
    }
    write_json(tmp_path / "control.json", content)
    (control,) = read_controls([tmp_path / "control.json"], box_size=4, pixel_size=2.5)
    assert (control.passed, control.outcome, control.method) == (None, "not judged", "ours")
    assert control.picture.startswith("data:image/svg+xml;base64,")
    assert list(control.curves) == ["shared network, one network"]
    np.testing.assert_allclose(control.curves["shared network, one network"][0], [0.0, 0.1, 0.2])


@pytest.mark.parametrize(("change", "message"), [({"picture": "gone.svg"}, "names the picture gone.svg"), ({"verdict": "fine"}, "verdict 'fine'")])
def test_a_control_that_cannot_be_shown_is_named(tree, tmp_path, change, message):
    write_json(tmp_path / "control.json", read_json(tree.root / "control.noise_only.ours/control.json") | change)
    with pytest.raises(CryorestoreError, match=f"control.json: .*{message}"):
        read_controls([tmp_path / "control.json"], box_size=4, pixel_size=2.5)


def test_real_data_without_truth_controls_or_training_make_a_report_too_and_names_are_escaped(tree, html, tmp_path):
    copied = Tree(shutil.copytree(tree.root, tmp_path / "copy"))
    copied.evaluate(truth=False)
    copied.summarize(truth=False, controls=False)
    summary = tmp_path / "copy/summary.json"
    summary.write_text(summary.read_text().replace("made_up", "<script>alert(1)</script>"))
    optional = ("sharpened_map", "guinier", "sharpening", "local_resolution_map", "local_resolution_figures")
    files = {name: path for name, path in copied.report_files(truth=False).items() if name not in optional}
    write_report(**files | dict.fromkeys(("controls", "diffusion_histories", "postprocess_histories", "provenance"), ()), denoisers=["ours"])
    text = files["report"].read_text(encoding="utf-8")
    page = Page(text)
    assert "There is no truth for these data" in page.text
    assert "No control was run" in page.text
    assert "None" not in page.text
    assert "nan" not in re.sub(r"\s+", " ", page.text).split(" ")
    assert "<script>alert" not in text


def test_fused_stacks_have_their_curves_maps_figures_and_a_sentence_and_are_no_headline(tree, html, tmp_path):
    copied = Tree(shutil.copytree(tree.root, tmp_path / "copy"))
    copied.fuse()
    summary = read_json(copied.summarize(fused=True)[0])
    assert list(summary["fused"]) == ["fused.marginal", "fused.mean-pose"]
    files = copied.report_files(fused=True)
    write_report(**files, denoisers=["ours"])
    text = files["report"].read_text(encoding="utf-8")
    words = re.sub(r"\s+", " ", Page(text).text)
    crossings = [f"{figures['resolution_0143']:.2f} Å ({stack})" for stack, figures in summary["fused"].items()]
    assert f"cross 0.143 at {', '.join(crossings)}; the headline stays with the given poses. Against the true map" in words
    table = text[text.index("Where each curve first falls below") : text.index("</table>", text.index("Where each curve first falls below"))]
    for stack in summary["fused"]:
        assert f'<th scope="row">{stack} half-maps</th>' in table
        assert f'<th scope="row">{stack} to the true map</th>' in table
        assert str(copied.root / stack / "fsc_truth.csv") in words
    assert '<th scope="row">fused.marginal<small>' in text
    assert '"label": "fused.marginal"' in text
    for half in (1, 2):
        assert f'<th scope="row">{half}</th><td class="number">{20 + half} of 24</td><td class="number">1.23</td><td class="number">0.57</td>' in text
    assert "fused" not in Page(html).text.lower()


def test_a_reference_projection_is_the_halfs_map_seen_at_the_pose_through_the_ctf(tree, tmp_path):
    table = ParticleTable.read(tree.root / "raw/half1/particles.star").take(np.array([2, 0]))
    zeros = {name: np.zeros(2) for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")}
    table.with_columns(zeros).write(tmp_path / "particles.star")
    names = table.particles.column("rlnImageName")
    pairs = tree.root / "pairs/half1"
    images = reference_projections(list(reversed(names)), [tmp_path / "particles.star"], [pairs / "reference_map.mrc"], [pairs / "noise.json"])
    volume = torch.from_numpy(read_map(pairs / "reference_map.mrc")[0])
    ctf = ctf_2d(table.ctf_parameters(), box_size=32, pixel_size=4.0)
    expected = to_real(to_fourier(volume.sum(0)) * ctf).numpy()[::-1]
    assert min(np.corrcoef(image.ravel(), other.ravel())[0, 1] for image, other in zip(images, expected, strict=True)) > 0.99
    assert reference_projections(["1@elsewhere.mrcs"], [tmp_path / "particles.star"], [pairs / "reference_map.mrc"], [pairs / "noise.json"]) is None


def test_surfaces_are_embedded_along_x_y_z_at_levels_that_enclose_the_same_share():
    axis = np.arange(16) - 8.0
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    volume = np.exp(-((x - 3.31) ** 2 + (y + 2.17) ** 2 + (z - 0.43) ** 2) / 8).astype(np.float32)
    content = isosurface_maps({"raw": volume, "truth": 50 * volume}, pixel_size=2.0, resolution=None)
    for entry in content["maps"]:
        values = np.frombuffer(base64.b64decode(entry["values"]), "<i2").reshape(16, 16, 16)
        np.testing.assert_allclose(values / 32000, volume.transpose(2, 1, 0) / volume.max(), atol=1e-4)
        shares = [(values > level).mean() for level in entry["levels"]]
        np.testing.assert_allclose(shares, content["shares"], atol=0.001)
    assert (content["box_size"], content["voxel_size"]) == (16, 2.0)


def test_a_large_box_is_embedded_small_with_its_grey_values_and_length():
    axis = 2 * np.pi * np.arange(80) / 80
    volume = np.broadcast_to(np.cos(3 * axis), (80, 80, 80)).astype(np.float32)
    small = small_map(volume, 64, pixel_size=1.0, resolution=None)
    np.testing.assert_allclose(small[5, 7], np.cos(3 * 2 * np.pi * (0.5 + (np.arange(64) - 32) / 64)), atol=1e-4)
    assert np.abs(small_map(volume, 64, pixel_size=1.0, resolution=40.0)).max() < 1e-5
    content = isosurface_maps({"raw": volume}, pixel_size=1.0, resolution=None)
    assert content["box_size"] * content["voxel_size"] == 80.0


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
