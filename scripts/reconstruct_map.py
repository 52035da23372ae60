"""Rule reconstruct_map: the particles of one half in, its maps out."""

from cryorestore.logs import logged_step
from cryorestore.reconstruct import reconstruct_map
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    reconstruct_map(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("reconstruct_map", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
