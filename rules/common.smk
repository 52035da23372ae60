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
HOUR = 60  # minutes
LIBRARY_MB = 900  # torch and what comes with it


def settings_of(wildcards):
    return CONFIGURATION.settings[wildcards.dataset]


def one_of(names):
    return "|".join(names) or "(?!)"


def datasets_restored_in(several_shards):
    """The data sets that are restored in several shards, or the others, as a constraint of the wildcard."""
    return one_of(
        name
        for name, settings in CONFIGURATION.settings.items()
        if (settings["restore"]["shards"] > 1) == several_shards
    )


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
    """Where a step that can be taken up again keeps its state; not an output, which Snakemake would delete on failure."""
    folder = f"{CONFIGURATION.results}/{wildcards.dataset}/work/{step}"
    if "method" not in wildcards.keys():
        return folder
    return f"{folder}/{wildcards.method}_half{wildcards.half}"


def dataset_methods(wildcards):
    return settings_of(wildcards)["denoisers"]


# Resources

# How often a training that stopped for its time goes on: as a job of its own, so not by the Snakemake within the job that is ending.
TRAINING_RETRIES = 5 if workflow.is_main_process else 0


def compute_threads(wildcards):
    """The fixed number of threads: results depend on it, so the scheduler does not change it."""
    return settings_of(wildcards)["compute"]["threads"]


def escalating(amount, most=4):
    """Memory or run time that doubles with every attempt, up to `most` times `amount`, which is a number or a function of the wildcards."""

    def resource(wildcards, attempt):
        first = amount(wildcards) if callable(amount) else amount
        return first * min(2 ** (attempt - 1), most)

    return resource


def gpus(wildcards):
    """One GPU, unless the configuration computes on the CPU; `auto` does without where it finds none."""
    return int(settings_of(wildcards)["compute"]["device"] != "cpu")


def compute_processes(wildcards):
    """Processes that train one network together."""
    return settings_of(wildcards)["compute"]["processes"]


def compute_nodes(wildcards):
    """Machines that they are spread over."""
    return settings_of(wildcards)["compute"]["nodes"]


def per_node(amount):
    """What the training processes of one machine take together, from what one of them takes."""
    return (
        lambda wildcards: amount(wildcards)
        * compute_processes(wildcards)
        // compute_nodes(wildcards)
    )


def across_nodes(resource):
    """A resource of jobs on several machines, which are SLURM's MPI jobs; unset on one."""
    return lambda wildcards: (
        resource(wildcards) if compute_nodes(wildcards) > 1 else None
    )


def training_threads(wildcards):
    """Threads of all training processes on one machine; of each, where SLURM starts them as tasks."""
    shared = compute_nodes(wildcards) == 1
    return (per_node(compute_threads) if shared else compute_threads)(wildcards)


def training_gpus(wildcards):
    """As `gpus`, for each training process."""
    return gpus(wildcards) * compute_processes(wildcards)


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


def intermediate(path):
    """A large file that only the next step reads: temporary, unless the configuration keeps it."""
    return path if CONFIGURATION.keep_intermediates else temp(path)


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
    keys = ("micrographs_star", "particles_star")
    return {key: files[key] for key in keys if key in files}


def picks(wildcards):
    """Where experimental picks are: a parameter, since thousands of input files a data set would be slow to plan with."""
    return cryorestore.config.picks(settings_of(wildcards))


def picks_version(wildcards):
    """Changes with the pick files, so that extraction is run again."""
    return cryorestore.config.picks_version(settings_of(wildcards))


def unprocessed_particles(wildcards):
    """Particles before normalization: extracted here, or imported."""
    extracted = settings_of(wildcards)["input"]["kind"] in ("simulation", "micrographs")
    folder = "extracted" if extracted else "imported"
    return f"<results>/{{dataset}}/{folder}/particles.star"


def preflight_map(wildcards):
    """A map to judge hand and pixel size by, where one is named; a simulation's truth is for scoring only."""
    files = cryorestore.config.input_files(settings_of(wildcards))
    return {key: files[key] for key in ("reference_map",) if key in files}


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
    if not cryorestore.config.has_posterior(method):
        return None
    folder = f"{CONFIGURATION.results}/{wildcards.dataset}/restored.{wildcards.method}"
    return f"{folder}/half{half or wildcards.half}/deviation.mrcs"


def shard_folders(wildcards):
    """The restored shards of a half, in order."""
    shards = settings_of(wildcards)["restore"]["shards"]
    return [
        f"<results>/{{dataset}}/restored.{{method}}/half{{half}}/shards/{shard}-of-{shards}"
        for shard in range(1, shards + 1)
    ]


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


def fsc_mask(wildcards):
    """The mask that the half-maps of every stack are correlated under; nothing without one."""
    settings = settings_of(wildcards)
    if settings["fsc"]["mask"] == "none":
        return {}
    given = cryorestore.config.input_files(settings).get("fsc_mask")
    return {"mask_file": given or "<results>/{dataset}/raw/fsc_mask.mrc"}


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
