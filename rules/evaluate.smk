rule evaluate_restoration:
    """Score a method on held-out particles against the truth, where there is one, and choose the montage."""
    input:
        unpack(truth_input),
        normalized_star="<results>/{dataset}/normalized/particles.star",
        statistics_csv="<results>/{dataset}/normalized/statistics.csv",
        half1_star="<results>/{dataset}/raw/half1/particles.star",
        half2_star="<results>/{dataset}/raw/half2/particles.star",
        restored1_star="<results>/{dataset}/restored.{method}/half1/particles.star",
        restored2_star="<results>/{dataset}/restored.{method}/half2/particles.star",
        evidence1="<results>/{dataset}/restored.{method}/half1/evidence.csv",
        evidence2="<results>/{dataset}/restored.{method}/half2/evidence.csv",
        noise1_json="<results>/{dataset}/pairs/half1/noise.json",
        noise2_json="<results>/{dataset}/pairs/half2/noise.json",
    output:
        evaluation="<results>/{dataset}/evaluation/{method}.json",
        montage="<results>/{dataset}/evaluation/{method}_montage.npz",
    log:
        "<logs>/evaluate_restoration/{dataset}_{method}.log",
    benchmark:
        "<benchmarks>/evaluate_restoration/{dataset}_{method}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(memory_for_images(images=128, copies=40)),
        runtime=escalating(1 * HOUR),
    params:
        step=step_parameters("evaluate_restoration"),
        deviation1=partial(deviation_stack, half=1),
        deviation2=partial(deviation_stack, half=2),
        code_version=code_version("evaluate_restoration"),
    script:
        "../scripts/evaluate_restoration.py"
