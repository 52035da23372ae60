import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.lib.recfunctions import repack_fields

from cryorestore.cli import app
from cryorestore.config import check_inputs, input_files, load_configuration, pick_files
from cryorestore.config.paths import PROJECT_ROOT
from cryorestore.errors import CryorestoreError
from cryorestore.io.mrc import write_map, write_micrograph
from cryorestore.io.star import StarBlock, write_star
from cryorestore.masks import soft_sphere
from cryorestore.particles import ParticleTable
from cryorestore.particles_cs import write_particles_cs
from cryorestore.project_init import initialize_project
from helpers import BOX, PIXEL, simulate_particles, write_particles

pytestmark = pytest.mark.slow

COUNT = 60


@pytest.fixture(scope="module")
def data():
    return simulate_particles(COUNT, sigma=1.0)


@pytest.fixture
def relion_job(data, tmp_path):
    """A RELION 3.1 project with one refinement whose stack lies in another job's folder."""
    project = tmp_path / "betagal"
    job, extract, mask = (project / name for name in ("Refine3D/job012", "Extract/job007", "MaskCreate/job010"))
    for folder in (job, extract, mask):
        folder.mkdir(parents=True)
    star = write_particles(extract, data, extra={"rlnRandomSubset": np.arange(COUNT) % 2 + 1})
    table = ParticleTable.read(star)
    names = [f"{number + 1:06d}@Extract/job007/particles.mrcs" for number in range(COUNT)]
    table.with_columns({"rlnImageName": names}).write(job / "run_data.star")
    table.take(slice(0, 5)).write(job / "run_it009_data.star")
    for half in (1, 2):
        write_map(job / f"run_half{half}_class001_unfil.mrc", data["volume"].numpy(), pixel_size=PIXEL)
    write_map(mask / "mask.mrc", soft_sphere(BOX, 11, 2).numpy(), pixel_size=PIXEL)
    options = {"sym_name": "d2", "particle_diameter": "100", "fn_mask": "MaskCreate/job010/mask.mrc", "other_args": '""'}
    rows = "\n".join(f"{key} {value}" for key, value in options.items())
    head = "data_job\n\n_rlnJobTypeLabel relion.refine3d\n\ndata_joboptions_values\n\nloop_\n_rlnJobOptionVariable #1\n_rlnJobOptionValue #2\n"
    (job / "job.star").write_text(head + rows + "\n")
    return job


@pytest.fixture
def cryosparc_job(data, tmp_path):
    job = tmp_path / "P12/J45"
    job.mkdir(parents=True)
    (tmp_path / "P12/J3").mkdir()
    star = write_particles(tmp_path / "P12/J3", data, extra={"rlnRandomSubset": np.arange(COUNT) % 2 + 1})
    names = [f"{number + 1:06d}@J3/particles.mrcs" for number in range(COUNT)]
    write_particles_cs(tmp_path / "whole.cs", ParticleTable.read(star).with_columns({"rlnImageName": names}))
    whole = np.load(tmp_path / "whole.cs")
    parts = {"particles": ["uid", *(name for name in whole.dtype.names if name.startswith(("align", "ctf")))]}
    parts["passthrough_particles"] = ["uid", *(name for name in whole.dtype.names if name.startswith("blob"))]
    for part, names in parts.items():
        stem = f"cryosparc_P12_J45_{'' if 'passthrough' in part else '004_'}{part}"
        with (job / f"{stem}.cs").open("wb") as handle:
            np.save(handle, repack_fields(whole[names]))
    (job / "job.json").write_text(json.dumps({"uid": "J45", "params_spec": {"refine_symmetry": {"value": "C1"}}}))
    return job


def written(done):
    settings = load_configuration({"datasets": [done.path.stem], "datasets_dir": str(done.path.parent)})
    return settings.settings[done.path.stem], settings


def test_a_relion_job_becomes_a_configuration_that_finds_its_files(relion_job, tmp_path):
    done = initialize_project(relion=relion_job, datasets_dir=tmp_path / "datasets", preflight=False)
    settings, configuration = written(done)
    check_inputs(configuration)
    assert done.path.name == "betagal-job012.yaml"
    assert settings["input"]["particles_star"] == "Refine3D/job012/run_data.star"
    assert (settings["input"]["pixel_size"], settings["input"]["box_size"]) == (PIXEL, BOX)
    assert settings["symmetry"] == "D2"
    assert settings["normalize"]["bg_radius"] == round(100 / 2 / PIXEL)
    assert settings["mask"]["radius"] == pytest.approx(12 * PIXEL, abs=PIXEL)  # radius 11 px, half-way down the edge of 2 px
    assert done.missing == [f"particles: {COUNT} with poses are few to learn from; consider `denoisers: []`"]


