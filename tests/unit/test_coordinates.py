import pytest

from cryorestore.errors import CryorestoreError
from cryorestore.io.coordinates import read_coordinates


def test_a_box_file_gives_centres(cases_root):
    picks = read_coordinates(cases_root / "case-10-outside-and-negative-mic.box")
    assert picks.x == pytest.approx([7, -28, 32, 62.6])
    assert picks.y == pytest.approx([7, 22, 32, 62.2])
    assert picks.figure_of_merit is None
    assert picks.columns is None


def test_a_star_file_keeps_its_table(data_root):
    picks = read_coordinates(data_root / "micrograph-contaminated/Ucsf_stack_1142_DW_autopick.star")
    assert (picks.x[0], picks.y[0], picks.figure_of_merit[0]) == (839.125024, 19.979167, 0.624705)
    assert picks.columns.column("rlnCoordinateX")[0] == "839.125024"


def test_text_with_comments_and_commas_is_read(tmp_path):
    (tmp_path / "a.txt").write_text("# x y\n1.5 2\n\n3,4,0.9\n")
    picks = read_coordinates(tmp_path / "a.txt")
    assert picks.x.tolist() == [1.5, 3.0]
    assert picks.y.tolist() == [2.0, 4.0]


def test_a_file_without_picks_is_no_error(cases_root, tmp_path):
    assert len(read_coordinates(cases_root / "case-01-zero-picks/coords/mic_02.star")) == 0
    (tmp_path / "a.txt").write_text("")
    assert len(read_coordinates(tmp_path / "a.txt")) == 0


@pytest.mark.parametrize(("name", "text"), [("a.box", "1 2 24\n"), ("a.txt", "1 two\n"), ("a.txt", "nan 2\n")])
def test_a_row_that_cannot_be_understood_is_named(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(CryorestoreError, match=f"{name}: line 1: found .*expected [24] numbers"):
        read_coordinates(tmp_path / name)
