"""Rule gather_shards: the folders of a half's restored parts in, its restored particles out; the record tells of the restoration."""

from cryorestore.logs import logged_step
from cryorestore.sharding import gather_shards
from cryorestore.steps import record_step

with logged_step(snakemake.log[0]):
    gather_shards(
        star=snakemake.input.star,
        shard_folders=snakemake.input.shard_folders,
        **snakemake.output,
        **snakemake.params.step,
        deviation_stack=snakemake.params.deviation_stack,
    )
    record_step("gather_shards", inputs=snakemake.input, outputs=snakemake.output, parameters=snakemake.params.restoration)
