"""Rule write_report: the summary and what it was made from in, one HTML file out."""

from cryorestore.logs import logged_step
from cryorestore.report import write_report
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    write_report(
        **snakemake.input,
        **snakemake.output,
        **snakemake.params.step,
        benchmarks=snakemake.params.benchmarks,
        provenance=snakemake.params.provenance,
    )
    record_step("write_report", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
