"""Rule check_backend: the particles and the map of a half in, its agreement with another backend out."""

from cryorestore.logs import logged_step
from cryorestore.reconstruct.check import check_backend
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    check_backend(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("check_backend", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
