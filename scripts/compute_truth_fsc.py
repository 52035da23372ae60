"""Rule compute_truth_fsc: two half-maps and the true map in, the curve and its plot out."""

from cryorestore.logs import logged_step
from cryorestore.resolution.curves import write_truth_fsc
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    write_truth_fsc(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("compute_truth_fsc", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
