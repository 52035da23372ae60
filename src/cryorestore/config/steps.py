"""The steps: rule name, library function, and the keywords that the function gets from the settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cryorestore.config.paths import data_path, program_path, project_path
from cryorestore.config.problems import Settings

EMBEDDED_MOLECULE = "demo"
HALF_SEED = 1000
"""Added to the seed once per half: networks that start alike invent alike."""
BASIC_CONTROLS = ("noise_only", "phase_randomised", "shared_network", "raw")
FULL_CONTROLS = ("wrong_structure", "wrong_conformer", "omitted_domain", "junk", "particle_number")
"""Those that take longer, some of them by training."""
FUSED_STACKS = ("fused.marginal", "fused.mean-pose")
GENERAL = "general"
"""The condition of the method that restores with weights of other proteins"""
GENERAL_BATCH = 64
"""Images that the general network is evaluated with at a time, whatever is asked for: fewer would be filled up"""
CHANGED_MAPS = ("wrong_structure", "wrong_conformer", "omitted_domain")
"""Controls that train on a changed map; they share one rule."""


@dataclass(frozen=True)
class Step:
    """One step of the pipeline: `cryorestore.<module>.<function>`."""

    module: str
    function: str
    summary: str
    """What it does, in a line: for the list of commands, which is printed without importing the functions."""


STEPS = {
    "simulate_micrographs": Step("simulate", "simulate_micrographs", "Simulate micrographs, picks, perturbed poses and the truth."),
    "extract_particles": Step("extract", "extract_particles", "Cut picks out of micrographs and rescale them."),
    "import_particles": Step("importing", "import_particles", "Take in a particle stack by its RELION table or cryoSPARC .cs files."),
    "normalize_particles": Step("normalize", "normalize_particles", "Bring particles to background mean 0 and sigma 1."),
    "preflight": Step("preflight", "preflight", "Judge a few hundred particles before anything costly."),
    "split_particles": Step("split", "split_particles", "Split into half-sets and set particles apart for scoring."),
    "split_unposed": Step("split", "split_particles", "Split into half-sets, whether particles have poses or not, for find-poses."),
    "find_poses": Step("ab_initio.finding", "find_poses", "Find the poses of a half from its particles alone."),
    "judge_poses": Step("ab_initio.judging", "judge_poses", "Lay the maps that two halves found onto each other, and say whether they are one."),
    "adopt_poses": Step("adopting", "adopt_poses", "Hand the poses found on, if the two halves found one map."),
    "reconstruct_map": Step("reconstruct", "reconstruct_map", "Reconstruct a half, whole and from its odd and even particles."),
    "check_backend": Step("reconstruct.check", "check_backend", "Map a half with another backend and see that both agree."),
    "fuse_map": Step("reconstruct.fusion", "fuse_map", "Map the raw particles of a half at draws from their pose posterior."),
    "make_fsc_mask": Step("resolution.masking", "make_fsc_mask", "Make the mask under which half-maps are correlated."),
    "compute_fsc": Step("resolution.curves", "write_fsc", "Correlate two half-maps shell by shell."),
    "compute_truth_fsc": Step("resolution.curves", "write_truth_fsc", "Correlate the mean of two half-maps with a true map."),
    "sharpen_map": Step("resolution.sharpening", "sharpen_map", "Sharpen the mean of two raw half-maps."),
    "map_local_resolution": Step("resolution.local", "map_local_resolution", "Map the local resolution of two raw half-maps."),
    "make_training_pairs": Step("pairs", "make_training_pairs", "Make a half's training pairs, reference and noise."),
    "train_diffusion": Step("training", "train_diffusion", "Train the diffusion network of a half."),
    "train_postprocess": Step("training", "train_postprocess", "Train the post-processing network of a half."),
    "restore_particles": Step("restore", "restore_particles", "Restore a half with its own networks."),
    "restore_shard": Step("restore", "restore_particles", "Restore one of several parts of a half, for gather-shards."),
    "gather_shards": Step("sharding", "gather_shards", "Put the restored parts of a half together."),
    "split_folds": Step("folds", "split_folds", "Divide a half into two folds, each restored with what the other one teaches."),
    "gather_folds": Step("folds", "gather_folds", "Put the restored folds of a half together."),
    "restore_general": Step("general.use", "restore_general", "Restore particles by the general weights alone: no map, no poses, no training."),
    "restore_unposed": Step("restore", "restore_particles", "Restore the particles of a half that have no pose, by a method that needs none."),
    "join_particles": Step("joining", "join_particles", "Join two restored halves in the order of their source."),
    "control_noise_only": Step("controls.noise_only", "control_noise_only", "Put noise through a method and see that none is taken for a particle."),
    "control_phase_randomised": Step(
        "controls.phase_randomised", "control_phase_randomised", "Randomise phases of particles and see from where on their map does not care."
    ),
    "control_shared_network": Step(
        "controls.shared_network", "control_shared_network", "Restore half 2 with half 1's network and see what that would claim."
    ),
    "control_raw": Step("controls.raw_poses", "control_raw", "Hold restored half-maps to what raw ones show at the same poses."),
    "make_control_maps": Step("controls.changed_map", "make_control_maps", "Change the maps of a half, so that what is learned from them is wrong."),
    "control_changed_map": Step(
        "controls.changed_map", "control_changed_map", "Restore by what was learned from a changed map and see whose structure comes out."
    ),
    "control_junk": Step("controls.junk", "control_junk", "Mix particles with structured junk and see how much the evidence accepts."),
    "control_particle_number": Step(
        "controls.particle_number", "control_particle_number", "Reconstruct from fewer and fewer particles and see where half-maps cross."
    ),
    "evaluate_restoration": Step("evaluate", "evaluate_restoration", "Score a method on held-out particles."),
    "write_summary": Step("summary", "write_summary", "Write the flat summary of a data set."),
    "write_report": Step("report", "write_report", "Write the report of a data set."),
    "summarize_datasets": Step("bulk", "summarize_datasets", "Write the table of all data sets of a run."),
}
"""Rule name -> function. The command line has the same names with hyphens."""


def step_parameters(step: str, settings: Settings, *, method: str | None = None, half: int | None = None) -> dict[str, Any]:
    """The keywords of a step's function that come from the settings (files come from the rule).

    Parameters
    ----------
    step
        Name of the rule.
    settings
        Complete settings of one data set.
    method, half
        Method and half of the job, where the step has them.
    """
    chosen: Settings = {**settings, "seed": settings["seed"] + HALF_SEED * (half or 0)}
    if method is not None:
        chosen = {**chosen, "method": settings["methods"][method], "method_name": method}
    return _PARAMETERS[step](chosen)


def particle_box_size(settings: Settings) -> int | None:
    """Box of the particles after extraction and rescaling (px); None where only the stack knows it."""
    if settings["input"]["kind"] in ("star", "cryosparc"):
        box: int | None = settings["input"]["box_size"]
        return box
    return int(settings["extract"]["scale"] or settings["extract"]["box_size"])


def particle_pixel_size(settings: Settings) -> float | None:
    """Pixel size of the particles after rescaling (angstrom); None where only the table knows it."""
    kind = settings["input"]["kind"]
    incoming: float | None = settings["simulate" if kind == "simulation" else "input"]["pixel_size"]
    if incoming is None or kind in ("star", "cryosparc"):
        return incoming
    extract = settings["extract"]
    return float(incoming * extract["box_size"] / (extract["scale"] or extract["box_size"]))


def needs_poses(method: Mapping[str, Any]) -> bool:
    """Whether a method looks at the given poses."""
    return has_posterior(method) or "projection" in method["condition"]


def has_posterior(method: Mapping[str, Any]) -> bool:
    """Whether a method computes the pose posterior; such a method knows the deviation of its result, and evidence."""
    return not {"mean", "deviation"}.isdisjoint(method["condition"])


def needs_map(method: Mapping[str, Any]) -> bool:
    """Whether a method learns from its half's own map, or looks at its spectra; all but the general weights do."""
    return list(method["condition"]) != [GENERAL]


