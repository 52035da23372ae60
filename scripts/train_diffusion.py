"""Rule train_diffusion: one half's pairs in, the network's weights and its history out."""

from cryorestore.logs import logged_step
from cryorestore.steps import record_step
from cryorestore.training import train_diffusion

with logged_step(snakemake.log[0]):
    train_diffusion(
        **snakemake.input,
        **snakemake.output,
        **snakemake.params.step,
        work_dir=snakemake.params.work_dir,
        processes=snakemake.resources.processes,
        nodes=snakemake.resources.nodes,
        runtime_minutes=snakemake.resources.runtime,
    )
    record_step("train_diffusion", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
