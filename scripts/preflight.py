"""Rule preflight: normalized particles in, findings out; a finding that is an error ends the run."""

from cryorestore.logs import logged_step
from cryorestore.preflight import preflight
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    preflight(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("preflight", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