def has_deviation(method: Mapping[str, Any]) -> bool:
    """Whether a method knows the deviation of its result, and evidence."""
    return has_posterior(method) or not needs_map(method)


def finds_poses(settings: Settings) -> bool:
    """Whether poses are found here and not given."""
    return bool(settings["poses"]["source"] != "given")


def has_poses(settings: Settings) -> bool:
    """Whether there are poses to reconstruct and restore with, given or found."""
    return bool(settings["input"]["has_poses"]) or finds_poses(settings)


def fused_stacks(settings: Settings) -> list[str]:
    """The stacks of raw particles at poses that their own half's map makes likely, where they are asked for and there are poses."""
    return list(FUSED_STACKS) if settings["fusion"]["enabled"] and has_poses(settings) else []


def network_methods(settings: Settings) -> list[str]:
    """The denoisers of this run that have a network to train."""
    return [name for name in settings["denoisers"] if settings["methods"].get(name, {}).get("network") != "none"]


def network_evaluations(method: Mapping[str, Any]) -> int:
    """How often a network is evaluated to restore one particle."""
    return int(method["sampler_steps"] * method["samples"] + method["postprocess"])


def _mask(settings: Settings) -> dict[str, Any]:
    return {"mask_radius": settings["mask"]["radius"], "mask_edge": settings["mask"]["edge"]}


