"""Rule control_shared_network: particles of half 2 and half 1's networks in, the control's verdict out."""

from cryorestore.controls.shared_network import control_shared_network
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    control_shared_network(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("control_shared_network", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
