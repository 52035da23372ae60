"""Rule make_control_maps: a half's maps in, changed ones out."""

from cryorestore.controls.changed_map import make_control_maps
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    make_control_maps(**snakemake.input, **snakemake.output, **snakemake.params.step, change=snakemake.params.change)
    record_step("make_control_maps", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
