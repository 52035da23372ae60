"""Rule restore_general: particles without poses in, restored particles out."""

from cryorestore.general.use import restore_general
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    restore_general(star=snakemake.input.star, **snakemake.output, **snakemake.params.step)
    record_step("restore_general", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
