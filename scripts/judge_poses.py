"""Rule judge_poses: what both halves found in, the same in one frame and a verdict out."""

from cryorestore.ab_initio.judging import judge_poses
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    judge_poses(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("judge_poses", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
