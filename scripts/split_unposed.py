"""Rule split_unposed: normalized particles in, half-sets out, whether they have poses or not."""

from cryorestore.logs import logged_step
from cryorestore.split import split_particles
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    split_particles(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("split_unposed", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
