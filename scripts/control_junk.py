"""Rule control_junk: poses and a half's networks in, the control's verdict out."""

from cryorestore.controls.junk import control_junk
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    control_junk(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("control_junk", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
