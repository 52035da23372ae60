rule control_noise_only:
    """Put noise through a method at the particles' poses and see that none is taken for a particle."""
    input:
        unpack(both_networks),
        half1_star="<results>/{dataset}/raw/half1/particles.star",
        half2_star="<results>/{dataset}/raw/half2/particles.star",
        reference_map_1="<results>/{dataset}/pairs/half1/reference_map.mrc",
        reference_map_2="<results>/{dataset}/pairs/half2/reference_map.mrc",
        noise_json_1="<results>/{dataset}/pairs/half1/noise.json",
        noise_json_2="<results>/{dataset}/pairs/half2/noise.json",
    output:
        control="<results>/{dataset}/controls/{method}.json",
    log:
        "<logs>/control_noise_only/{dataset}_{method}.log",
    benchmark:
        "<benchmarks>/control_noise_only/{dataset}_{method}.tsv"
    conda:
        "../envs/network.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(memory_for_network("diffusion")),
        runtime=escalating(4 * HOUR),
        gpu=gpus,
    params:
        step=step_parameters("control_noise_only"),
        code_version=code_version("control_noise_only"),
    script:
        "../scripts/control_noise_only.py"
