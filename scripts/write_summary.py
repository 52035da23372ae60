"""Rule write_summary: evaluations, controls and resolutions in, the summary of a data set out."""

from cryorestore.logs import logged_step
from cryorestore.steps import record_step
from cryorestore.summary import write_summary

with logged_step(snakemake.log[0]):
    write_summary(
        **snakemake.input,
        **snakemake.output,
        **snakemake.params.step,
        dataset=snakemake.params.dataset,
        benchmarks=snakemake.params.benchmarks,
    )
    record_step("write_summary", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
