"""Rule make_fsc_mask: the raw half-maps in, the mask of the curves out."""

from cryorestore.logs import logged_step
from cryorestore.resolution.masking import make_fsc_mask
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    make_fsc_mask(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("make_fsc_mask", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
