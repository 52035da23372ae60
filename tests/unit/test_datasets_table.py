import pytest
import yaml

from cryorestore.config import load_configuration, picks, picks_version
from cryorestore.errors import CryorestoreError


@pytest.fixture
def load(tmp_path):
    """Loads a table of the given text; its data sets may be like `small`, micrographs with coordinates."""
    (tmp_path / "small.yaml").write_text(
        "input: {kind: micrographs, micrographs_star: mics.star, coordinates: 'picks/*.star'}\n"
        "extract: {box_size: 128, scale: 64}\nsplit: {holdout_fraction: 0.0}\ndenoisers: []\n"
    )
    (tmp_path / "other.yaml").write_text("simulate: {count: 3}\n")

    def load(text, **overrides):
        table = tmp_path / "datasets.tsv"
        table.write_text(text)
        return load_configuration({"datasets_table": str(table), "datasets_dir": str(tmp_path), **overrides})

    return load


def test_a_row_starts_from_a_dataset_file_and_changes_its_keys(load):
    settings = load(
        "dataset\tlike\tnormalize.bg_radius\tinput.micrographs_star\n"
        "# a remark\n"
        "first\tsmall\t20\tfirst/mics.star\n"
        "second\tsmall\t\tsecond/mics.star\n"
        "other\t\t\t\n"
    ).settings
    assert list(settings) == ["first", "second", "other"]
    assert [settings[name]["normalize"]["bg_radius"] for name in settings] == [20, 24, 24]
    assert [settings[name]["extract"]["box_size"] for name in settings] == [128, 128, 64]
    assert settings["second"]["input"]["micrographs_star"] == "second/mics.star"
    assert settings["other"]["simulate"]["count"] == 3


def test_the_command_line_chooses_rows_and_has_the_last_word(load):
    table = "dataset\tlike\tnormalize.bg_radius\nfirst\tsmall\t20\nsecond\tsmall\t21\n"
    settings = load(table, datasets=["second"], seed=7).settings
    assert list(settings) == ["second"]
    assert (settings["second"]["seed"], settings["second"]["normalize"]["bg_radius"]) == (7, 21)
    assert load(table, normalize={"bg_radius": 22}).settings["first"]["normalize"]["bg_radius"] == 22


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("dataset\tlike\tnormalize.bg_radius\na\tsmall\t20\nb\tsmall\t40\n", ["row 3: normalize.bg_radius = 40: at most 32 px"]),
        ("dataset\tlike\tnormalize.bgradius\na\tsmall\t20\n", ["row 2: normalize.bgradius = 20: unknown key; did you mean bg_radius?"]),
        ("dataset\tlike\na\tsmall\na\tsmall\n", ["row 3: dataset = 'a': each name once; it stands in row 2, too"]),
        ("dataset\tlike\na\n\tsmall\n", ["row 2: 1 cells", "row 3: dataset is empty"]),
        ("dataset\tlike\na_b\tsmall\n", ["row 2: dataset = 'a_b': text matching"]),
        ("dataset\tlike\na\tabsent\n", ["row 2 = 'absent': ", "absent.yaml does not exist; allowed: other, small"]),
        ("dataset\tresults\nother\telsewhere\n", ["row 2: results = 'elsewhere': allowed in config/config.yaml or on the command line only"]),
        ("name\tlike\na\tsmall\n", ["found the columns name, like, expected dataset among them"]),
        ("dataset\tlike\tlike\na\tsmall\tsmall\n", ["column 'like': expected a name, and each once"]),
        ("dataset\textract\textract.scale\na\t{}\t8\n", ["columns extract and extract.scale"]),
        ("dataset\tlike\n", ["found 1 rows"]),
        ("dataset\tseed\nother\t[1\n", ["row 2: a cell cannot be read as YAML"]),
    ],
)
def test_what_is_wrong_in_a_table_is_told_by_its_row(load, table, said):
    with pytest.raises(CryorestoreError) as error:
        load(table)
    assert all(text in str(error.value) for text in said), error.value


def test_a_name_that_has_no_row_is_refused(load):
    with pytest.raises(CryorestoreError, match=r"datasets = 'third': no row of .*datasets\.tsv; allowed: first"):
        load("dataset\tlike\nfirst\tsmall\n", datasets=["third"])


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(CryorestoreError, match=r"absent\.tsv: cannot be read"):
        load_configuration({"datasets_table": str(tmp_path / "absent.tsv")})


def test_changed_added_and_removed_pick_files_change_their_version(load, tmp_path):
    settings = load("dataset\tlike\nfirst\tsmall\n", data_root=str(tmp_path)).settings["first"]
    folder = tmp_path / "picks"
    folder.mkdir()
    (folder / "a.star").write_text("data_\n")
    (folder / "a.txt").write_text("not of the pattern")
    versions = [picks_version(settings)]
    (folder / "a.txt").write_text("still not")
    assert picks_version(settings) == versions[0]
    (folder / "b.star").write_text("data_\n")
    versions.append(picks_version(settings))
    (folder / "b.star").write_text("data_more\n")
    versions.append(picks_version(settings))
    (folder / "a.star").unlink()
    versions.append(picks_version(settings))
    assert len(set(versions)) == 4
    assert picks(settings)["coordinates"].endswith("picks/*.star")


def test_data_sets_without_pick_files_have_no_version():
    settings = load_configuration(yaml.safe_load("datasets: [demo]")).settings["demo"]
    assert picks(settings) == {}
    assert picks_version(settings) is None
