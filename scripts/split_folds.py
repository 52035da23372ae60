"""Rule split_folds: particles of a half in, its two folds out."""

from cryorestore.folds import split_folds
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    split_folds(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("split_folds", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
