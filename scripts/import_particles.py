"""Rule import_particles: a particles table of another program in, ours out."""

from cryorestore.importing import import_particles
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    import_particles(**snakemake.input, **snakemake.output, **snakemake.params.step, **snakemake.params.named_files)
    record_step("import_particles", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