def test_only_what_differs_is_written_and_every_line_has_its_source(relion_job, tmp_path):
    done = initialize_project(relion=relion_job, datasets_dir=tmp_path, preflight=False)
    lines = [line for line in done.path.read_text().splitlines() if not line.startswith("#")]
    assert all("  # " in line for line in lines if not line.endswith(":"))
    assert "has_poses" not in yaml.safe_load(done.path.read_text())["input"]
    assert "run_half1_class001_unfil.mrc" in done.path.read_text()


def test_the_preflight_runs_where_images_are(relion_job, tmp_path):
    (relion_job / "job.star").unlink()
    (relion_job / "run.job").write_text("Symmetry: == C1\nMask diameter (A): == 90\n")
    done = initialize_project(relion=relion_job, datasets_dir=tmp_path)
    assert [finding.subject for finding in done.findings][:2] == ["contrast", "poses"]
    assert "normalize" in yaml.safe_load(done.path.read_text())
    assert all(finding.level != "error" for finding in done.findings)


def test_a_job_that_has_not_ended_gives_its_last_iteration(relion_job, tmp_path):
    (relion_job / "run_data.star").rename(relion_job / "run_it010_data.star")
    settings, _ = written(initialize_project(relion=relion_job, datasets_dir=tmp_path, preflight=False))
    assert settings["input"]["particles_star"].endswith("run_it010_data.star")


def test_a_file_that_is_there_is_not_overwritten_unless_asked(relion_job, tmp_path):
    done = initialize_project(relion=relion_job, datasets_dir=tmp_path, preflight=False)
    done.path.write_text("mine: 1\n")
    with pytest.raises(CryorestoreError, match="--overwrite"):
        initialize_project(relion=relion_job, datasets_dir=tmp_path, preflight=False)
    assert done.path.read_text() == "mine: 1\n"
    initialize_project(relion=relion_job, datasets_dir=tmp_path, preflight=False, overwrite=True)
    assert written(done)[0]["symmetry"] == "D2"


def test_a_cryosparc_job_is_read_with_its_passthrough_file(cryosparc_job, tmp_path):
    done = initialize_project(cryosparc=cryosparc_job, datasets_dir=tmp_path, preflight=False)
    settings, configuration = written(done)
    check_inputs(configuration)
    assert done.path.name == "P12-J45.yaml"
    assert [name.split("J45_")[1] for name in settings["input"]["cs"]] == ["004_particles.cs", "passthrough_particles.cs"]
    assert settings["input"]["box_size"] == BOX
    assert settings["input"]["has_poses"]


def test_a_folder_without_particles_is_refused_by_name(tmp_path):
    with pytest.raises(CryorestoreError, match=r"run_itNNN_data\.star"):
        initialize_project(relion=tmp_path, datasets_dir=tmp_path)
    with pytest.raises(CryorestoreError, match=r"_particles\.cs"):
        initialize_project(cryosparc=tmp_path, datasets_dir=tmp_path)


def test_the_command_says_what_is_missing(data_root, tmp_path, capsys):
    table = data_root / "metadata-cryodrgn/empiar_10076_7.cs"
    app(["init", str(table), "--datasets-dir", str(tmp_path)], exit_on_error=False, result_action="return_value")
    shown = capsys.readouterr().out
    assert "missing: poses" in shown
    assert load_configuration({"datasets": ["empiar-10076-7"], "datasets_dir": str(tmp_path)}).settings["empiar-10076-7"]["denoisers"] == []


@pytest.mark.parametrize(
    ("path", "pixel_size", "box_size", "images"),
    [
        ("metadata-aspire/sample_particles_relion30.star", 1.338, 200, True),
        ("metadata-aspire/sample_particles_relion31.star", 1.4, 200, True),
        ("metadata-empiar10204/run_it016_data.star", 1.244835, 256, False),
        ("ribosome-tilts-c1/ribosome_tilts_1430.star", 12, 32, True),
        ("metadata-cryodrgn/relion31.star", 2.806, 256, True),
        ("metadata-cryodrgn/relion5.star", 0.89, None, False),
        ("metadata-cryodrgn/relion31.6opticsgroups.star", None, None, False),
        ("metadata-cryodrgn/FinalRefinement-OriginalParticles-PfCRT.star", 1.035, None, False),
        ("metadata-cryodrgn/cryosparc_J2_particles_exported.cs", 1.345, None, False),
        ("metadata-cryodrgn/sta_testing_bin8.star", 1.96, 64, True),
    ],
)
def test_real_tables_give_a_configuration(data_root, tmp_path, path, pixel_size, box_size, images):
    done = initialize_project(table=data_root / path, datasets_dir=tmp_path, preflight=False)
    settings, _ = written(done)
    found = settings["input"]["pixel_size"]
    assert found == (None if pixel_size is None else pytest.approx(pixel_size, abs=1e-4))
    if box_size is not None:
        assert settings["input"]["box_size"] == box_size
    assert any(line.startswith("images: ") for line in done.missing) != images
    assert (data_root / path).resolve() in [Path(file).resolve() for file in flat(input_files(settings))]


