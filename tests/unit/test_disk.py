import numpy as np
import pytest

from cryorestore.config import load_configuration
from cryorestore.diffusion.network import ConditionalUnet, NetworkConfig
from cryorestore.disk import NETWORK_BYTES, bytes_text, check_disk, disk_use, input_size, predict_disk_use
from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import MrcStackWriter, write_map
from cryorestore.io.star import StarBlock, write_star


@pytest.fixture
def demo():
    return load_configuration({"datasets": ["demo"]}).settings["demo"]


@pytest.fixture
def micrographs(tmp_path):
    """A data set of 250 pick files with four picks each."""
    (tmp_path / "picks").mkdir()
    for number in range(250):
        (tmp_path / f"picks/mic_{number:03d}.txt").write_text("10 10\n20 20\n30 30\n40 40\n")
    given = {"kind": "micrographs", "micrographs_star": "mics.star", "coordinates": "picks/*.txt"}
    overrides = {"datasets": ["demo"], "data_root": str(tmp_path), "input": given, "extract": {"box_size": 64, "scale": 32}}
    return load_configuration({**overrides, "normalize": {"bg_radius": 12}, "mask": {"radius": 40}}).settings["demo"]


def test_a_stack_and_a_map_are_predicted_to_the_byte_but_for_their_headers(demo, tmp_path):
    with MrcStackWriter(tmp_path / "stack.mrcs", count=5, box_size=16, pixel_size=2.0) as writer:
        writer.append(np.zeros((5, 16, 16), np.float32))
    write_map(tmp_path / "map.mrc", np.zeros((16, 16, 16), np.float32), pixel_size=2.0)
    stack, volume = ((tmp_path / name).stat().st_size - 1024 for name in ("stack.mrcs", "map.mrc"))
    none = disk_use(demo, particles=0, box_size=16).stages
    use = disk_use(demo, particles=5, box_size=16).stages
    table = use["extracted"] - stack
    assert 0 < table < 5 * 1000
    assert none["raw"] == 6 * volume
    assert use["normalized"] == stack + table
    assert use["truth"] - none["truth"] == 2 * stack + table
    # restored particles, their deviations, two tables; six half-maps
    assert use["restored.ours"] == 2 * stack + 2 * table + 6 * volume


@pytest.mark.parametrize("size", NETWORK_BYTES)
def test_a_network_with_the_state_of_its_training_is_no_larger_than_predicted(size):
    weights = sum(value.numel() for value in ConditionalUnet(NetworkConfig(size, 5, 64)).parameters()) * 4
    assert 0.9 * NETWORK_BYTES[size] < 6 * weights <= 1.01 * NETWORK_BYTES[size]


def test_a_narrow_stack_takes_half(demo):
    narrow = {**demo, "normalize": {**demo["normalize"], "dtype": "float16"}}
    wide, half = (disk_use(settings, particles=10, box_size=64).stages["normalized"] for settings in (demo, narrow))
    assert wide - half == 10 * 64**2 * 2


def test_the_particles_of_many_pick_files_are_estimated_from_some(micrographs):
    assert input_size(micrographs) == (1000, 32)


def test_a_ready_stack_is_counted_in_its_table_and_measured_in_its_header(tmp_path):
    with MrcStackWriter(tmp_path / "stack.mrcs", count=3, box_size=20, pixel_size=2.0) as writer:
        writer.append(np.zeros((3, 20, 20), np.float32))
    columns = {"rlnImageName": [f"{row}@stack.mrcs" for row in (1, 2, 3)], "rlnOpticsGroup": ["1"] * 3}
    optics = {"rlnOpticsGroup": ["1"], "rlnImagePixelSize": ["2.0"], "rlnImageSize": ["20"]}
    write_star(tmp_path / "particles.star", {"optics": StarBlock.from_columns(optics), "particles": StarBlock.from_columns(columns)})
    given = {"kind": "star", "particles_star": "particles.star"}
    settings = load_configuration({"datasets": ["demo"], "data_root": str(tmp_path), "input": given}).settings["demo"]
    assert input_size(settings) == (3, 20)


def test_a_run_that_does_not_fit_is_refused_with_what_would_help(demo, tmp_path):
    total = predict_disk_use(demo).total
    check_disk({"demo": demo}, results=tmp_path / "results", free=total)
    with pytest.raises(CryorestoreError, match=r"results: .* free, expected .* for demo; free some, .*keep_intermediates: false saves up to"):
        check_disk({"demo": demo}, results=tmp_path / "results", free=total - 1)
    check_disk({"demo": demo}, results=tmp_path / "results", free=0, policy="warn")
    check_disk({"demo": demo}, results=tmp_path / "results", free=0, policy="none")


def test_what_is_written_already_is_not_needed_again(demo, tmp_path):
    total = predict_disk_use(demo).total
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/done").write_bytes(b"x" * 5000)
    check_disk({"demo": demo}, results=tmp_path, free=total - 5000)


def test_of_several_data_sets_one_temporary_stack_at_a_time_is_counted(demo, tmp_path):
    stack = disk_use(demo, particles=2400, box_size=64, keep_intermediates=False).temporary
    assert stack == 2400 * 64**2 * 4
    both = {"a": demo, "b": demo}
    needed = 2 * predict_disk_use(demo).total - stack
    check_disk(both, results=tmp_path, free=needed, keep_intermediates=False)
    with pytest.raises(CryorestoreError):
        check_disk(both, results=tmp_path, free=needed - 1, keep_intermediates=False)


@pytest.mark.parametrize(("count", "text"), [(999, "999 B"), (1000, "1 kB"), (1_500_000, "1.5 MB"), (2 * 10**18, "2e+03 PB")])
def test_bytes_are_told_in_a_fitting_unit(count, text):
    assert bytes_text(count) == text


def test_what_full_controls_and_folds_learn_is_counted(demo):
    full = {**demo, "controls": {**demo["controls"], "level": "full"}, "restore": {**demo["restore"], "cross_fit": True}}
    basic, more = (disk_use(settings, particles=100, box_size=64).stages for settings in (demo, full))
    assert more.keys() - basic.keys() == {"controls", "folds"}
    # three changed maps of one half; four folds, each learned from and restored
    one_half = basic["pairs"] // 2 + 3 * 64**3 * 4 + basic["models/ours"] // 2
    assert more["controls"] == 3 * one_half
    assert more["folds"] > 4 * one_half


def test_fused_stacks_are_maps_and_one_table_and_their_reference_comes_from_pairs(demo):
    fused = {**demo, "fusion": {"enabled": True}}
    without, made = (disk_use(settings, particles=100, box_size=64).stages for settings in (demo, fused))
    assert made.keys() - without.keys() == {"fused"}
    half_maps = 6 * 64**3 * 4
    table = made["raw"] - half_maps
    assert made["fused"] == 2 * half_maps + table
    alone = disk_use({**fused, "denoisers": []}, particles=100, box_size=64).stages
    assert (alone["fused"], alone["pairs"] > 0) == (made["fused"], True)
    no_poses = {**fused, "denoisers": [], "input": {**demo["input"], "has_poses": False}}
    assert "fused" not in disk_use(no_poses, particles=100, box_size=64).stages
