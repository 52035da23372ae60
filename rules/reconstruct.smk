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
    wildcard_constraints:
        stack=r"raw|restored\.[a-z0-9+-]+|fused\.mean-pose",
    conda:
        "../envs/reconstruct.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(memory_for_maps(copies=MAP_COPIES)),
        runtime=escalating(4 * HOUR),
    params:
        step=step_parameters("reconstruct_map"),
        code_version=code_version("reconstruct_map"),
    script:
        "../scripts/reconstruct_map.py"


rule check_backend:
    """Map half 1 with another backend, where its program is found, and see that both maps agree."""
    input:
        star="<results>/{dataset}/raw/half1/particles.star",
        map="<results>/{dataset}/raw/half1/map.mrc",
        map_odd="<results>/{dataset}/raw/half1/map_odd.mrc",
        map_even="<results>/{dataset}/raw/half1/map_even.mrc",
    output:
        agreement="<results>/{dataset}/raw/backend_check.json",
    log:
        "<logs>/check_backend/{dataset}.log",
    benchmark:
        "<benchmarks>/check_backend/{dataset}.tsv"
    conda:
        "../envs/reconstruct.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(memory_for_maps(copies=MAP_COPIES)),
        runtime=escalating(4 * HOUR),
    params:
        step=step_parameters("check_backend"),
        code_version=code_version("check_backend"),
    script:
        "../scripts/check_backend.py"


rule fuse_map:
    """Map the raw particles of one half at draws from their pose posterior, and write their mean poses."""
    input:
        star="<results>/{dataset}/raw/half{half}/particles.star",
        raw_map_odd="<results>/{dataset}/raw/half{half}/map_odd.mrc",
        raw_map_even="<results>/{dataset}/raw/half{half}/map_even.mrc",
        reference_map="<results>/{dataset}/pairs/half{half}/reference_map.mrc",
        noise_json="<results>/{dataset}/pairs/half{half}/noise.json",
    output:
        map="<results>/{dataset}/fused.marginal/half{half}/map.mrc",
        map_odd="<results>/{dataset}/fused.marginal/half{half}/map_odd.mrc",
        map_even="<results>/{dataset}/fused.marginal/half{half}/map_even.mrc",
        figures="<results>/{dataset}/fused.marginal/half{half}/fusion.json",
        mean_pose_star="<results>/{dataset}/fused.mean-pose/half{half}/particles.star",
    log:
        "<logs>/fuse_map/{dataset}_half{half}.log",
    benchmark:
        "<benchmarks>/fuse_map/{dataset}_half{half}.tsv"
    conda:
        "../envs/reconstruct.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(memory_for_maps(copies=MAP_COPIES)),
        runtime=escalating(8 * HOUR),
    params:
        step=step_parameters("fuse_map"),
        code_version=code_version("fuse_map"),
    script:
        "../scripts/fuse_map.py"


rule make_fsc_mask:
    """Make the mask of a data set's curves, of the raw half-maps; one for every stack, so that curves can be compared."""
    input:
        half_map_1="<results>/{dataset}/raw/half1/map.mrc",
        half_map_2="<results>/{dataset}/raw/half2/map.mrc",
    output:
        mask="<results>/{dataset}/raw/fsc_mask.mrc",
        figures="<results>/{dataset}/raw/fsc_mask.json",
    log:
        "<logs>/make_fsc_mask/{dataset}.log",
    benchmark:
        "<benchmarks>/make_fsc_mask/{dataset}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=escalating(memory_for_maps(copies=24)),
        runtime=escalating(30),
    params:
        step=step_parameters("make_fsc_mask"),
        code_version=code_version("make_fsc_mask"),
    script:
        "../scripts/make_fsc_mask.py"


rule compute_fsc:
    """Correlate the two half-maps of one stack of a data set."""
    input:
        unpack(fsc_mask),
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
        star="<results>/{dataset}/{stack}/fsc.star",
        xml="<results>/{dataset}/{stack}/fsc_emdb.xml",
        picture="<results>/{dataset}/{stack}/fsc.png",
    log:
        "<logs>/compute_fsc/{dataset}_{stack}.log",
    benchmark:
        "<benchmarks>/compute_fsc/{dataset}_{stack}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=escalating(memory_for_maps(copies=24)),
        runtime=escalating(1 * HOUR),
    params:
        step=step_parameters("compute_fsc"),
        code_version=code_version("compute_fsc"),
    script:
        "../scripts/compute_fsc.py"


rule compute_truth_fsc:
    """Correlate the mean of two half-maps with the true map of a simulation, or with a published map, and check that they lie on each other."""
    input:
        unpack(fsc_mask),
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
        picture="<results>/{dataset}/{stack}/fsc_truth.png",
    log:
        "<logs>/compute_truth_fsc/{dataset}_{stack}.log",
    benchmark:
        "<benchmarks>/compute_truth_fsc/{dataset}_{stack}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=escalating(memory_for_maps(copies=24)),
        runtime=escalating(30),
    params:
        step=step_parameters("compute_truth_fsc"),
        code_version=code_version("compute_truth_fsc"),
    script:
        "../scripts/compute_truth_fsc.py"


rule sharpen_map:
    """Sharpen the mean of the raw half-maps; restored particles have no sharpened map."""
    input:
        half_map_1="<results>/{dataset}/raw/half1/map.mrc",
        half_map_2="<results>/{dataset}/raw/half2/map.mrc",
        curve="<results>/{dataset}/raw/fsc.csv",
        figures="<results>/{dataset}/raw/fsc.json",
    output:
        map="<results>/{dataset}/raw/sharpened.mrc",
        guinier="<results>/{dataset}/raw/guinier.csv",
        plot=report(
            "<results>/{dataset}/raw/guinier.svg",
            caption="../report/guinier.rst",
            category="{dataset}",
        ),
        star="<results>/{dataset}/raw/guinier.star",
        sharpening="<results>/{dataset}/raw/sharpened.json",
    log:
        "<logs>/sharpen_map/{dataset}.log",
    benchmark:
        "<benchmarks>/sharpen_map/{dataset}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=escalating(memory_for_maps(copies=16)),
        runtime=escalating(30),
    params:
        step=step_parameters("sharpen_map"),
        code_version=code_version("sharpen_map"),
    script:
        "../scripts/sharpen_map.py"


rule map_local_resolution:
    """Map the local resolution of the raw half-maps."""
    input:
        unpack(fsc_mask),
        half_map_1="<results>/{dataset}/raw/half1/map.mrc",
        half_map_2="<results>/{dataset}/raw/half2/map.mrc",
    output:
        map="<results>/{dataset}/raw/local_resolution.mrc",
        figures="<results>/{dataset}/raw/local_resolution.json",
    log:
        "<logs>/map_local_resolution/{dataset}.log",
    benchmark:
        "<benchmarks>/map_local_resolution/{dataset}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(memory_for_maps(copies=16)),
        runtime=escalating(4 * HOUR),
    params:
        step=step_parameters("map_local_resolution"),
        code_version=code_version("map_local_resolution"),
    script:
        "../scripts/map_local_resolution.py"
