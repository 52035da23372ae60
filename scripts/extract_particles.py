"""Rule extract_particles: micrographs and picks in, a stack and its table out."""

from cryorestore.extract import extract_particles
from cryorestore.logs import logged_step
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    extract_particles(
        **snakemake.input,
        **snakemake.output,
        **snakemake.params.picks,
        **snakemake.params.step,
        **snakemake.params.named_files,
        work_dir=snakemake.params.work_dir,
    )
    record_step("extract_particles", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step | snakemake.params.picks)
