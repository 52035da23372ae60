"""Checks across keys, which a schema cannot express. They run on settings that the schema has passed."""

from collections.abc import Iterator
from typing import Any

from cryorestore.config.problems import Problem, Settings
from cryorestore.config.steps import has_poses, needs_map, particle_box_size, particle_pixel_size

INPUT_KEYS = {
    "simulation": (),
    "micrographs": ("micrographs_star",),
    "star": ("particles_star",),
    "cryosparc": ("cs",),
}
"""Keys under `input` that each kind of input needs."""
NETWORK_CONDITIONS = ("noisy", "phase_flipped", "wiener", "mean", "deviation")
"""What a network may be shown."""
OPTIONAL_INPUT_KEYS = {"micrographs": ("coordinates", "particles_star")}


def cross_key_problems(settings: Settings) -> list[Problem]:
    """List every pair of values that contradict each other."""
    checks = (_input, _boxes, _mask, _simulate, _methods, _training, _restore)
    return [problem for check in checks for problem in check(settings)]


def _input(settings: Settings) -> Iterator[Problem]:
    given, kind = settings["input"], settings["input"]["kind"]
    for key in INPUT_KEYS[kind]:
        if not given[key]:
            yield Problem(f"input.{key}", given[key], f"needed for input.kind {kind}; give the file, below data_root")
    allowed = INPUT_KEYS[kind] + OPTIONAL_INPUT_KEYS.get(kind, ())
    for key in ("micrographs_star", "coordinates", "particles_star", "cs"):
        if given[key] and key not in allowed:
            readers = " or ".join(name for name in INPUT_KEYS if key in INPUT_KEYS[name] + OPTIONAL_INPUT_KEYS.get(name, ()))
            yield Problem(f"input.{key}", given[key], f"not read for input.kind {kind}; remove it, or set input.kind to {readers}")
    if kind == "micrographs" and not (given["coordinates"] or given["particles_star"]):
        yield Problem("input.coordinates", None, "needed for input.kind micrographs, unless input.particles_star gives the coordinates")
    methods = settings["methods"]
    if not has_poses(settings) and any(needs_map(methods[name]) for name in settings["denoisers"] if name in methods):
        mend = "all but general learn from the half's own map: [general] or [] where input.has_poses is false, or poses.source ab_initio"
        yield Problem("denoisers", settings["denoisers"], mend)
    if settings["poses"]["source"] == "refined" and not (given["has_poses"] or settings["poses"]["start_map"]):
        yield Problem("poses.source", "refined", "needs poses or poses.start_map to start from; ab_initio needs neither")


def _boxes(settings: Settings) -> Iterator[Problem]:
    extract, box = settings["extract"], particle_box_size(settings)
    if extract["scale"] is not None and extract["scale"] > extract["box_size"]:
        yield Problem("extract.scale", extract["scale"], f"at most extract.box_size {extract['box_size']} px; particles are only made smaller")
    if box is None:
        return
    if 2 * settings["normalize"]["bg_radius"] > box:
        yield Problem("normalize.bg_radius", settings["normalize"]["bg_radius"], f"at most {box // 2} px, half the rescaled box of {box} px")


def _mask(settings: Settings) -> Iterator[Problem]:
    box, pixel_size = particle_box_size(settings), particle_pixel_size(settings)
    if box is None or pixel_size is None:
        return
    finest = settings["pairs"]["max_resolution"]
    if finest is not None and finest < 2 * pixel_size:
        yield Problem("pairs.max_resolution", finest, f"at least {2 * pixel_size:g} angstrom, Nyquist at {pixel_size:g} angstrom per px")
    limit = box * pixel_size / 2
    if settings["mask"]["radius"] > limit:
        yield Problem(
            "mask.radius", settings["mask"]["radius"], f"at most {limit:g} angstrom, half the box of {box} px at {pixel_size:g} angstrom per px"
        )
    if settings["poses"]["shift_sigma"] > limit / 2:
        yield Problem("poses.shift_sigma", settings["poses"]["shift_sigma"], f"at most {limit / 2:g} angstrom, a quarter of the box")


def _simulate(settings: Settings) -> Iterator[Problem]:
    if settings["input"]["kind"] != "simulation":
        return
    simulate, extract = settings["simulate"], settings["extract"]
    if extract["box_size"] != simulate["box_size"]:
        yield Problem("extract.box_size", extract["box_size"], f"simulate.box_size {simulate['box_size']} px: particles and truth have one box")
    if settings["normalize"]["whiten"] != "none":
        yield Problem("normalize.whiten", settings["normalize"]["whiten"], "none for a simulation: the truth is not whitened")
    if extract["scale"] not in (None, simulate["box_size"]):
        yield Problem("extract.scale", extract["scale"], "null for a simulation: particles and truth have one box")
    if simulate["defocus_range"][0] > simulate["defocus_range"][1]:
        yield Problem("simulate.defocus_range", simulate["defocus_range"], "the lesser defocus first")
    if simulate["box_size"] > simulate["micrograph_size"]:
        yield Problem("simulate.box_size", simulate["box_size"], f"at most simulate.micrograph_size {simulate['micrograph_size']} px")


