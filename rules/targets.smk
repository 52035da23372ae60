"""What a whole run makes: the targets, and the records of every step that summary and report read."""


def step_benchmarks(wildcards):
    """The benchmark files of every step that the summary waits for, in the order of the steps."""
    settings, dataset = settings_of(wildcards), wildcards.dataset
    methods = dataset_methods(wildcards)
    trained = trained_methods(settings)
    first = {
        "simulation": ["simulate_micrographs", "extract_particles"],
        "micrographs": ["extract_particles"],
    }.get(settings["input"]["kind"], ["import_particles"])
    halves = ["half1", "half2"]
    stacks = dataset_stacks(settings)
    curves = ["compute_fsc", "compute_truth_fsc"][: 1 + has_true_map(settings)]
    scores = ["control_noise_only", "evaluate_restoration"]
    jobs = [
        *((step, []) for step in (*first, "normalize_particles", "split_particles")),
        *(("reconstruct_map", [stack, half]) for stack in stacks for half in halves),
        *((step, [stack]) for step in curves for stack in stacks),
        *(("make_training_pairs", [half]) for half in halves),
        *(
            ("train_diffusion", [name, half])
            for name in trained["diffusion"]
            for half in halves
        ),
        *(
            ("train_postprocess", [name, half])
            for name in trained["postprocess"]
            for half in halves
        ),
        *(("restore_particles", [name, half]) for name in methods for half in halves),
        *((step, [name]) for step in scores for name in methods),
    ]
    return [
        f"benchmarks/{step}/{'_'.join([dataset, *parts])}.tsv" for step, parts in jobs
    ]


def step_provenance(wildcards):
    """The provenance of every result folder before the report."""
    settings = settings_of(wildcards)
    folders = {
        "simulation": ["simulated", "truth", "extracted"],
        "micrographs": ["extracted"],
    }.get(settings["input"]["kind"], ["imported"])
    halves = [f"half{half}" for half in (1, 2)]
    folders += ["normalized", "raw", *(f"raw/{half}" for half in halves)]
    folders += [f"pairs/{half}" for half in halves]
    for name in trained_methods(settings)["diffusion"]:
        folders += [f"models/{name}/{half}" for half in halves]
    for name in settings["denoisers"]:
        folders += [f"restored.{name}", *(f"restored.{name}/{half}" for half in halves)]
    folders += ["controls", "evaluation", "."]
    root = f"{CONFIGURATION.results}/{wildcards.dataset}"
    return [os.path.normpath(f"{root}/{folder}/provenance.json") for folder in folders]


# Targets


def for_datasets(targets):
    return [
        f"<results>/{name}/{target}"
        for name, settings in CONFIGURATION.settings.items()
        for target in targets(settings)
    ]


prepared_targets = partial(
    for_datasets,
    lambda settings: (
        [f"raw/half{half}/particles.star" for half in (1, 2)]
        if settings["input"]["has_poses"]
        else ["normalized/particles.star"]
    ),
)


def dataset_stacks(settings):
    return ["raw", *(f"restored.{method}" for method in settings["denoisers"])]


def curves_of(settings):
    if not settings["input"]["has_poses"]:
        return []
    names = ["fsc.csv", "fsc_truth.csv"] if has_true_map(settings) else ["fsc.csv"]
    return [f"{stack}/{name}" for stack in dataset_stacks(settings) for name in names]


reconstruct_targets = partial(for_datasets, curves_of)


def restored_tables(settings):
    """The joined table of every method, and what a method that needs no pose makes of picks without one."""
    tables = [f"restored.{name}/particles.star" for name in settings["denoisers"]]
    if settings["input"]["kind"] == "micrographs":
        for name in settings["denoisers"]:
            if not cryorestore.config.needs_poses(settings["methods"][name]):
                tables += [
                    f"restored.{name}/half{half}/unposed.star" for half in (1, 2)
                ]
    return tables


restore_targets = partial(for_datasets, restored_tables)
report_targets = partial(
    for_datasets,
    lambda settings: ["summary.json", "report.html"] if settings["denoisers"] else [],
)
