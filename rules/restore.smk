rule restore_particles:
    """Restore the particles of one half with that half's reference and networks."""
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
    conda:
        "../envs/network.yaml"
    threads: compute_threads
    resources:
        mem_mb=memory_for_network("diffusion"),
        runtime="8h",
        gpu=gpus,
    params:
        step=step_parameters("restore_particles"),
        deviation_stack=deviation_stack,
        code_version=code_version("restore_particles"),
    script:
        "../scripts/restore_particles.py"


rule join_particles:
    """Join the restored halves in the order of the normalized particles."""
    input:
        half1_star="<results>/{dataset}/restored.{method}/half1/particles.star",
        half2_star="<results>/{dataset}/restored.{method}/half2/particles.star",
        source_star="<results>/{dataset}/normalized/particles.star",
    output:
        joined_star="<results>/{dataset}/restored.{method}/particles.star",
    log:
        "<logs>/join_particles/{dataset}_{method}.log",
    benchmark:
        "<benchmarks>/join_particles/{dataset}_{method}.tsv"
    conda:
        "../envs/network.yaml"
    threads: 1
    resources:
        mem_mb=2 * GIB,
        runtime="30m",
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
        mem_mb=memory_for_network("diffusion"),
        runtime="8h",
        gpu=gpus,
    params:
        step=step_parameters("restore_unposed"),
        restored_stack=lambda wildcards: f"{CONFIGURATION.results}/{wildcards.dataset}/restored.{wildcards.method}/half{wildcards.half}/unposed.mrcs",
        code_version=code_version("restore_unposed"),
    script:
        "../scripts/restore_unposed.py"
