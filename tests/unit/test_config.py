import inspect
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from cryorestore.config import STEPS, code_version, load_configuration, sources, step_parameters
from cryorestore.config.inputs import check_inputs
from cryorestore.config.loading import DEFAULTS, read_yaml
from cryorestore.config.reference import PAGE, render
from cryorestore.config.sources import _closure
from cryorestore.errors import CryorestoreError

ROOT = Path(__file__).parents[2]
DATASETS = sorted(path.stem for path in (ROOT / "config/datasets").glob("*.yaml"))
GIVEN_BY_THE_RULE = {"change", "runtime_minutes", "benchmarks", "provenance", "dataset", "work_dir", "targets", "results", "logs"}


def refusal(overrides):
    with pytest.raises(CryorestoreError) as refused:
        load_configuration(overrides)
    return str(refused.value)


def test_the_package_imports_neither_numpy_nor_torch():
    code = "import sys, cryorestore.config; sys.exit(bool({'numpy', 'torch', 'jsonschema'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "src")}, check=False).returncode == 0


@pytest.mark.parametrize("name", DATASETS)
def test_every_shipped_data_set_is_accepted(name):
    assert load_configuration({"datasets": [name]}).settings[name]["input"]["how_to_obtain"]


@pytest.mark.parametrize(("denoisers", "expected"), [(["ours"], True), (["map-bayes"], True), (["sr3"], False)])
def test_pairs_have_the_posterior_where_a_method_looks_at_it_with_a_network_or_without(denoisers, expected):
    settings = load_configuration({"datasets": ["demo"], "denoisers": denoisers}).settings["demo"]
    assert step_parameters("make_training_pairs", settings, half=1)["with_posterior"] is expected


def test_the_command_line_wins_over_the_dataset_file_and_that_over_the_defaults():
    settings = load_configuration({"datasets": ["empiar-10146"], "extract": {"invert_contrast": False}}).settings["empiar-10146"]
    assert (settings["extract"]["invert_contrast"], settings["extract"]["scale"], settings["seed"]) == (False, 72, 1)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"simulate": {"pixel_size": 0.0001}}, "simulate.pixel_size = 0.0001: allowed: number, at least 0.1, at most 20 [angstrom per px]"),
        ({"input": {"pixel_size": 1000}}, "input.pixel_size = 1000: allowed: number or null, at least 0.1, at most 20 [angstrom per px]"),
        ({"extract": {"box_size": 63}}, "extract.box_size = 63: allowed: even number, at least 8, at most 4096 [px]"),
        ({"extract": {"scale": 31}}, "extract.scale = 31: allowed: even number or null"),
        ({"extract": {"scale": 128}}, "extract.scale = 128: at most extract.box_size 64 px"),
        ({"normalize": {"bg_radius": 33}}, "normalize.bg_radius = 33: at most 32 px, half the rescaled box of 64 px"),
        ({"normalize": {"bg_radious": 20}}, "normalize.bg_radious = 20: unknown key; did you mean bg_radius?"),
        ({"split": {"holdout_fraction": 0.5}}, "split.holdout_fraction = 0.5: allowed: number, at least 0, less than 0.5"),
        ({"denoisers": ["our"]}, "denoisers = 'our': unknown denoiser; allowed: ours, sr3, sr3+post, map-bayes"),
        ({"methods": {"ours": {"prediction": "epsilon"}}}, "methods.ours.sampler = 'mean': needs prediction v"),
        ({"methods": {"sr3": {"sampler_steps": 50}}}, "methods.sr3.sampler_steps = 50: diffusion.timesteps 2000 for sampler ancestral"),
        ({"methods": {"map-bayes": {"condition": ["mean", "noisy"]}}}, "methods.map-bayes.condition = ['mean', 'noisy']: one name"),
        ({"methods": {"ours": {"condition": ["noisy", "cwf"]}}}, "methods.ours.condition = 'cwf': shown to no network"),
        ({"methods": {"unet": {"prediction": "v"}}}, "methods.unet.prediction = 'v': clean for network unet"),
        ({"methods": {"gan": {"sampler": "ddim"}}}, "methods.gan.sampler = 'ddim': mean for network gan"),
        ({"methods": {"noise2noise": {"condition": ["mean"]}}}, "methods.noise2noise.condition = ['mean']: without mean"),
        ({"methods": {"sr3": {"prediction": "clean"}}}, "methods.sr3.prediction = 'clean': epsilon or v"),
        ({"denoisers": ["cwf"], "restore": {"cross_fit": True}}, "restore.cross_fit = true: false with denoiser cwf"),
        (
            {"input": {"has_poses": False}},
            "denoisers = ['ours', 'map-bayes']: all but general learn from the half's own map: [general] or [] where input.has_poses is false",
        ),
        ({"input": {"kind": "cryosparc"}}, "input.cs = []: needed for input.kind cryosparc"),
        ({"input": {"cs": ["a.cs"]}}, "input.cs = ['a.cs']: not read for input.kind simulation; remove it, or set input.kind to cryosparc"),
        ({"compute": {"processes": 33}}, "compute.processes = 33: at most diffusion.batch_size 16, which they share"),
        ({"compute": {"processes": 3, "nodes": 2}}, "compute.processes = 3: a multiple of compute.nodes 2"),
        ({"diffusion": {"beta_start": 0.5}}, "diffusion.beta_start = 0.5: less than diffusion.beta_end 0.01"),
        ({"diffusion": {"learning_rate": "1e-3"}}, "YAML reads this as text"),
        ({"symmetry": "Q2"}, "symmetry = 'Q2': allowed: text, matching"),
        ({"fsc": {"thresholds": [0.5]}}, "fsc.thresholds = [0.5]: allowed: a list with 0.143 in it"),
        ({"pairs": {"max_resolution": 5.9}}, "pairs.max_resolution = 5.9: at least 6 angstrom, Nyquist at 3 angstrom per px"),
        ({"mask": {"radius": 97}}, "mask.radius = 97: at most 96 angstrom, half the box of 64 px at 3 angstrom per px"),
    ],
)
def test_a_wrong_value_is_refused_with_key_value_and_what_is_allowed(overrides, expected):
    assert expected in refusal(overrides)


