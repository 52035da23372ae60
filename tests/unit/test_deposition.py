import json

import mrcfile
import numpy as np
import pytest

from cryorestore.crate import METADATA, write_crate
from cryorestore.deposition import prepare_deposition
from cryorestore.errors import CryorestoreError
from cryorestore.particles import ParticleTable
from cryorestore.resolution.curves import write_fsc
from results_tree import make_tree


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A made-up results folder, with EMDB's curve and a table of restored particles (of half 1 alone)."""
    root = make_tree(tmp_path_factory.mktemp("run") / "results/made_up").root
    curves = {"curve": root / "raw/fsc.csv", "plot": root / "raw/fsc.svg", "figures": root / "raw/fsc.json", "xml": root / "raw/fsc_emdb.xml"}
    write_fsc(half_map_1=root / "raw/half1/map.mrc", half_map_2=root / "raw/half2/map.mrc", **curves)
    ParticleTable.read(root / "restored.ours/half1/particles.star").write(root / "restored.ours/particles.star")
    return root


def test_half_maps_are_the_raw_ones_and_the_restored_map_is_named_so(results, tmp_path):
    prepare_deposition(results=results, out=tmp_path / "deposit", method="ours")
    folder = tmp_path / "deposit/emdb"
    assert sorted(path.name for path in folder.iterdir()) == ["additional_map_restored.map", "fsc.xml", "half_map_1.map", "half_map_2.map", "map.map"]
    halves = [mrcfile.read(results / f"raw/half{half}/map.mrc") for half in (1, 2)]
    for half in (1, 2):
        assert (folder / f"half_map_{half}.map").read_bytes() == (results / f"raw/half{half}/map.mrc").read_bytes()
    np.testing.assert_allclose(mrcfile.read(folder / "map.map"), (halves[0] + halves[1]) / 2, atol=1e-6)
    sets = json.loads((tmp_path / "deposit/empiar.json").read_text(encoding="utf-8"))["imagesets"]
    assert [one["name"] for one in sets] == ["raw particles", "restored"]
    assert [one["num_images"] for one in sets] == [47, 24]
    assert "restored" in json.loads((tmp_path / "deposit/deposition.json").read_text(encoding="utf-8"))["additional_map"]["description"]


def test_a_deposition_is_never_written_over(results, tmp_path):
    with pytest.raises(CryorestoreError, match="is there already"):
        prepare_deposition(results=results, out=tmp_path)


def test_a_missing_map_is_named(results, tmp_path):
    with pytest.raises(CryorestoreError, match=r"restored\.absent/half1/map\.mrc.*run the data set"):
        prepare_deposition(results=results, out=tmp_path / "deposit", method="absent")


def test_the_crate_names_every_file_and_step_and_no_place_of_this_machine(results):
    write_crate(results=results, author="A. Person", license="https://creativecommons.org/licenses/by/4.0/")
    text = (results / METADATA).read_text(encoding="utf-8")
    entities = {entity["@id"]: entity for entity in json.loads(text)["@graph"]}
    files = {path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file() and path.name != METADATA}
    assert {name for name, entity in entities.items() if entity["@type"] == "File"} == files
    actions = [entity for entity in entities.values() if entity["@type"] == "CreateAction"]
    assert actions
    assert all(part["@id"] in entities for action in actions for part in [action["instrument"], *action["result"]])
    assert str(results.parents[2]) not in text
    before = text
    write_crate(results=results, author="A. Person", license="https://creativecommons.org/licenses/by/4.0/")
    assert (results / METADATA).read_text(encoding="utf-8") == before


def test_the_crate_is_read_back(results):
    from rocrate.rocrate import ROCrate

    write_crate(results=results)
    crate = ROCrate(results)
    assert crate.get("raw/half1/map.mrc")["contentSize"] == str((results / "raw/half1/map.mrc").stat().st_size)
    assert crate.get("restored.ours/particles.star")["description"].startswith("Restored")


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(CryorestoreError, match=r"found no provenance\.json"):
        write_crate(results=tmp_path)
