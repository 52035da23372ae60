"""cryorestore: restore single-particle cryo-EM images, reconstruct, and show how far to trust the result."""

from snakemake.utils import min_version

min_version("9.27")


include: "rules/library.smk"
include: "rules/common.smk"
include: "rules/resources.smk"
include: "rules/targets.smk"
include: "rules/run.smk"


pathvars:
    results=CONFIGURATION.results,


container: CONFIGURATION.container


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


include: "rules/prepare.smk"
include: "rules/poses.smk"
include: "rules/reconstruct.smk"
include: "rules/train.smk"
include: "rules/restore.smk"
include: "rules/controls.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
