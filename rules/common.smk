"""The checked configuration and the functions of wildcards that the other files use; nothing here computes."""

from functools import partial

from snakemake.exceptions import WorkflowError

import cryorestore.config
from cryorestore.errors import CryorestoreError

try:
    CONFIGURATION = cryorestore.config.load_configuration(config)
    cryorestore.config.check_inputs(CONFIGURATION)
except CryorestoreError as error:
    raise WorkflowError(str(error)) from None

GIB = 1024  # MB
LIBRARY_MB = 900  # torch and what comes with it


def settings_of(wildcards):
    return CONFIGURATION.settings[wildcards.dataset]


def one_of(names):
    return "|".join(names)


# Parameters


def step_parameters(step):
    """The keywords that a step's function gets from the settings."""

    def parameters(wildcards):
        half = int(wildcards.half) if "half" in wildcards.keys() else None
        return cryorestore.config.step_parameters(
            step, settings_of(wildcards), method=wildcards.get("method"), half=half
        )

    return parameters


def code_version(step):
    """A hash of the modules that a step runs: a change of them reruns it."""
    return cryorestore.config.code_version(cryorestore.config.STEPS[step].module)


def work_folder(wildcards, step):
    """Where training keeps its state; not an output, which Snakemake would delete on failure."""
    name = f"{wildcards.method}_half{wildcards.half}"
    return f"{CONFIGURATION.results}/{wildcards.dataset}/work/{step}/{name}"


def dataset_methods(wildcards):
    return settings_of(wildcards)["denoisers"]


# Resources


def compute_threads(wildcards):
    """The fixed number of threads: results depend on it, so the scheduler does not change it."""
    return settings_of(wildcards)["compute"]["threads"]


def gpus(wildcards):
    """One GPU where the configuration demands one; profiles ask for it by set-resources where it is `auto`."""
    return int(settings_of(wildcards)["compute"]["device"] == "cuda")


def box_of(wildcards):
    return cryorestore.config.particle_box_size(settings_of(wildcards)) or 256


def memory_for_maps(copies):
    """Memory (MB) for a number of maps of the data set's box, at single precision, beside the library."""
    return lambda wildcards: LIBRARY_MB + copies * 4 * box_of(wildcards) ** 3 // 2**20


def memory_for_images(images, copies):
    """Memory (MB) for so many images at a time, in so many copies, beside the library."""
    return (
        lambda wildcards: LIBRARY_MB
        + images * copies * 4 * box_of(wildcards) ** 2 // 2**20
    )


def memory_for_network(section):
    """Memory (MB) to train or apply a network of the size that `section` of the settings names."""
    sizes = {"tiny": 2 * GIB, "small": 6 * GIB, "paper": 24 * GIB}
    return lambda wildcards: sizes[settings_of(wildcards)[section]["size"]]


# Files


def incoming(key):
    """A file of the data set's input; nothing where it has none."""
    return lambda wildcards: cryorestore.config.input_files(settings_of(wildcards)).get(
        key, []
    )


def picked_input(wildcards):
    """Micrographs, coordinates and, where there are any, poses."""
    settings = settings_of(wildcards)
    if settings["input"]["kind"] == "simulation":
        return {
            "micrographs_star": "<results>/{dataset}/simulated/micrographs.star",
            "coordinates": "<results>/{dataset}/simulated/coordinates",
            "particles_star": "<results>/{dataset}/simulated/particles.star",
        }
    files = cryorestore.config.input_files(settings)
    keys = ("micrographs_star", "coordinates", "particles_star")
    return {key: files[key] for key in keys if key in files}


def unprocessed_particles(wildcards):
    """Particles before normalization: extracted here, or imported."""
    extracted = settings_of(wildcards)["input"]["kind"] in ("simulation", "micrographs")
    folder = "extracted" if extracted else "imported"
    return f"<results>/{{dataset}}/{folder}/particles.star"


def imported_particles(wildcards):
    files = cryorestore.config.input_files(settings_of(wildcards))
    return files.get("cs") or files["particles_star"]