def _compute(settings: Settings) -> dict[str, Any]:
    return {name: settings["compute"][name] for name in ("device", "precision", "threads")}


def _simulate_micrographs(settings: Settings) -> dict[str, Any]:
    molecule = settings["simulate"]["molecule"]
    found = molecule if molecule == EMBEDDED_MOLECULE else data_path(settings, molecule)
    return {**settings["simulate"], "molecule": found, "seed": settings["seed"]}


def _extract_particles(settings: Settings) -> dict[str, Any]:
    return {**settings["extract"], "pixel_size": settings["input"]["pixel_size"], "threads": settings["compute"]["threads"]}


def _import_particles(settings: Settings) -> dict[str, Any]:
    given = settings["input"]
    root = data_path(settings, given["project_root"]) if given["project_root"] else None
    return {**{name: given[name] for name in ("pixel_size", "box_size", "invert_contrast")}, "project_root": root}


def _normalize_particles(settings: Settings) -> dict[str, Any]:
    return {**settings["normalize"], "threads": settings["compute"]["threads"], "seed": settings["seed"]}


def _preflight(settings: Settings) -> dict[str, Any]:
    return {**settings["preflight"], "symmetry": settings["symmetry"], "seed": settings["seed"]}


def _split_particles(settings: Settings) -> dict[str, Any]:
    return {**settings["split"], "ignore_poses": settings["poses"]["source"] == "ab_initio", "seed": settings["seed"]}


def _find_poses(settings: Settings) -> dict[str, Any]:
    poses = settings["poses"]
    names = ("source", "start_resolution", "shift_range", "max_resolution", "largest_box", "seeds", "iterations", "images", "classes")
    return {
        **{name: poses[name] for name in names},
        "start_map": data_path(settings, poses["start_map"]) if poses["start_map"] else None,
        **_mask(settings),
        "bg_radius": settings["normalize"]["bg_radius"],
        "symmetry": settings["symmetry"],
        "device": settings["compute"]["device"],
        "threads": settings["compute"]["threads"],
        "seed": settings["seed"],
    }


def _judge_poses(settings: Settings) -> dict[str, Any]:
    return {**_mask(settings), "symmetry": settings["symmetry"]}


def _adopt_poses(settings: Settings) -> dict[str, Any]:
    return {"refuse": settings["poses"]["refuse"]}


def _reconstruct_map(settings: Settings) -> dict[str, Any]:
    return _backend(settings, settings["reconstruct"]["backend"])


