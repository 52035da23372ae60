"""Rule restore_unposed: one half's particles without a pose in, restored by a method that looks at none."""

from cryorestore.logs import logged_step
from cryorestore.restore import restore_particles
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    restore_particles(**snakemake.input, **snakemake.output, **snakemake.params.step, restored_stack=snakemake.params.restored_stack)
    record_step("restore_unposed", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
