"""Rule simulate_micrographs: nothing in, micrographs, picks, perturbed poses and the truth out."""

from cryorestore.logs import logged_step
from cryorestore.simulate import simulate_micrographs
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    simulate_micrographs(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("simulate_micrographs", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
