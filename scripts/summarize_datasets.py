"""Rule summarize_datasets: the results of every data set in, one table of them all out."""

from cryorestore.bulk import summarize_datasets
from cryorestore.logs import logged_step

with logged_step(snakemake.log[0]):
    summarize_datasets(**snakemake.output, **snakemake.params.run)
