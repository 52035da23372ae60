rule reconstruct_map:
    """Reconstruct one half of one stack, whole and from its odd and even particles."""
    input:
        star="<results>/{dataset}/{stack}/half{half}/particles.star",
    output:
        map="<results>/{dataset}/{stack}/half{half}/map.mrc",
        map_odd="<results>/{dataset}/{stack}/half{half}/map_odd.mrc",
        map_even="<results>/{dataset}/{stack}/half{half}/map_even.mrc",
    log:
        "<logs>/reconstruct_map/{dataset}_{stack}_half{half}.log",
    benchmark:
        "<benchmarks>/reconstruct_map/{dataset}_{stack}_half{half}.tsv"
    conda:
        "../envs/reconstruct.yaml"
    threads: compute_threads
    resources:
        mem_mb=memory_for_maps(copies=40),
        runtime="4h",
    params:
        step=step_parameters("reconstruct_map"),
        code_version=code_version("reconstruct_map"),
    script:
        "../scripts/reconstruct_map.py"


rule compute_fsc:
    """Correlate the two half-maps of one stack of a data set."""
    input:
        half_map_1="<results>/{dataset}/{stack}/half1/map.mrc",
        half_map_2="<results>/{dataset}/{stack}/half2/map.mrc",
    output:
        curve="<results>/{dataset}/{stack}/fsc.csv",
        plot=report(
            "<results>/{dataset}/{stack}/fsc.svg",
            caption="../report/fsc.rst",
            category="{dataset}",
        ),
        figures="<results>/{dataset}/{stack}/fsc.json",
    log:
        "<logs>/compute_fsc/{dataset}_{stack}.log",
    benchmark:
        "<benchmarks>/compute_fsc/{dataset}_{stack}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_for_maps(copies=12),
        runtime="15m",
    params:
        step=step_parameters("compute_fsc"),
        code_version=code_version("compute_fsc"),
    script:
        "../scripts/compute_fsc.py"


rule compute_truth_fsc:
    """Correlate the mean of two half-maps with the true map of a simulation, or with a published map."""
    input:
        half_map_1="<results>/{dataset}/{stack}/half1/map.mrc",
        half_map_2="<results>/{dataset}/{stack}/half2/map.mrc",
        truth_map=true_map,
    output:
        curve="<results>/{dataset}/{stack}/fsc_truth.csv",
        plot=report(
            "<results>/{dataset}/{stack}/fsc_truth.svg",
            caption="../report/fsc_truth.rst",
            category="{dataset}",
        ),
        figures="<results>/{dataset}/{stack}/fsc_truth.json",
    log:
        "<logs>/compute_truth_fsc/{dataset}_{stack}.log",
    benchmark:
        "<benchmarks>/compute_truth_fsc/{dataset}_{stack}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=memory_for_maps(copies=12),
        runtime="15m",
    params:
        step=step_parameters("compute_truth_fsc"),
        code_version=code_version("compute_truth_fsc"),
    script:
        "../scripts/compute_truth_fsc.py"
