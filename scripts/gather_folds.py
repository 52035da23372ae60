"""Rule gather_folds: restored folds of a half in, the half's stack out."""

from cryorestore.folds import gather_folds
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    gather_folds(
        star=snakemake.input.star,
        fold_folders=snakemake.params.fold_folders,
        deviation_stack=snakemake.params.deviation_stack,
        **snakemake.output,
    )
    record_step("gather_folds", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
