"""cryorestore: restore single-particle cryo-EM images, reconstruct, and show how far to trust the result."""

import os
import sys

from snakemake.utils import min_version

min_version("9.27")

# The library reaches this file and every script from here, whatever environment a step runs in.
SOURCE = os.path.join(workflow.basedir, "src")
sys.path.insert(0, SOURCE)
os.environ.update(
    PYTHONPATH=os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")]))
)


include: "rules/common.smk"
include: "rules/targets.smk"


pathvars:
    results=CONFIGURATION.results,


wildcard_constraints:
    dataset=one_of(CONFIGURATION.settings),
    stack=r"raw|restored\.[a-z0-9+-]+",
    method="[a-z0-9+-]+",
    half="[12]",


localrules:
    all,
    restore,
    reconstruct,
    report,


rule all:
    """Everything that the configured data sets allow."""
    default_target: True
    input:
        prepared_targets(),
        reconstruct_targets(),
        restore_targets(),
        report_targets(),


rule restore:
    """Restored stacks of every method, both halves, and the table that joins them."""
    input:
        restore_targets(),


rule reconstruct:
    """Half-maps and FSC curves, raw and restored."""
    input:
        reconstruct_targets(),


rule report:
    """Summary and report of every data set."""
    input:
        report_targets(),


include: "rules/prepare.smk"
include: "rules/reconstruct.smk"
include: "rules/train.smk"
include: "rules/restore.smk"
include: "rules/controls.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