def test_numbers_that_snakemake_passes_on_as_text_are_numbers():
    settings = load_configuration({"normalize": {"bg_radius": "20", "remove_ramp": "false"}, "extract": {"scale": "null"}}).settings["demo"]
    assert (settings["normalize"]["bg_radius"], settings["normalize"]["remove_ramp"], settings["extract"]["scale"]) == (20, False, None)


def test_several_errors_are_told_at_once():
    text = refusal({"seed": -1, "normalize": {"bg_radius": "x"}})
    assert "the configuration has 2 errors" in text
    assert "seed = -1" in text
    assert "normalize.bg_radius = 'x'" in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("extract: {box_size: 63}", "sets/mine.yaml: extract.box_size = 63: allowed: even number"),
        ("results: elsewhere", "sets/mine.yaml: results = 'elsewhere': allowed in config/config.yaml or on the command line only"),
        ("seed: 1\nseed: 2", "sets/mine.yaml: cannot be read as YAML (the key 'seed' is written twice"),
    ],
)
def test_an_error_in_a_dataset_file_names_that_file(tmp_path, content, expected):
    folder = tmp_path / "sets"
    folder.mkdir()
    (folder / "mine.yaml").write_text(content)
    assert expected in refusal({"datasets": ["mine"], "datasets_dir": str(folder)})


def test_an_unknown_data_set_is_told_with_those_that_exist():
    assert "allowed: aspire-sample, demo" in refusal({"datasets": ["dmeo"]})


def test_a_missing_file_is_told_with_how_to_obtain_it(tmp_path):
    configuration = load_configuration({"datasets": ["empiar-10146"], "data_root": str(tmp_path)})
    with pytest.raises(CryorestoreError, match=r"(?s)micrographs\.star.*how to obtain them:.*EMPIAR-10146"):
        check_inputs(configuration)


@pytest.mark.parametrize("step", STEPS)
def test_the_settings_give_keywords_that_the_function_has(step):
    settings = load_configuration({}).settings["demo"]
    function = getattr(import_module(f"cryorestore.{STEPS[step].module}"), STEPS[step].function)
    keywords = set(inspect.signature(function).parameters)
    given = set(step_parameters(step, settings, method="ours", half=1))
    assert given <= keywords


@pytest.mark.parametrize("step", STEPS)
def test_every_keyword_without_default_is_a_file_or_comes_from_the_settings(step):
    settings = load_configuration({}).settings["demo"]
    function = getattr(import_module(f"cryorestore.{STEPS[step].module}"), STEPS[step].function)
    needed = {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty and "Path" not in str(parameter.annotation)
    }
    assert needed - GIVEN_BY_THE_RULE <= set(step_parameters(step, settings, method="ours", half=1))


@pytest.mark.parametrize(
    ("section", "step"),
    [("extract", "extract_particles"), ("normalize", "normalize_particles"), ("fsc", "compute_fsc"), ("pairs", "make_training_pairs")],
)
def test_defaults_are_those_of_the_function(section, step):
    settings = read_yaml(ROOT / DEFAULTS, shown=DEFAULTS)[section]
    function = getattr(import_module(f"cryorestore.{STEPS[step].module}"), STEPS[step].function)
    defaults = {name: value.default for name, value in inspect.signature(function).parameters.items() if value.default is not value.empty}
    shared = settings.keys() & defaults.keys()
    assert {name: _plain(settings[name]) for name in shared} == {name: _plain(defaults[name]) for name in shared}


def test_the_halves_have_seeds_of_their_own():
    settings = load_configuration({}).settings["demo"]
    seeds = {step_parameters("train_diffusion", settings, method="ours", half=half)["seed"] for half in (1, 2)}
    assert len(seeds) == 2


def test_the_code_version_covers_what_a_module_imports_and_nothing_else():
    assert "io.star" in _closure("extract")
    assert "training" not in _closure("extract")
    assert "logs" not in _closure("extract")
    assert not [name for name in _closure("extract", without=("io",)) if name.startswith("io")]
    assert "ctf" in _closure("pairs", without=("io",))
    assert len({code_version(step.module) for step in STEPS.values()}) == len({step.module for step in STEPS.values()})


def test_a_changed_template_is_a_changed_version_of_the_steps_that_write_pages(monkeypatch, tmp_path):
    steps = ("write_report", "summarize_datasets", "compute_fsc")
    before = [code_version(STEPS[step].module) for step in steps]
    monkeypatch.setattr(sources, "PACKAGE", Path(shutil.copytree(sources.PACKAGE, tmp_path / "cryorestore")))
    assert [code_version(STEPS[step].module) for step in steps] == before
    (tmp_path / "cryorestore/templates/report.css").write_text("p { color: red }")
    after = [code_version(STEPS[step].module) for step in steps]
    assert [was == now for was, now in zip(before, after, strict=True)] == [False, False, True]


def test_the_reference_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == render(), "run python -m cryorestore.config.reference"


def _plain(value):
    return list(value) if isinstance(value, tuple) else value
