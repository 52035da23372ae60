rule make_training_pairs:
    """Make the training pairs of one half from that half's own map and noise."""
    input:
        star="<results>/{dataset}/raw/half{half}/particles.star",
        map="<results>/{dataset}/raw/half{half}/map.mrc",
        map_odd="<results>/{dataset}/raw/half{half}/map_odd.mrc",
        map_even="<results>/{dataset}/raw/half{half}/map_even.mrc",
    output:
        pairs="<results>/{dataset}/pairs/half{half}/pairs.safetensors",
        reference_map="<results>/{dataset}/pairs/half{half}/reference_map.mrc",
        noise_json="<results>/{dataset}/pairs/half{half}/noise.json",
    log:
        "<logs>/make_training_pairs/{dataset}_half{half}.log",
    benchmark:
        "<benchmarks>/make_training_pairs/{dataset}_half{half}.tsv"
    conda:
        "../envs/network.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(3 * GIB),
        runtime=escalating(4 * HOUR),
    params:
        step=step_parameters("make_training_pairs"),
        code_version=code_version("make_training_pairs"),
    script:
        "../scripts/make_training_pairs.py"


rule train_diffusion:
    """Train the diffusion network of one method on one half; stops before its time is up and goes on when started again."""
    input:
        pairs="<results>/{dataset}/pairs/half{half}/pairs.safetensors",
    output:
        weights="<results>/{dataset}/models/{method}/half{half}/diffusion.safetensors",
        history="<results>/{dataset}/models/{method}/half{half}/diffusion_history.csv",
    log:
        "<logs>/train_diffusion/{dataset}_{method}_half{half}.log",
    benchmark:
        "<benchmarks>/train_diffusion/{dataset}_{method}_half{half}.tsv"
    retries: TRAINING_RETRIES
    conda:
        "../envs/network.yaml"
    threads: training_threads
    resources:
        mem_mb=escalating(per_node(memory_for_network("diffusion")), most=2),
        runtime="24h",
        gpu=training_gpus,
        processes=compute_processes,
        nodes=compute_nodes,
        mpi=across_nodes(lambda wildcards: "srun"),
        tasks=across_nodes(compute_processes),
        tasks_per_gpu=across_nodes(lambda wildcards: 0),  # or the plugin takes `tasks` for it
    params:
        step=step_parameters("train_diffusion"),
        work_dir=partial(work_folder, step="train_diffusion"),
        code_version=code_version("train_diffusion"),
    script:
        "../scripts/train_diffusion.py"


rule train_postprocess:
    """Train the post-processing network of one method on one half, on what its diffusion network puts out."""
    input:
        pairs="<results>/{dataset}/pairs/half{half}/pairs.safetensors",
        diffusion_weights="<results>/{dataset}/models/{method}/half{half}/diffusion.safetensors",
    output:
        weights="<results>/{dataset}/models/{method}/half{half}/postprocess.safetensors",
        history="<results>/{dataset}/models/{method}/half{half}/postprocess_history.csv",
    log:
        "<logs>/train_postprocess/{dataset}_{method}_half{half}.log",
    benchmark:
        "<benchmarks>/train_postprocess/{dataset}_{method}_half{half}.tsv"
    retries: TRAINING_RETRIES
    conda:
        "../envs/network.yaml"
    threads: training_threads
    resources:
        mem_mb=escalating(per_node(memory_for_network("postprocess")), most=2),
        runtime="24h",
        gpu=training_gpus,
        processes=compute_processes,
        nodes=compute_nodes,
        mpi=across_nodes(lambda wildcards: "srun"),
        tasks=across_nodes(compute_processes),
        tasks_per_gpu=across_nodes(lambda wildcards: 0),  # or the plugin takes `tasks` for it
    params:
        step=step_parameters("train_postprocess"),
        work_dir=partial(work_folder, step="train_postprocess"),
        code_version=code_version("train_postprocess"),
    script:
        "../scripts/train_postprocess.py"
