"""Poses that are found here: each half by itself, then both in one frame, then on, if they found one map."""


rule split_unposed:
    """Split into half-sets, whether particles have poses or not; after the preflight."""
    input:
        "<results>/{dataset}/normalized/preflight.json",
        star="<results>/{dataset}/normalized/particles.star",
    output:
        half1_star="<results>/{dataset}/split/half1/particles.star",
        half2_star="<results>/{dataset}/split/half2/particles.star",
        unposed1_star="<results>/{dataset}/raw/half1/unposed.star",
        unposed2_star="<results>/{dataset}/raw/half2/unposed.star",
    log:
        "<logs>/split_unposed/{dataset}.log",
    benchmark:
        "<benchmarks>/split_unposed/{dataset}.tsv"
    wildcard_constraints:
        dataset=datasets_with_poses(found=True),
    conda:
        "../envs/prepare.yaml"
    threads: 1
    resources:
        mem_mb=escalating(2 * GIB),
        runtime=escalating(30),
    params:
        step=step_parameters("split_unposed"),
        code_version=code_version("split_unposed"),
    script:
        "../scripts/split_unposed.py"


rule find_poses:
    """Find the poses of one half from its own particles."""
    input:
        star="<results>/{dataset}/split/half{half}/particles.star",
    output:
        found_star="<results>/{dataset}/found/half{half}/own_frame.star",
        found_map="<results>/{dataset}/found/half{half}/own_frame.mrc",
        class_averages="<results>/{dataset}/found/half{half}/classes.mrcs",
        figures_json="<results>/{dataset}/found/half{half}/figures.json",
    log:
        "<logs>/find_poses/{dataset}_half{half}.log",
    benchmark:
        "<benchmarks>/find_poses/{dataset}_half{half}.tsv"
    conda:
        "../envs/reconstruct.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(6 * GIB),
        runtime=escalating(12 * HOUR),
        gpu=gpus,
    params:
        step=step_parameters("find_poses"),
        work_dir=lambda wildcards: f"{work_folder(wildcards, 'find_poses')}/half{wildcards.half}",
        code_version=code_version("find_poses"),
    script:
        "../scripts/find_poses.py"


rule judge_poses:
    """Lay the map of half 2 onto that of half 1, of either hand, and say whether they are one map."""
    input:
        unpack(frame_map),
        half1_star="<results>/{dataset}/found/half1/own_frame.star",
        half2_star="<results>/{dataset}/found/half2/own_frame.star",
        half1_map="<results>/{dataset}/found/half1/own_frame.mrc",
        half2_map="<results>/{dataset}/found/half2/own_frame.mrc",
        half1_figures="<results>/{dataset}/found/half1/figures.json",
        half2_figures="<results>/{dataset}/found/half2/figures.json",
    output:
        placed1_star="<results>/{dataset}/found/half1/particles.star",
        placed2_star="<results>/{dataset}/found/half2/particles.star",
        placed1_map="<results>/{dataset}/found/half1/map.mrc",
        placed2_map="<results>/{dataset}/found/half2/map.mrc",
        verdict_json="<results>/{dataset}/found/verdict.json",
    log:
        "<logs>/judge_poses/{dataset}.log",
    benchmark:
        "<benchmarks>/judge_poses/{dataset}.tsv"
    conda:
        "../envs/reconstruct.yaml"
    threads: 1
    resources:
        mem_mb=escalating(memory_for_maps(copies=24)),
        runtime=escalating(30),
    params:
        step=step_parameters("judge_poses"),
        code_version=code_version("judge_poses"),
    script:
        "../scripts/judge_poses.py"


rule adopt_poses:
    """Hand the poses found on, if the two halves found one map; otherwise the data set's run ends here, without a resolution."""
    input:
        verdict_json="<results>/{dataset}/found/verdict.json",
        placed1_star="<results>/{dataset}/found/half1/particles.star",
        placed2_star="<results>/{dataset}/found/half2/particles.star",
        source_star="<results>/{dataset}/normalized/particles.star",
    output:
        half1_star="<results>/{dataset}/raw/half1/particles.star",
        half2_star="<results>/{dataset}/raw/half2/particles.star",
        joined_star="<results>/{dataset}/raw/particles.star",
        joined_cs="<results>/{dataset}/raw/particles.cs",
    log:
        "<logs>/adopt_poses/{dataset}.log",
    benchmark:
        "<benchmarks>/adopt_poses/{dataset}.tsv"
    wildcard_constraints:
        dataset=datasets_with_poses(found=True),
    conda:
        "../envs/network.yaml"
    threads: 1
    resources:
        mem_mb=escalating(2 * GIB),
        runtime=escalating(15),
    params:
        step=step_parameters("adopt_poses"),
        code_version=code_version("adopt_poses"),
    script:
        "../scripts/adopt_poses.py"
