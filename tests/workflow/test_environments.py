"""The environments of the steps: versions, who names them, and, where conda is found, one that is built."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))
CONDA = next((program for program in ("micromamba", "mamba", "conda") if shutil.which(program)), None)
DEFINITION = (ROOT / "containers/cryorestore.def").read_text()
RULES = [text for path in sorted((ROOT / "rules").glob("*.smk")) for text in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]]


STEP_MODULES = ("fsc", "evaluate", "summary", "report", "bulk")
"""of the steps that envs/analysis.yaml is for"""


def pins(path):
    """Package -> version of an environment file."""
    (listed,) = (entry["pip"] for entry in yaml.safe_load(path.read_text())["dependencies"] if isinstance(entry, dict))
    return dict(pin.split("==") for pin in listed)


def locked(*names):
    lines = [line for name in names for line in (ROOT / f"requirements/{name}.lock").read_text().splitlines() if "==" in line]
    return {line.split("==")[0].lower(): line.split("==")[1].split()[0] for line in lines}


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_an_environment_has_the_versions_of_the_locks(path):
    versions = locked("product", "peers")
    assert pins(path) == {name: versions[name] for name in pins(path)}


@pytest.mark.parametrize("rule", RULES, ids=lambda text: text.split(":")[0])
def test_every_rule_with_a_script_names_an_environment(rule):
    named = re.findall(r'conda:\n\s+"\.\./envs/(\w+)\.yaml"', rule)
    assert len(named) == rule.count("script:") == 1
    assert named[0] in {path.stem for path in ENVIRONMENTS}


def test_an_environment_holds_what_its_steps_import():
    """Whatever the library imports at the top of a module that a step runs is in that step's environment."""
    from cryorestore.config.sources import _closure, _file_of
    from cryorestore.config.steps import STEPS

    package_of = {"yaml": "pyyaml", "PIL": "pillow", "zlib_ng": "zlib-ng"}
    for rule in RULES:
        name, environment = rule.split(":")[0], re.search(r"envs/(\w+)\.yaml", rule)[1]
        modules = [*_closure(STEPS[name].module), "logs", "errors", "provenance", "steps"]
        imported = {found for module in modules for found in re.findall(r"^(?:from|import) (\w+)", _file_of(module).read_text(), re.MULTILINE)}
        needed = {package_of.get(found, found) for found in imported - set(sys.stdlib_module_names) - {"cryorestore"}}
        assert needed <= pins(ROOT / f"envs/{environment}.yaml").keys() | {"snakemake"}, name


def test_the_container_installs_both_locks_and_is_named_in_one_place():
    for lock in ("product", "peers"):
        assert f"requirements/{lock}.lock /opt/requirements/{lock}.lock" in DEFINITION
    assert "==" not in DEFINITION
    assert (ROOT / "Snakefile").read_text().count("\ncontainer: CONFIGURATION.container\n") == 1
    assert not any("container:" in rule for rule in RULES)
    image = yaml.safe_load((ROOT / "config/config.yaml").read_text())["container"]
    assert f"apptainer build {image} containers/cryorestore.def" in DEFINITION


@pytest.mark.slow
@pytest.mark.skipif(CONDA is None, reason="none of conda, mamba and micromamba is installed")
def test_an_environment_can_be_built_and_runs_its_steps(tmp_path):
    prefix = tmp_path / "environment"
    shutil.copy(ROOT / "envs/analysis.yaml", tmp_path / "analysis.yaml")  # as Snakemake does, which is why the file names nothing relative
    command = [CONDA, "env", "create", "--prefix", str(prefix), "--file", str(tmp_path / "analysis.yaml"), "--yes"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); " + "; ".join(f"import cryorestore.{name}" for name in STEP_MODULES)
    ran = subprocess.run([str(prefix / "bin/python"), "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
