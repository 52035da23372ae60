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


def settings_of(wildcards):
    return CONFIGURATION.settings[wildcards.dataset]


def one_of(names):
    return "|".join(names) or "(?!)"


wildcard_constraints:
    dataset=one_of(CONFIGURATION.settings),
    stack=r"raw|restored\.[a-z0-9+-]+|fused\.(marginal|mean-pose)",
    method="[a-z0-9+-]+",
    half="[12]",
    fold="[12]",
    change=one_of(cryorestore.config.CHANGED_MAPS),


def datasets_where(is_so):
    """The data sets whose settings are so, as a constraint of the wildcard."""
    return one_of(
        name for name, settings in CONFIGURATION.settings.items() if is_so(settings)
    )


def datasets_restored_in(several_shards):
    """The data sets whose halves are restored whole, in several shards or in one, as a constraint of the wildcard."""
    return datasets_where(
        lambda settings: (settings["restore"]["shards"] > 1) == several_shards
        and not settings["restore"]["cross_fit"]
    )


datasets_cross_fitted = datasets_where(
    lambda settings: settings["restore"]["cross_fit"]
)


def datasets_with_poses(found):
    """The data sets whose poses are found here, or given, as a constraint of the wildcard."""
    return datasets_where(
        lambda settings: cryorestore.config.finds_poses(settings) == found
    )


def datasets_in_halves(posed):
    """The data sets that are restored half by half, with poses, or all together without, as a constraint of the wildcard."""
    return datasets_where(
        lambda settings: cryorestore.config.has_poses(settings) == posed
    )


def any_data_set(is_so):
    """Whether the settings of any data set are so."""
    return any(map(is_so, CONFIGURATION.settings.values()))


# Parameters