def _methods(settings: Settings) -> Iterator[Problem]:
    for name in settings["denoisers"]:
        if name not in settings["methods"]:
            yield Problem("denoisers", name, f"unknown denoiser; allowed: {', '.join(settings['methods'])}")
    for name, method in settings["methods"].items():
        yield from _method(f"methods.{name}", method, settings["diffusion"]["timesteps"])


def _method(key: str, method: dict[str, Any], timesteps: int) -> Iterator[Problem]:
    if method["network"] == "none":
        yield from _without_network(key, method)
        return
    yield from _network(key, method)
    yield from _sampler(key, method, timesteps)


def _without_network(key: str, method: dict[str, Any]) -> Iterator[Problem]:
    for name, only in (("prediction", "none"), ("sampler", "none"), ("sampler_steps", 0), ("samples", 1), ("postprocess", False)):
        if method[name] != only:
            yield Problem(f"{key}.{name}", method[name], f"{str(only).lower()} where network is none")
    if len(method["condition"]) != 1 or "deviation" in method["condition"]:
        yield Problem(f"{key}.condition", method["condition"], "one name, and not deviation, where network is none: it is the result then")


def _network(key: str, method: dict[str, Any]) -> Iterator[Problem]:
    for name in ("prediction", "sampler"):
        if method[name] == "none":
            yield Problem(f"{key}.{name}", "none", "none is for a method without a network")
    for name in method["condition"]:
        if name not in NETWORK_CONDITIONS:
            yield Problem(f"{key}.condition", name, f"shown to no network; allowed where there is one: {', '.join(NETWORK_CONDITIONS)}")
    if method["network"] == "diffusion":
        if method["prediction"] == "clean":
            yield Problem(f"{key}.prediction", "clean", "epsilon or v for network diffusion")
        return
    if method["prediction"] != "clean":
        yield Problem(f"{key}.prediction", method["prediction"], f"clean for network {method['network']}")
    if method["sampler"] != "mean":
        yield Problem(f"{key}.sampler", method["sampler"], f"mean for network {method['network']}, which is evaluated once")
    if method["network"] == "noise2noise" and "mean" in method["condition"]:
        yield Problem(f"{key}.condition", method["condition"], "without mean for network noise2noise, which knows no map")


def _sampler(key: str, method: dict[str, Any], timesteps: int) -> Iterator[Problem]:
    sampler, steps = method["sampler"], method["sampler_steps"]
    if sampler == "mean" and method["prediction"] == "epsilon":
        yield Problem(
            f"{key}.sampler", sampler, "needs prediction v; at the highest noise level epsilon is the input itself and tells nothing of the image"
        )
    if sampler == "mean" and steps != 1:
        yield Problem(f"{key}.sampler_steps", steps, "1 for sampler mean, which is one evaluation")
    if sampler == "mean" and method["samples"] != 1:
        yield Problem(f"{key}.samples", method["samples"], "1 for sampler mean, which draws nothing at random")
    if sampler == "ancestral" and steps != timesteps:
        yield Problem(f"{key}.sampler_steps", steps, f"diffusion.timesteps {timesteps} for sampler ancestral; ddim and dpm take fewer")
    if sampler in ("ddim", "dpm") and not 2 <= steps <= timesteps:
        yield Problem(f"{key}.sampler_steps", steps, f"2 to diffusion.timesteps {timesteps} for sampler {sampler}")


def _restore(settings: Settings) -> Iterator[Problem]:
    restore = settings["restore"]
    if restore["cross_fit"] and restore["shards"] > 1:
        yield Problem("restore.shards", restore["shards"], "1 where restore.cross_fit is true: each fold is one job")
    for name in settings["denoisers"] if restore["cross_fit"] else ():
        if "cwf" in settings["methods"].get(name, {"condition": ()})["condition"]:
            yield Problem("restore.cross_fit", True, f"false with denoiser {name}: cwf learns from the very particles that it restores")


def _training(settings: Settings) -> Iterator[Problem]:
    for section in ("diffusion", "postprocess"):
        training = settings[section]
        for name in ("warmup_steps", "validation_every"):
            if training[name] > training["steps"]:
                yield Problem(f"{section}.{name}", training[name], f"at most {section}.steps {training['steps']}")
        processes, nodes = settings["compute"]["processes"], settings["compute"]["nodes"]
        if processes > training["batch_size"]:
            yield Problem("compute.processes", processes, f"at most {section}.batch_size {training['batch_size']}, which they share")
    if processes % nodes:
        yield Problem("compute.processes", processes, f"a multiple of compute.nodes {nodes}")
    diffusion = settings["diffusion"]
    if diffusion["beta_start"] >= diffusion["beta_end"]:
        yield Problem("diffusion.beta_start", diffusion["beta_start"], f"less than diffusion.beta_end {diffusion['beta_end']}")
