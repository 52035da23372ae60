"""Rule restore_shard: one half's particles, reference and networks in, a folder with one part of them restored out."""

from pathlib import Path

from cryorestore.logs import logged_step
from cryorestore.restore import restore_particles
from cryorestore.sharding import shard_files
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    files = shard_files(Path(snakemake.output.shard_folder), deviation=snakemake.params.deviation)
    shard, shards = int(snakemake.wildcards.shard), int(snakemake.wildcards.shards)
    restore_particles(**snakemake.input, **files, **snakemake.params.step, shard=shard, shards=shards)
    written = {name: path for name, path in files.items() if path.exists()}
    record_step("restore_shard", inputs=snakemake.input, outputs=written, parameters=snakemake.params.step)
