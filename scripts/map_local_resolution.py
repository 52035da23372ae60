"""Rule map_local_resolution: the raw half-maps in, the map of their local resolution out."""

from cryorestore.logs import logged_step
from cryorestore.resolution.local import map_local_resolution
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    map_local_resolution(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("map_local_resolution", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
