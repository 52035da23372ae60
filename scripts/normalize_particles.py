"""Rule normalize_particles: particles in, normalized particles and what was taken from them out."""

from cryorestore.logs import logged_step
from cryorestore.normalize import normalize_particles
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    normalize_particles(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("normalize_particles", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
