"""Rule train_postprocess: one half's pairs and diffusion network in, the second network's weights and history out."""

from cryorestore.logs import logged_step
from cryorestore.steps import record_step
from cryorestore.training import train_postprocess

with logged_step(snakemake.log[0]):
    train_postprocess(
        **snakemake.input,
        **snakemake.output,
        **snakemake.params.step,
        work_dir=snakemake.params.work_dir,
        processes=snakemake.resources.processes,
        nodes=snakemake.resources.nodes,
        runtime_minutes=snakemake.resources.runtime,
    )
    record_step("train_postprocess", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
