"""No y label of a picture runs into the legend above it or over the picture's edge."""

import re
from pathlib import Path

import pytest

from cryorestore.controls import pictures

SOURCES = Path(__file__).parents[2] / "src/cryorestore"
LABELS = sorted({found for path in SOURCES.rglob("*.py") for found in re.findall(r'ylabel="([^"]+)"', path.read_text(encoding="utf-8"))})


@pytest.fixture
def drawn(monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "write_figure", lambda figure, svg: figures.append(figure))
    return figures


@pytest.mark.parametrize("label", LABELS)
def test_a_y_label_ends_below_the_legend_and_inside_the_picture(drawn, label):
    pictures.draw_points({"restored": ([4.0, 9.0], [0.9, 0.2]), "raw": ([4.0, 9.0], [0.3, 0.1])}, "a.svg", xlabel="beyond (Å)", ylabel=label)
    pictures.draw_shells({"restored": [1.0, 0.9, 0.2], "raw": [1.0, 0.3, 0.1]}, "b.svg", pixel_size=4.0, ylabel=label)
    for figure in drawn:
        figure.canvas.draw()
        box = figure.axes[0].yaxis.label.get_window_extent()
        assert box.y1 <= figure.axes[0].bbox.y1
        assert figure.bbox.y0 <= box.y0
    assert len(drawn) == 2


def test_the_labels_that_were_too_long_are_among_them():
    assert max(map(len, LABELS)) > 40
