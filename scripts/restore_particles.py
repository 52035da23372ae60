"""Rule restore_particles: one half's particles, reference and networks in, its restored particles out."""

from cryorestore.logs import logged_step
from cryorestore.restore import restore_particles
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    restore_particles(**snakemake.input, **snakemake.output, **snakemake.params.step, deviation_stack=snakemake.params.deviation_stack)
    record_step("restore_particles", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