def flat(files):
    return [path for value in files.values() for path in ([value] if isinstance(value, str) else value)]


def test_a_table_elsewhere_gets_its_own_data_root(data_root, tmp_path):
    shutil.copy(data_root / "metadata-cryodrgn/relion5.star", tmp_path)
    settings, _ = written(initialize_project(table=tmp_path / "relion5.star", datasets_dir=tmp_path, preflight=False))
    assert settings["data_root"] == str(tmp_path.resolve())


def picking_project(folder, job_name, suffix, *, options, inner="Micrographs"):
    """Two micrographs with a table, and a job with the picks of both; the job's options as RELION 3.1 writes them."""
    project, job = folder / "project", folder / "project" / job_name
    (job / inner).mkdir(parents=True)
    (project / "CtfFind/job003").mkdir(parents=True)
    names = ["Micrographs/a_1.mrc", "Micrographs/a_12.mrc"]
    for name in names:
        write_micrograph(project / name, np.random.default_rng(1).standard_normal((64, 64)), pixel_size=1.5)
        picks = StarBlock.from_columns({"rlnCoordinateX": ["20.0", "40.0"], "rlnCoordinateY": ["30.0", "35.0"]})
        write_star(job / inner / f"{Path(name).stem}{suffix}", {"": picks})
    optics = {"rlnOpticsGroupName": ["one"], "rlnOpticsGroup": ["1"], "rlnMicrographPixelSize": ["1.5"]}
    optics |= {"rlnVoltage": ["300.0"], "rlnSphericalAberration": ["2.7"], "rlnAmplitudeContrast": ["0.1"]}
    rows = {"rlnMicrographName": names, "rlnOpticsGroup": ["1", "1"], "rlnDefocusU": ["15000.0"] * 2, "rlnDefocusV": ["15000.0"] * 2}
    table = {"optics": StarBlock.from_columns(optics), "micrographs": StarBlock.from_columns(rows)}
    write_star(project / "CtfFind/job003/micrographs_ctf.star", table)
    head = "data_job\n\n_rlnJobTypeLabel relion.autopick\n\ndata_joboptions_values\n\nloop_\n_rlnJobOptionVariable #1\n_rlnJobOptionValue #2\n"
    (job / "job.star").write_text(head + "".join(f"{key} {value}\n" for key, value in options.items()))
    return job


def test_an_autopick_job_becomes_micrographs_with_their_picks(tmp_path):
    options = {"fn_input_autopick": "CtfFind/job003/micrographs_ctf.star", "log_diam_max": "30"}
    job = picking_project(tmp_path, "AutoPick/job005", "_autopick.star", options=options)
    settings, configuration = written(initialize_project(relion=job, datasets_dir=tmp_path / "datasets"))
    check_inputs(configuration)
    assert settings["input"]["kind"] == "micrographs"
    assert settings["input"]["pixel_size"] == 1.5
    assert settings["denoisers"] == []
    assert [Path(path).name for path in pick_files(settings)] == ["a_12_autopick.star", "a_1_autopick.star"]
    assert settings["extract"]["box_size"] == 30  # 1.5 diameters of 20 px
    assert settings["normalize"]["bg_radius"] == 10
    assert settings["mask"]["radius"] == 15
    assert settings["extract"]["invert_contrast"] == "auto"


def test_a_manual_pick_job_of_relion_31_names_its_micrographs_in_a_note(tmp_path):
    job = picking_project(tmp_path, "ManualPick/job004", "_manualpick.star", options={"diameter": "100"})
    (job / "coords_suffix_manualpick.star").write_text("CtfFind/job003/micrographs_ctf.star\n")
    done = initialize_project(relion=job, datasets_dir=tmp_path / "datasets", particle_diameter=36)
    settings, configuration = written(done)
    check_inputs(configuration)
    assert settings["input"]["coordinates"] == "ManualPick/job004/Micrographs/*_manualpick.star"
    assert settings["extract"]["box_size"] == 36
    assert "--particle-diameter" in done.path.read_text()


