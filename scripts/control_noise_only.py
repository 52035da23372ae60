"""Rule control_noise_only: networks and noise in, the control's verdict out."""

from cryorestore.controls.noise_only import control_noise_only
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    control_noise_only(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("control_noise_only", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
