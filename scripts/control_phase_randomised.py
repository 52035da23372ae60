"""Rule control_phase_randomised: particles with random phases in, the control's verdict out."""

from cryorestore.controls.phase_randomised import control_phase_randomised
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    control_phase_randomised(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("control_phase_randomised", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
