"""Rule make_training_pairs: one half's particles and maps in, its pairs, reference and noise out."""

from cryorestore.logs import logged_step
from cryorestore.pairs import make_training_pairs
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    make_training_pairs(**snakemake.input, **snakemake.output, **snakemake.params.step)
    record_step("make_training_pairs", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.step)
