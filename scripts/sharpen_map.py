"""Rule sharpen_map: the raw half-maps and their FSC in, the sharpened map and its Guinier plot out."""

from cryorestore.logs import logged_step
from cryorestore.resolution.sharpening import sharpen_map
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    sharpen_map(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("sharpen_map", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