def test_an_import_of_box_files_beside_a_table_is_found(tmp_path):
    job = picking_project(tmp_path, "Import/job002", ".box", options={}, inner="picks")
    shutil.copy(tmp_path / "project/CtfFind/job003/micrographs_ctf.star", job)
    done = initialize_project(relion=job, datasets_dir=tmp_path / "datasets")
    assert written(done)[0]["input"]["coordinates"] == "Import/job002/picks/*.box"
    assert any(line.startswith("particle diameter: give --particle-diameter") for line in done.missing)


def test_an_extract_job_without_its_stacks_is_extracted_again_with_its_own_options(tmp_path):
    options = {"star_mics": "CtfFind/job003/micrographs_ctf.star", "extract_size": "40", "do_rescale": "Yes", "rescale": "20", "do_invert": "No"}
    job = picking_project(tmp_path, "Extract/job006", "_extract.star", options=options)
    columns = {"rlnImageName": ["1@Extract/job006/a.mrcs"], "rlnMicrographName": ["Micrographs/a_1.mrc"], "rlnCoordinateX": ["20.0"]}
    columns |= {"rlnCoordinateY": ["30.0"], "rlnOpticsGroup": ["1"]}
    optics = {"rlnOpticsGroupName": ["one"], "rlnOpticsGroup": ["1"], "rlnImagePixelSize": ["3.0"]}
    write_star(job / "particles.star", {"optics": StarBlock.from_columns(optics), "particles": StarBlock.from_columns(columns)})
    settings, configuration = written(initialize_project(relion=job, datasets_dir=tmp_path / "datasets"))
    check_inputs(configuration)
    assert settings["input"]["kind"] == "micrographs"
    assert settings["input"]["particles_star"] == "Extract/job006/particles.star"
    assert {name: settings["extract"][name] for name in ("box_size", "scale", "invert_contrast")} == {
        "box_size": 40,
        "scale": 20,
        "invert_contrast": False,
    }
    assert settings["mask"]["radius"] == 22.5  # 0.375 of 20 px of 3 angstrom


def test_picks_without_a_table_of_micrographs_are_refused(tmp_path):
    job = picking_project(tmp_path, "AutoPick/job005", "_autopick.star", options={"fn_input_autopick": "absent.star"})
    with pytest.raises(CryorestoreError, match="no table of micrographs"):
        initialize_project(relion=job, datasets_dir=tmp_path)


def test_micrographs_without_picks_are_refused(tmp_path):
    job = picking_project(tmp_path, "AutoPick/job005", "_autopick.star", options={})
    with pytest.raises(CryorestoreError, match="no coordinate file belongs"):
        initialize_project(table=job.parents[1] / "CtfFind/job003/micrographs_ctf.star", datasets_dir=tmp_path)


def test_experimental_micrographs_with_their_picks_become_a_configuration(data_root, tmp_path, monkeypatch):
    link = tmp_path / "a/deep/link"  # as where the data's folder is reached by one
    link.parent.mkdir(parents=True)
    link.symlink_to(data_root.resolve())
    monkeypatch.setenv("CRYORESTORE_DATA", os.path.relpath(link, PROJECT_ROOT))
    folder = link / "apoferritin-empiar10146"
    done = initialize_project(table=folder / "micrographs.star", datasets_dir=tmp_path, particle_diameter=130)
    settings, configuration = written(done)
    check_inputs(configuration)
    assert len(pick_files(settings)) == 9
    assert (settings["input"]["pixel_size"], settings["extract"]["box_size"]) == (1.5, 130)
    posed, _ = written(initialize_project(table=folder / "particles_with_poses.star", datasets_dir=tmp_path, name="posed", symmetry="O"))
    assert posed["input"]["has_poses"]
    assert posed["denoisers"] == ["ours"]


def test_every_table_at_hand_gives_a_configuration_or_says_why_not(data_root, tmp_path):
    refused = {}
    for path in sorted([*data_root.rglob("*.star"), *data_root.rglob("*.cs")]):
        try:
            written(initialize_project(table=path, datasets_dir=tmp_path, preflight=False, overwrite=True))
        except CryorestoreError as error:
            refused[path.name] = str(error)
    picks = {name for name in refused if name.endswith(("_manualpick.star", "_autopick.star"))}
    assert set(refused) - picks == {"rln_proj_64.star", "rln_proj_65.star"}
    assert all("name no micrograph" in refused[name] for name in picks)
    assert all("no pixel size" in refused[name] for name in set(refused) - picks)
    written(initialize_project(table=data_root / "metadata-aspire/rln_proj_64.star", datasets_dir=tmp_path, pixel_size=5.0, preflight=False))
