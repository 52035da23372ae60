"""Rule find_poses: one half's particles in, the same with the poses found and their map out."""

from cryorestore.ab_initio.finding import find_poses
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    find_poses(**snakemake.input, **snakemake.output, **snakemake.params.step, work_dir=snakemake.params.work_dir)
    record_step("find_poses", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
