"""The report in a real browser: nothing fails, nothing is fetched, every figure is seen, and everything can be used with keys at both widths."""

import io
import re

import numpy as np
import pytest

pytestmark = pytest.mark.browser

SURFACE = "#viewer[data-drawn]"


def show_surface(page):
    page.locator("#viewer").scroll_into_view_if_needed()
    page.wait_for_selector(SURFACE, timeout=60_000)


def picture_of(page, selector):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")).astype(int)


def violations(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed: make setup")
    found = axe.Axe().run(page).response["violations"]
    return [(rule["id"], [node["target"] for node in rule["nodes"]][:3]) for rule in found]


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_nothing_fails_nothing_is_fetched_and_nothing_is_wider_than_the_window(visit, report, width):
    page = visit(report, width)
    show_surface(page)
    for section in page.locator("main > section").all():
        section.scroll_into_view_if_needed()
    assert overflow(page) == 0


def test_every_picture_is_drawn_and_has_an_alternative_text(visit, report):
    page = visit(report, 1280)
    pictures = page.evaluate(
        "Array.from(document.images, (image) => [image.alt.trim().length, image.naturalWidth, image.getBoundingClientRect().width])"
    )
    assert len(pictures) > 40
    assert min(pictures, key=lambda entry: entry[0])[0] > 5
    assert min(pictures, key=lambda entry: entry[1])[1] > 0
    assert min(pictures, key=lambda entry: entry[2])[2] > 20


def test_the_first_thing_seen_is_the_raw_resolution(visit, report, width):
    page = visit(report, width)
    card = page.locator(".card").first
    assert card.locator("dt").inner_text() == "Resolution, raw particles"
    assert re.match(r"\d+\.\d\d Å|never crosses", card.locator(".value").inner_text())
    assert card.bounding_box()["y"] < 800


def test_it_is_accessible_by_the_rules_of_axe(visit, report, width):
    page = visit(report, width)
    show_surface(page)
    assert violations(page) == []


def test_tab_begins_at_the_skip_link_and_reaches_every_control(visit, report):
    page = visit(report, 1280)
    show_surface(page)
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    operated = "Array.from(document.querySelectorAll('input, select, button, summary, .scroll, #viewer')).filter((e) => e.checkVisibility())"
    expected = set(page.evaluate(f"{operated}.map((e, i) => e.dataset.place = i)"))
    reached = set()
    for _ in range(len(expected) + 40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.place"))
    assert {str(place) for place in expected} <= reached


def test_the_boundary_between_two_versions_slides_with_the_keys(visit, report):
    page = visit(report, 390)
    page.locator("#cut").focus()
    before = picture_of(page, "#wipe")
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("getComputedStyle(document.getElementById('wipe')).getPropertyValue('--cut')") == "70%"
    changed = np.abs(picture_of(page, "#wipe") - before).max(axis=(0, 2)) > 0
    middle = changed.nonzero()[0] / len(changed)
    assert 0.45 < middle.min() < middle.max() < 0.75


def test_a_version_is_chosen_and_two_blink(visit, report):
    page = visit(report, 1280)
    page.locator("#right").select_option(label="Wiener filter")
    assert page.locator("#wipe .tag").nth(1).inner_text() == "Wiener filter"
    assert page.locator("#wipe img").nth(1).get_attribute("alt").startswith("Wiener filter images")
    page.locator("#blink").press("Enter")
    page.wait_for_selector("#wipe.blinking.first")
    page.wait_for_selector("#wipe.blinking:not(.first)")
    page.locator("#blink").press("Enter")
    assert page.locator("#blink").get_attribute("aria-pressed") == "false"
    assert page.locator("#wipe.blinking").count() == 0


def test_the_surface_is_drawn_turned_and_changed_with_the_keys(visit, report):
    page = visit(report, 1280)
    show_surface(page)
    page.locator("#viewer-map").select_option(index=1)
    first = picture_of(page, "#viewer")
    assert (np.abs(first - first[3, 3]).max(axis=-1) > 60).mean() > 0.005
    page.locator("#viewer").press("ArrowRight")
    turned = picture_of(page, "#viewer")
    assert (np.abs(turned - first).max(axis=-1) > 30).mean() > 0.002
    told = page.locator("#viewer-told").inner_text()
    page.locator("#viewer-level").press("ArrowRight")
    assert page.locator("#viewer-told").inner_text() != told
    page.locator("#viewer-map").select_option(index=0)
    assert page.locator("#viewer").get_attribute("data-drawn") == "raw"


def test_without_webgl_the_page_says_so(playwright, program, report):
    browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-3d-apis"])
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(report.as_uri())
    page.locator("#viewer").scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    assert "needs a browser with JavaScript and WebGL" in page.locator("#viewer").inner_text()
    assert page.locator("#viewer-controls").is_hidden()
    assert said == []
    browser.close()


def test_the_page_across_data_sets_is_usable(visit, comparison, width):
    page = visit(comparison, width)
    assert overflow(page) == 0
    assert violations(page) == []
    assert page.locator("tbody tr").count() >= 2
    assert "mic_7.mrc" in page.locator("body").inner_text()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") in ("A", "DIV")