def network_input(wildcards):
    """The weights that a method restores with."""
    method = settings_of(wildcards)["methods"][wildcards.method]
    folder = "<results>/{dataset}/models/{method}/half{half}"
    weights = {}
    if method["network"] != "none":
        weights["diffusion_weights"] = f"{folder}/diffusion.safetensors"
    if method["postprocess"]:
        weights["postprocess_weights"] = f"{folder}/postprocess.safetensors"
    return weights


def both_networks(wildcards):
    """The weights of both halves: `diffusion_weights` becomes `diffusion_weights_1` and `diffusion_weights_2`."""
    return {
        f"{name}_{half}": path.replace("{half}", half)
        for half in "12"
        for name, path in network_input(wildcards).items()
    }


def deviation_stack(wildcards, half=None):
    """Where the posterior deviation goes, beside the declared outputs: only some methods know it."""
    method = settings_of(wildcards)["methods"][wildcards.method]
    if not cryorestore.config.needs_poses(method):
        return None
    folder = f"{CONFIGURATION.results}/{wildcards.dataset}/restored.{wildcards.method}"
    return f"{folder}/half{half or wildcards.half}/deviation.mrcs"


def is_simulated(settings):
    return settings["input"]["kind"] == "simulation"


def true_map(wildcards):
    """The map that reconstructions are compared with: the truth of a simulation, or a published one."""
    settings = settings_of(wildcards)
    if is_simulated(settings):
        return "<results>/{dataset}/truth/truth_map.mrc"
    return cryorestore.config.input_files(settings)["reference_map"]


def has_true_map(settings):
    return is_simulated(settings) or settings["input"]["reference_map"] is not None


def truth_input(wildcards):
    """The truth of the single particles, which only a simulation has."""
    if not is_simulated(settings_of(wildcards)):
        return {}
    return {
        "truth_star": "<results>/{dataset}/truth/truth.star",
        "truth_stack": "<results>/{dataset}/truth/truth.mrcs",
    }


def per_method(pattern):
    """One file a method, in the order of `denoisers`; `{method}` in the pattern stands for it."""
    return lambda wildcards: [
        pattern.replace("{method}", name).replace("{dataset}", wildcards.dataset)
        for name in dataset_methods(wildcards)
    ]


def per_network(name):
    """The training histories of both halves of every method that has this network: `diffusion` or `postprocess`."""

    def histories(wildcards):
        folder = f"<results>/{wildcards.dataset}/models"
        methods = trained_methods(settings_of(wildcards))[name]
        return [
            f"{folder}/{method}/half{half}/{name}_history.csv"
            for method in methods
            for half in (1, 2)
        ]

    return histories


def per_half_of_first_method(name):
    """A file of both halves of the method that the report shows."""
    return lambda wildcards: [
        f"<results>/{wildcards.dataset}/restored.{dataset_methods(wildcards)[0]}/half{half}/{name}"
        for half in (1, 2)
    ]


def first_method_table(wildcards):
    return f"<results>/{wildcards.dataset}/restored.{dataset_methods(wildcards)[0]}/particles.star"


def report_truth_map(wildcards):
    return (
        {"truth_map": true_map(wildcards)}
        if has_true_map(settings_of(wildcards))
        else {}
    )


def trained_methods(settings):
    """The methods of each network."""
    methods = settings["methods"]
    return {
        "diffusion": cryorestore.config.network_methods(settings),
        "postprocess": [
            name for name in settings["denoisers"] if methods[name]["postprocess"]
        ],
    }


def true_curves(wildcards, form):
    """FSC of raw and restored maps to the true map, where there is one; `form` is json or csv."""
    if not has_true_map(settings_of(wildcards)):
        return {}
    folder = f"<results>/{wildcards.dataset}"
    return {
        "raw_truth_fsc": f"{folder}/raw/fsc_truth.{form}",
        "restored_truth_fscs": [
            f"{folder}/restored.{method}/fsc_truth.{form}"
            for method in dataset_methods(wildcards)
        ],
    }