def _check_backend(settings: Settings) -> dict[str, Any]:
    section = settings["reconstruct"]
    return {**_backend(settings, section["check"] or section["backend"]), **_mask(settings)}


def _backend(settings: Settings, backend: str) -> dict[str, Any]:
    program = {"cryodrgn": settings["programs"]["cryodrgn"], "relion": settings["programs"]["relion_reconstruct"]}.get(backend, "")
    return {"backend": backend, "symmetry": settings["symmetry"], "program": program_path(program), "threads": settings["compute"]["threads"]}


def _fuse_map(settings: Settings) -> dict[str, Any]:
    return {
        **_mask(settings),
        **_pose_posterior(settings),
        "symmetry": settings["symmetry"],
        "evidence_threshold": settings["restore"]["evidence_threshold"],
        "batch_size": settings["compute"]["batch_size"],
        "threads": settings["compute"]["threads"],
        "seed": settings["seed"],
    }


def _make_fsc_mask(settings: Settings) -> dict[str, Any]:
    return {"kind": settings["fsc"]["mask"], **settings["fsc"]["auto_mask"], **_mask(settings)}


def _compute_fsc(settings: Settings) -> dict[str, Any]:
    return {**{name: settings["fsc"][name] for name in ("thresholds", "randomise_below", "randomisations")}, "seed": settings["seed"]}


def _compute_truth_fsc(settings: Settings) -> dict[str, Any]:
    return {"thresholds": settings["fsc"]["thresholds"]}


def _enabled_section(section: str) -> Callable[[Settings], dict[str, Any]]:
    return lambda settings: {name: value for name, value in settings[section].items() if name != "enabled"}


def _map_local_resolution(settings: Settings) -> dict[str, Any]:
    return {**_enabled_section("local_resolution")(settings), **_mask(settings), "threads": settings["compute"]["threads"]}


def _pose_posterior(settings: Settings) -> dict[str, Any]:
    poses = settings["poses"]
    return {name: poses[name] for name in ("rotation_sigma", "shift_sigma")} | {"posterior_rotations": settings["posterior"]["rotations"]}


def _make_training_pairs(settings: Settings) -> dict[str, Any]:
    return {
        **settings["pairs"],
        **_mask(settings),
        **_pose_posterior(settings),
        "bg_radius": settings["normalize"]["bg_radius"],
        "with_posterior": any(has_posterior(settings["methods"][name]) for name in settings["denoisers"]),
        "batch_size": settings["compute"]["batch_size"],
        "threads": settings["compute"]["threads"],
        "seed": settings["seed"],
    }


def _method(settings: Settings, *names: str) -> dict[str, Any]:
    return {name: settings["method"][name] for name in names}


def _train_diffusion(settings: Settings) -> dict[str, Any]:
    return {**settings["diffusion"], **_method(settings, "condition", "network", "prediction"), **_compute(settings), "seed": settings["seed"]}


def _train_postprocess(settings: Settings) -> dict[str, Any]:
    return {**settings["postprocess"], **_method(settings, "sampler", "sampler_steps"), **_compute(settings), "seed": settings["seed"]}


def _restore_particles(settings: Settings) -> dict[str, Any]:
    return {
        **_method(settings, "condition", "sampler", "sampler_steps", "samples"),
        "evidence_threshold": settings["restore"]["evidence_threshold"],
        **_pose_posterior(settings),
        **_compute(settings),
        **_mask(settings),
        "peer_python": program_path(settings["programs"]["peer_python"]),
        **_general(settings),
        "batch_size": settings["compute"]["batch_size"] if needs_map(settings["method"]) else max(GENERAL_BATCH, settings["compute"]["batch_size"]),
        "seed": settings["seed"],
    }


def _general(settings: Settings) -> dict[str, Any]:
    """Keywords of the method `general`."""
    general = settings["general"]
    weights = general["weights"] if general["weights"] == GENERAL else project_path(general["weights"])
    return {"general_weights": weights, "general_diameter": general["diameter"], "general_whiten": general["whiten"]}


