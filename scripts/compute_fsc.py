"""Rule compute_fsc: two half-maps in, the curves and their plot out."""

from cryorestore.logs import logged_step
from cryorestore.resolution.curves import write_fsc
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    write_fsc(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("compute_fsc", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
