"""Rule split_particles: normalized particles in, half-sets and their unposed particles out."""

from cryorestore.logs import logged_step
from cryorestore.split import split_particles
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    split_particles(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("split_particles", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
