"""Rule fuse_map: raw particles of one half in, their map at likely poses out."""

from cryorestore.logs import logged_step
from cryorestore.reconstruct.fusion import fuse_map
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    fuse_map(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("fuse_map", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
