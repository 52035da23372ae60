"""What a whole run makes: the targets, and the records of every step that summary and report read."""


def restoring_steps(settings, method):
    """The steps that restore a half, each with the name of its shard or fold, if it has one."""
    if settings["restore"]["cross_fit"]:
        trained = trained_methods(settings)
        networks = [name for name in trained if method in trained[name]]
        steps = [*(f"train_fold_{name}" for name in networks), "restore_fold"]
        return [
            *((step, f"fold{fold}") for fold in (1, 2) for step in steps),
            ("gather_folds",),
        ]
    shards = settings["restore"]["shards"]
    if shards == 1:
        return [("restore_particles",)]
    parts = [f"{shard}-of-{shards}" for shard in range(1, shards + 1)]
    return [*(("restore_shard", part) for part in parts), ("gather_shards",)]


def posing_steps(settings, halves):
    """The steps from normalized particles to halves with poses, each with its half, if it has one."""
    if not cryorestore.config.finds_poses(settings):
        return [("split_particles", [])]
    found = [("find_poses", [half]) for half in halves]
    return [("split_unposed", []), *found, ("judge_poses", []), ("adopt_poses", [])]


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
    changed = [
        name
        for name in cryorestore.config.control_names(settings)
        if name in cryorestore.config.CHANGED_MAPS
    ]
    scores = [
        *(
            f"control_{name}"
            for name in cryorestore.config.control_names(settings)
            if name not in changed
        ),
        "evaluate_restoration",
    ]
    jobs = [
        *((step, []) for step in (*first, "normalize_particles", "preflight")),
        *posing_steps(settings, halves),
        *(
            ("reconstruct_map", [stack, half])
            for stack in stacks
            if stack != "fused.marginal"
            for half in halves
        ),
        *(("fuse_map", [half]) for half in halves if "fused.marginal" in stacks),
        *((step, []) for step in checked_backends(settings)),
        *((step, []) for step in made_masks(settings)),
        *fold_jobs(settings),
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
        *(
            (step, [name, half, *part])
            for name in methods
            for half in halves
            for step, *part in restoring_steps(settings, name)
        ),
        *((step, [name]) for step in scores for name in methods),
        *(
            (step, [name, *half])
            for step, half in (
                ("make_control_maps", []),
                ("make_control_pairs", ["half1"]),
            )
            for name in changed
        ),
        *(
            (f"train_control_{network}", [change, name, "half1"])
            for change in changed
            for network in trained
            for name in trained[network]
        ),
        *(
            ("control_changed_map", [change, name])
            for change in changed
            for name in methods
        ),
    ]
    return [
        f"benchmarks/{step}/{'_'.join([dataset, *parts])}.tsv" for step, parts in jobs
    ]


def fold_jobs(settings):
    """What is learned from the folds before any network, where halves are cross-fitted."""
    if not settings["restore"]["cross_fit"]:
        return []
    halves = ["half1", "half2"]
    return [
        *(("split_folds", [half]) for half in halves),
        *(
            (step, [half, f"fold{fold}"])
            for step in ("reconstruct_fold", "make_fold_pairs")
            for half in halves
            for fold in (1, 2)
        ),
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
    if cryorestore.config.finds_poses(settings):
        folders += [f"split/{half}" for half in halves]
        folders += ["found", *(f"found/{half}" for half in halves)]
    folders += [f"pairs/{half}" for half in halves]
    for name in trained_methods(settings)["diffusion"]:
        folders += [f"models/{name}/{half}" for half in halves]
    for name in settings["denoisers"]:
        folders += [f"restored.{name}", *(f"restored.{name}/{half}" for half in halves)]
    for stack in cryorestore.config.fused_stacks(settings):
        folders += [stack, *(f"{stack}/{half}" for half in halves)]
    folders += [
        f"control.{control}.{name}"
        for name in settings["denoisers"]
        for control in cryorestore.config.control_names(settings)
    ]
    folders += [
        f"control.{control}/half1"
        for control in cryorestore.config.control_names(settings)
        if control in cryorestore.config.CHANGED_MAPS
    ]
    folders += ["evaluation", "."]
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
        if cryorestore.config.has_poses(settings)
        else ["normalized/particles.star", "normalized/preflight.json"]
    ),
)


def dataset_stacks(settings):
    """The stacks that summary and report tell of."""
    return [
        "raw",
        *(f"restored.{method}" for method in settings["denoisers"]),
        *cryorestore.config.fused_stacks(settings),
    ]


def curves_of(settings):
    if not cryorestore.config.has_poses(settings):
        return []
    names = ["fsc.csv", "fsc_truth.csv"] if has_true_map(settings) else ["fsc.csv"]
    optional = {
        "sharpen": "raw/sharpened.mrc",
        "local_resolution": "raw/local_resolution.mrc",
    }
    return [
        *(f"{stack}/{name}" for stack in dataset_stacks(settings) for name in names),
        *(name for section, name in optional.items() if settings[section]["enabled"]),
    ]


def checked_backends(settings):
    """The step that maps a half with another backend, where one is named."""
    return ["check_backend"] if settings["reconstruct"]["check"] else []


def made_masks(settings):
    """The step that makes the mask of the curves, where it is not given or absent."""
    return ["make_fsc_mask"] if settings["fsc"]["mask"] in ("sphere", "auto") else []


reconstruct_targets = partial(for_datasets, curves_of)


def restored_tables(settings):
    """The joined table of every method, and what a method that needs no pose makes of picks without one."""
    tables = [f"restored.{name}/particles.star" for name in settings["denoisers"]]
    posed = cryorestore.config.has_poses(settings)
    if posed and settings["input"]["kind"] == "micrographs":
        for name in settings["denoisers"]:
            if not cryorestore.config.needs_poses(settings["methods"][name]):
                tables += [
                    f"restored.{name}/half{half}/unposed.star" for half in (1, 2)
                ]
    return tables


restore_targets = partial(for_datasets, restored_tables)


def reported_methods(settings):
    """The methods that controls and report tell of: without poses there are no maps to tell of."""
    return settings["denoisers"] if cryorestore.config.has_poses(settings) else []


control_targets = partial(
    for_datasets,
    lambda settings: [
        f"control.{name}.{method}/control.json"
        for method in reported_methods(settings)
        for name in cryorestore.config.control_names(settings)
    ],
)
report_targets = partial(
    for_datasets,
    lambda settings: (
        ["summary.json", "report.html"] if reported_methods(settings) else []
    ),
)


# Many data sets


def all_targets():
    return [
        *prepared_targets(),
        *reconstruct_targets(),
        *restore_targets(),
        *report_targets(),
    ]


def bulk_run():
    """What the table of all data sets is made from: the files that each is to have, and the folders to look in."""
    targets = {name: [] for name in CONFIGURATION.settings}
    for target in all_targets():
        path = target.replace("<results>", CONFIGURATION.results, 1)
        targets[target.split("/")[1]].append(path)
    return {
        "targets": targets,
        "results": CONFIGURATION.results,
        "logs": "logs",
        "benchmarks": "benchmarks",
    }
