"""Rule control_raw: raw and restored curves in, the control's verdict out."""

from cryorestore.controls.raw_poses import control_raw
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    control_raw(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("control_raw", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
