"""What the documentation says of the general restoration is what its cells say."""

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks/general"))
    yield
    for name in ("measure", "lanes", "particles", "sampling", "downstream"):
        sys.modules.pop(name, None)


def test_the_page_of_steps_downstream_is_made_of_its_cells(benchmark, monkeypatch, tmp_path):
    import downstream

    monkeypatch.setattr(downstream, "PAGE", tmp_path / "page.md")
    downstream.write_page()
    assert (tmp_path / "page.md").read_text() == (ROOT / "docs/general_downstream.md").read_text()


def test_the_table_of_samplings_is_made_of_its_result(benchmark, monkeypatch, tmp_path):
    import sampling

    shutil.copy(ROOT / "docs/general.md", tmp_path / "page.md")
    monkeypatch.setattr(sampling, "PAGE", tmp_path / "page.md")
    sampling.write_table(sampling.read_json(sampling.RESULT))
    assert (tmp_path / "page.md").read_text() == (ROOT / "docs/general.md").read_text()


def test_a_perfect_sorting_is_pure_and_a_turn_is_measured(benchmark):
    import downstream
    import numpy as np
    from scipy.spatial.transform import Rotation

    true = np.array([0, 0, 1, 1, 2, 2])
    assert downstream.purity(np.array([2, 2, 0, 0, 1, 1]), true) == 1
    assert downstream.purity(np.zeros(6, int), true) == pytest.approx(1 / 3)
    turned = Rotation.from_euler("x", [[0], [30]], degrees=True).as_matrix()
    assert downstream.angles_between(turned, np.stack([np.eye(3)] * 2)) == pytest.approx([0, 30])
