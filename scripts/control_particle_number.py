"""Rule control_particle_number: raw and restored particles in, the control's verdict out."""

from cryorestore.controls.particle_number import control_particle_number
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    control_particle_number(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("control_particle_number", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
