"""cryorestore: restore single-particle cryo-EM images, reconstruct, and show how far to trust the result."""

import gc
import os
import sys

from snakemake.utils import min_version

min_version("9.27")

# Planning makes many objects that stay: looking through them for garbage again and again takes a fifth of the time.
gc.set_threshold(200_000, 50, 100)

# The library reaches this file and every script from here, whatever environment a step runs in.
SOURCE = os.path.join(workflow.basedir, "src")
sys.path.insert(0, SOURCE)
os.environ.update(
    PYTHONPATH=os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")]))
)


include: "rules/common.smk"
include: "rules/resources.smk"
include: "rules/targets.smk"


pathvars:
    results=CONFIGURATION.results,


container: CONFIGURATION.container


wildcard_constraints:
    dataset=one_of(CONFIGURATION.settings),
    stack=r"raw|restored\.[a-z0-9+-]+|fused\.(marginal|mean-pose)",
    method="[a-z0-9+-]+",
    half="[12]",
    fold="[12]",
    change=one_of(cryorestore.config.CHANGED_MAPS),


localrules:
    all,
    reprocess,
    restore,
    reconstruct,
    controls,
    report,


rule all:
    """Everything that the configured data sets allow."""
    default_target: True
    input:
        all_targets(),


rule reprocess:
    """Everything of every data set and a table of them all; a data set that fails leaves the others running."""
    input:
        all_targets(),
        "<results>/datasets.html",


rule restore:
    """Restored stacks of every method, both halves, and the table that joins them."""
    input:
        restore_targets(),


rule reconstruct:
    """Half-maps and FSC curves, raw and restored."""
    input:
        reconstruct_targets(),


rule controls:
    """Every control of every method, by the level that the configuration asks for."""
    input:
        control_targets(),


rule report:
    """Summary and report of every data set."""
    input:
        report_targets(),


onstart:
    check_disk()
    check_cluster()


onerror:
    if "reprocess" in workflow.dag_settings.targets:
        summarize_unfinished(log)


include: "rules/prepare.smk"
include: "rules/poses.smk"
include: "rules/reconstruct.smk"
include: "rules/train.smk"
include: "rules/restore.smk"
include: "rules/controls.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"


# Every rule is looked at for every file: those that no data set asks for are left out, which planning is the faster for.
if any(
    settings["restore"]["cross_fit"] for settings in CONFIGURATION.settings.values()
):

    include: "rules/folds.smk"


if any(
    settings["controls"]["level"] == "full"
    for settings in CONFIGURATION.settings.values()
):

    include: "rules/controls_full.smk"
