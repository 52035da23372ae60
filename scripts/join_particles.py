"""Rule join_particles: two restored halves in, one table out."""

from cryorestore.joining import join_particles
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    join_particles(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("join_particles", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
