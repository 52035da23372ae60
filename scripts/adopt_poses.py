"""Rule adopt_poses: poses and verdict in, the halves' tables out if the verdict allows."""

from cryorestore.adopting import adopt_poses
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    adopt_poses(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("adopt_poses", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
