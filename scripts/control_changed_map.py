"""Rule control_changed_map: particles and what was learned from a changed map in, the control's verdict out."""

from cryorestore.controls.changed_map import control_changed_map
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    control_changed_map(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("control_changed_map", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
