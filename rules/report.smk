rule write_summary:
    """Write the flat summary of a data set, of its first method and of all."""
    input:
        unpack(partial(true_curves, form="json")),
        unpack(partial(fused_curves, form="json")),
        unpack(backend_check),
        raw_fsc="<results>/{dataset}/raw/fsc.json",
        restored_fscs=per_method("<results>/{dataset}/restored.{method}/fsc.json"),
        evaluations=per_method("<results>/{dataset}/evaluation/{method}.json"),
        controls=control_results,
    output:
        summary="<results>/{dataset}/summary.json",
        methods="<results>/{dataset}/methods.json",
    log:
        "<logs>/write_summary/{dataset}.log",
    benchmark:
        "<benchmarks>/write_summary/{dataset}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=escalating(1 * GIB),
        runtime=escalating(10),
    params:
        step=step_parameters("write_summary"),
        dataset="{dataset}",
        benchmarks=step_benchmarks,
        code_version=code_version("write_summary"),
    script:
        "../scripts/write_summary.py"


rule write_report:
    """Write the report of a data set, one HTML file that needs nothing else."""
    input:
        unpack(partial(true_curves, form="csv")),
        unpack(partial(fused_curves, form="csv")),
        unpack(report_fused_maps),
        unpack(report_truth_map),
        unpack(report_map_figures),
        unpack(report_poses_verdict),
        summary="<results>/{dataset}/summary.json",
        methods="<results>/{dataset}/methods.json",
        evaluations=per_method("<results>/{dataset}/evaluation/{method}.json"),
        montages=per_method("<results>/{dataset}/evaluation/{method}_montage.npz"),
        controls=control_results,
        raw_fsc="<results>/{dataset}/raw/fsc.csv",
        restored_fscs=per_method("<results>/{dataset}/restored.{method}/fsc.csv"),
        diffusion_histories=per_network("diffusion"),
        postprocess_histories=per_network("postprocess"),
        raw_maps=expand(
            "<results>/{{dataset}}/raw/half{half}/map.mrc",
            half=(1, 2),
        ),
        restored_maps=per_half_of_first_method("map.mrc"),
        half_stars=expand(
            "<results>/{{dataset}}/raw/half{half}/particles.star",
            half=(1, 2),
        ),
        restored_half_stars=per_half_of_first_method("particles.star"),
        reference_maps=expand(
            "<results>/{{dataset}}/pairs/half{half}/reference_map.mrc",
            half=(1, 2),
        ),
        noise_jsons=expand(
            "<results>/{{dataset}}/pairs/half{half}/noise.json",
            half=(1, 2),
        ),
        restored_star=first_method_table,
    output:
        report=report(
            "<results>/{dataset}/report.html",
            caption="../report/report.rst",
            category="{dataset}",
        ),
    log:
        "<logs>/write_report/{dataset}.log",
    benchmark:
        "<benchmarks>/write_report/{dataset}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=escalating(memory_for_maps(copies=12)),
        runtime=escalating(15),
    params:
        step=step_parameters("write_report"),
        benchmarks=step_benchmarks,
        provenance=step_provenance,
        code_version=code_version("write_report"),
    script:
        "../scripts/write_report.py"


rule summarize_datasets:
    """Write the table of all data sets of this run."""
    input:
        all_targets(),
    output:
        table="<results>/datasets.tsv",
        summary="<results>/datasets.json",
        page="<results>/datasets.html",
    log:
        "<logs>/summarize_datasets/all.log",
    benchmark:
        "<benchmarks>/summarize_datasets/all.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=escalating(1 * GIB),
        runtime=escalating(10),
    params:
        run=bulk_run(),
        code_version=code_version("summarize_datasets"),
    script:
        "../scripts/summarize_datasets.py"
