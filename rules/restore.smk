rule restore_particles:
    """Restore the particles of one half with that half's reference and networks, in one job."""
    input:
        unpack(network_input),
        star="<results>/{dataset}/raw/half{half}/particles.star",
        reference_map="<results>/{dataset}/pairs/half{half}/reference_map.mrc",
        noise_json="<results>/{dataset}/pairs/half{half}/noise.json",
    output:
        restored_stack="<results>/{dataset}/restored.{method}/half{half}/particles.mrcs",
        restored_star="<results>/{dataset}/restored.{method}/half{half}/particles.star",
        evidence_csv="<results>/{dataset}/restored.{method}/half{half}/evidence.csv",
    log:
        "<logs>/restore_particles/{dataset}_{method}_half{half}.log",
    benchmark:
        "<benchmarks>/restore_particles/{dataset}_{method}_half{half}.tsv"
    wildcard_constraints:
        dataset=datasets_restored_in(several_shards=False),
    conda:
        "../envs/network.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(memory_for_network("diffusion")),
        runtime=escalating(8 * HOUR),
        gpu=gpus,
    params:
        step=step_parameters("restore_particles"),
        deviation_stack=deviation_stack,
        code_version=code_version("restore_particles"),
    script:
        "../scripts/restore_particles.py"


rule restore_shard:
    """Restore one of several parts of a half."""
    input:
        unpack(network_input),
        star="<results>/{dataset}/raw/half{half}/particles.star",
        reference_map="<results>/{dataset}/pairs/half{half}/reference_map.mrc",
        noise_json="<results>/{dataset}/pairs/half{half}/noise.json",
    output:
        shard_folder=temp(
            directory(
                "<results>/{dataset}/restored.{method}/half{half}/shards/{shard}-of-{shards}"
            )
        ),
    log:
        "<logs>/restore_shard/{dataset}_{method}_half{half}_{shard}-of-{shards}.log",
    benchmark:
        "<benchmarks>/restore_shard/{dataset}_{method}_half{half}_{shard}-of-{shards}.tsv"
    conda:
        "../envs/network.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(memory_for_network("diffusion")),
        runtime=escalating(8 * HOUR),
        gpu=gpus,
    params:
        step=step_parameters("restore_shard"),
        deviation=lambda wildcards: deviation_stack(wildcards) is not None,
        code_version=code_version("restore_shard"),
    script:
        "../scripts/restore_shard.py"


rule gather_shards:
    """Put the restored parts of a half together."""
    input:
        unpack(network_input),
        star="<results>/{dataset}/raw/half{half}/particles.star",
        reference_map="<results>/{dataset}/pairs/half{half}/reference_map.mrc",
        noise_json="<results>/{dataset}/pairs/half{half}/noise.json",
        shard_folders=shard_folders,
    output:
        restored_stack="<results>/{dataset}/restored.{method}/half{half}/particles.mrcs",
        restored_star="<results>/{dataset}/restored.{method}/half{half}/particles.star",
        evidence_csv="<results>/{dataset}/restored.{method}/half{half}/evidence.csv",
    log:
        "<logs>/gather_shards/{dataset}_{method}_half{half}.log",
    benchmark:
        "<benchmarks>/gather_shards/{dataset}_{method}_half{half}.tsv"
    wildcard_constraints:
        dataset=datasets_restored_in(several_shards=True),
    conda:
        "../envs/network.yaml"
    threads: 1
    resources:
        mem_mb=escalating(2 * GIB),
        runtime=escalating(HOUR),
    params:
        step=step_parameters("gather_shards"),
        restoration=step_parameters("restore_shard"),
        deviation_stack=deviation_stack,
        code_version=code_version("gather_shards"),
    script:
        "../scripts/gather_shards.py"


rule join_particles:
    """Join the restored halves in the order of the normalized particles."""
    input:
        half1_star="<results>/{dataset}/restored.{method}/half1/particles.star",
        half2_star="<results>/{dataset}/restored.{method}/half2/particles.star",
        source_star="<results>/{dataset}/normalized/particles.star",
    output:
        joined_star="<results>/{dataset}/restored.{method}/particles.star",
        joined_cs="<results>/{dataset}/restored.{method}/particles.cs",
    log:
        "<logs>/join_particles/{dataset}_{method}.log",
    benchmark:
        "<benchmarks>/join_particles/{dataset}_{method}.tsv"
    wildcard_constraints:
        dataset=datasets_in_halves(True),
    conda:
        "../envs/network.yaml"
    threads: 1
    resources:
        mem_mb=escalating(2 * GIB),
        runtime=escalating(30),
    params:
        step=step_parameters("join_particles"),
        code_version=code_version("join_particles"),
    script:
        "../scripts/join_particles.py"


rule restore_unposed:
    """Restore the particles of one half that have no pose, by a method that needs none; the stack is written where there are any."""
    input:
        unpack(network_input),
        star="<results>/{dataset}/raw/half{half}/unposed.star",
        reference_map="<results>/{dataset}/pairs/half{half}/reference_map.mrc",
        noise_json="<results>/{dataset}/pairs/half{half}/noise.json",
    output:
        restored_star="<results>/{dataset}/restored.{method}/half{half}/unposed.star",
        evidence_csv="<results>/{dataset}/restored.{method}/half{half}/unposed_evidence.csv",
    log:
        "<logs>/restore_unposed/{dataset}_{method}_half{half}.log",
    benchmark:
        "<benchmarks>/restore_unposed/{dataset}_{method}_half{half}.tsv"
    conda:
        "../envs/network.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(memory_for_network("diffusion")),
        runtime=escalating(8 * HOUR),
        gpu=gpus,
    params:
        step=step_parameters("restore_unposed"),
        restored_stack=lambda wildcards: f"{CONFIGURATION.results}/{wildcards.dataset}/restored.{wildcards.method}/half{wildcards.half}/unposed.mrcs",
        code_version=code_version("restore_unposed"),
    script:
        "../scripts/restore_unposed.py"


rule restore_general:
    """Restore particles without poses, all together, by the weights that were trained on other proteins."""
    input:
        "<results>/{dataset}/normalized/preflight.json",
        star="<results>/{dataset}/normalized/particles.star",
    output:
        restored_stack="<results>/{dataset}/restored.{method}/particles.mrcs",
        deviation_stack="<results>/{dataset}/restored.{method}/deviation.mrcs",
        restored_star="<results>/{dataset}/restored.{method}/particles.star",
        figures="<results>/{dataset}/restored.{method}/restoration.json",
    log:
        "<logs>/restore_general/{dataset}_{method}.log",
    benchmark:
        "<benchmarks>/restore_general/{dataset}_{method}.tsv"
    wildcard_constraints:
        dataset=datasets_in_halves(False),
    conda:
        "../envs/network.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(2 * GIB),
        runtime=escalating(8 * HOUR),
        gpu=gpus,
    params:
        step=step_parameters("restore_general"),
        code_version=code_version("restore_general"),
    script:
        "../scripts/restore_general.py"


# Every rule is looked at for every file: those that no data set asks for are left out, which planning is the faster for.
if any_data_set(lambda settings: settings["restore"]["cross_fit"]):

    include: "folds.smk"
