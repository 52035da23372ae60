"""Rule evaluate_restoration: restored particles and the truth in, scores and a montage out."""

from cryorestore.evaluate import evaluate_restoration
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    evaluate_restoration(
        **snakemake.input,
        **snakemake.output,
        **snakemake.params.step,
        deviation1=snakemake.params.deviation1,
        deviation2=snakemake.params.deviation2,
    )
    record_step("evaluate_restoration", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