def _restore_general(settings: Settings) -> dict[str, Any]:
    general = {name.removeprefix("general_"): value for name, value in _general(settings).items()}
    # the particles are normalized, and white
    own = {"evidence_threshold": settings["restore"]["evidence_threshold"], "invert_contrast": False}
    return {**general, **own, **_compute(settings), "batch_size": max(GENERAL_BATCH, settings["compute"]["batch_size"])}


def control_names(settings: Settings) -> list[str]:
    """The controls of every method of this run."""
    return [*BASIC_CONTROLS, *(FULL_CONTROLS if settings["controls"]["level"] == "full" else ())]


def _method_name(settings: Settings) -> dict[str, Any]:
    return {"method": settings["method_name"]}


def _control(name: str) -> Callable[[Settings], dict[str, Any]]:
    """Keywords of a control that restores particles."""
    return lambda settings: {**settings["controls"][name], **_method_name(settings), **_restore_particles(settings)}


def _control_particle_number(settings: Settings) -> dict[str, Any]:
    common = {"threads": settings["compute"]["threads"], "seed": settings["seed"]}
    return {**settings["controls"]["particle_number"], **_method_name(settings), **_mask(settings), **common}


def _make_control_maps(settings: Settings) -> dict[str, Any]:
    return {"mask_radius": settings["mask"]["radius"]}


def _evaluate_restoration(settings: Settings) -> dict[str, Any]:
    return {
        **_mask(settings),
        **settings["report"],
        "bg_radius": settings["normalize"]["bg_radius"],
        "network_evaluations": network_evaluations(settings["method"]),
        "seed": settings["seed"],
    }


def _write_summary(settings: Settings) -> dict[str, Any]:
    return {"denoisers": settings["denoisers"]}


def _write_report(settings: Settings) -> dict[str, Any]:
    return {"denoisers": settings["denoisers"], "evidence_threshold": settings["restore"]["evidence_threshold"]}


def _seed(settings: Settings) -> dict[str, Any]:
    return {"seed": settings["seed"]}


def _none(settings: Settings) -> dict[str, Any]:
    return {}


_PARAMETERS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "simulate_micrographs": _simulate_micrographs,
    "extract_particles": _extract_particles,
    "import_particles": _import_particles,
    "normalize_particles": _normalize_particles,
    "preflight": _preflight,
    "split_particles": _split_particles,
    "split_unposed": _split_particles,
    "find_poses": _find_poses,
    "judge_poses": _judge_poses,
    "adopt_poses": _adopt_poses,
    "reconstruct_map": _reconstruct_map,
    "check_backend": _check_backend,
    "fuse_map": _fuse_map,
    "make_fsc_mask": _make_fsc_mask,
    "compute_fsc": _compute_fsc,
    "compute_truth_fsc": _compute_truth_fsc,
    "sharpen_map": _enabled_section("sharpen"),
    "map_local_resolution": _map_local_resolution,
    "make_training_pairs": _make_training_pairs,
    "train_diffusion": _train_diffusion,
    "train_postprocess": _train_postprocess,
    "restore_particles": _restore_particles,
    "restore_shard": _restore_particles,
    "gather_shards": _none,
    "split_folds": _seed,
    "gather_folds": _none,
    "restore_unposed": _restore_particles,
    "restore_general": _restore_general,
    "join_particles": _none,
    "control_noise_only": _control("noise_only"),
    "control_phase_randomised": _control("phase_randomised"),
    "control_shared_network": _control("shared_network"),
    "control_raw": _method_name,
    "make_control_maps": _make_control_maps,
    "control_changed_map": _control("changed_map"),
    "control_junk": _control("junk"),
    "control_particle_number": _control_particle_number,
    "evaluate_restoration": _evaluate_restoration,
    "write_summary": _write_summary,
    "write_report": _write_report,
    "summarize_datasets": _none,
}