def step_parameters(step, half=None):
    """The keywords that a step's function gets from the settings; `half` is that of the job, where no wildcard says it."""

    def parameters(wildcards):
        own = int(wildcards.half) if "half" in wildcards.keys() else half
        return cryorestore.config.step_parameters(
            step, settings_of(wildcards), method=wildcards.get("method"), half=own
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


def fold_work_folder(wildcards, step):
    """As `work_folder`, of a training on one fold."""
    return f"{work_folder(wildcards, step)}_fold{wildcards.fold}"


def control_work_folder(wildcards, step):
    """As `work_folder`, of a training for a control."""
    folder = f"{CONFIGURATION.results}/{wildcards.dataset}/work/{step}"
    return f"{folder}/{wildcards.change}_{wildcards.method}_half{wildcards.half}"


def dataset_methods(wildcards):
    return settings_of(wildcards)["denoisers"]


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


def named_files(wildcards, step):
    """Where sizes and times of the files that an input table names are noted, and what changes with them: simulated ones are outputs of a rule."""
    if is_simulated(settings_of(wildcards)):
        return {}
    record = f"{work_folder(wildcards, step)}/files.json"
    version = cryorestore.config.named_files_version(record)
    return {"files_record": record, "files_version": version}


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


def half_networks(wildcards, half, suffix=""):
    """The weights of one half, where no wildcard says which; `suffix` is appended to their names."""
    return {
        f"{name}{suffix}": path.replace("{half}", str(half))
        for name, path in network_input(wildcards).items()
    }


def both_networks(wildcards):
    """The weights of both halves: `diffusion_weights` becomes `diffusion_weights_1` and `diffusion_weights_2`."""
    return half_networks(wildcards, 1, "_1") | half_networks(wildcards, 2, "_2")


def fold_folder(wildcards, fold=None):
    """Where what one fold of a half is restored with, and what comes out, is kept for one method."""
    folder = f"{CONFIGURATION.results}/{wildcards.dataset}/folds/half{wildcards.half}"
    return f"{folder}/fold{fold or wildcards.fold}/{wildcards.method}"


def fold_folders(wildcards):
    return [fold_folder(wildcards, fold) for fold in (1, 2)]


def fold_networks(wildcards):
    """The weights that were learned from the other fold."""
    return {
        name: f"{fold_folder(wildcards)}/{os.path.basename(path)}"
        for name, path in network_input(wildcards).items()
    }


def fold_deviation_stack(wildcards):
    """As `deviation_stack`, of one fold."""
    whole = deviation_stack(wildcards)
    return whole and f"{fold_folder(wildcards)}/{os.path.basename(whole)}"


def changed_networks(wildcards):
    """The weights of half 1 that were learned from a changed map."""
    folder = "<results>/{dataset}/control.{change}.{method}/half1"
    return {
        name: f"{folder}/{os.path.basename(path)}"
        for name, path in network_input(wildcards).items()
    }


def deviation_stack(wildcards, half=None):
    """Where the posterior deviation goes, beside the declared outputs: only some methods know it."""
    method = settings_of(wildcards)["methods"][wildcards.method]
    if not cryorestore.config.has_deviation(method):
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


def frame_map(wildcards):
    """A map whose frame and hand the poses found are brought into: the one that reconstructions are compared with, where there is one."""
    if not has_true_map(settings_of(wildcards)):
        return {}
    return {"reference_map": true_map(wildcards)}


def true_map(wildcards):
    """The map that reconstructions are compared with: the truth of a simulation, or a published one."""
    settings = settings_of(wildcards)
    if is_simulated(settings):
        return "<results>/{dataset}/truth/truth_map.mrc"
    return cryorestore.config.input_files(settings)["reference_map"]


def simulated_truth_map(wildcards):
    """The true map where the data are simulated."""
    if not is_simulated(settings_of(wildcards)):
        return {}
    return {"truth_map": "<results>/{dataset}/truth/truth_map.mrc"}


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


def control_results(wildcards):
    """The JSON of every control of every method."""
    settings = settings_of(wildcards)
    return [
        f"<results>/{wildcards.dataset}/control.{name}.{method}/control.json"
        for method in settings["denoisers"]
        for name in cryorestore.config.control_names(settings)
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


def backend_check(wildcards):
    """The agreement of two backends, where another one is to check."""
    if not settings_of(wildcards)["reconstruct"]["check"]:
        return {}
    return {"backend_check": "<results>/{dataset}/raw/backend_check.json"}


def fused_curves(wildcards, form):
    """FSC of the fused stacks, where there are any; `form` is json or csv."""
    settings = settings_of(wildcards)
    folders = [
        f"<results>/{wildcards.dataset}/{stack}"
        for stack in cryorestore.config.fused_stacks(settings)
    ]
    kinds = {"fused_fscs": "fsc"}
    if has_true_map(settings):
        kinds["fused_truth_fscs"] = "fsc_truth"
    return {
        key: [f"{folder}/{name}.{form}" for folder in folders]
        for key, name in kinds.items()
        if folders
    }


def report_fused_maps(wildcards):
    """The fused half-maps and their figures, where there are any."""
    if not cryorestore.config.fused_stacks(settings_of(wildcards)):
        return {}
    folders = [
        f"<results>/{wildcards.dataset}/fused.marginal/half{half}" for half in (1, 2)
    ]
    return {
        "fused_maps": [f"{folder}/map.mrc" for folder in folders],
        "fusions": [f"{folder}/fusion.json" for folder in folders],
    }


def report_truth_map(wildcards):
    return (
        {"truth_map": true_map(wildcards)}
        if has_true_map(settings_of(wildcards))
        else {}
    )


def report_poses_verdict(wildcards):
    """What was said of the poses, where they were found and not given."""
    if not cryorestore.config.finds_poses(settings_of(wildcards)):
        return {}
    return {"poses_verdict": "<results>/{dataset}/found/verdict.json"}


def report_map_figures(wildcards):
    """Sharpened map and local resolution, as far as the configuration asks for them."""
    settings, raw = settings_of(wildcards), "<results>/{dataset}/raw"
    files = {}
    if settings["sharpen"]["enabled"]:
        files["sharpened_map"] = f"{raw}/sharpened.mrc"
        files["guinier"] = f"{raw}/guinier.csv"
        files["sharpening"] = f"{raw}/sharpened.json"
    if settings["local_resolution"]["enabled"]:
        files["local_resolution_map"] = f"{raw}/local_resolution.mrc"
        files["local_resolution_figures"] = f"{raw}/local_resolution.json"
    return files


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
