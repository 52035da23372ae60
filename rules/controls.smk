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
        control="<results>/{dataset}/control.noise_only.{method}/control.json",
        picture=report(
            "<results>/{dataset}/control.noise_only.{method}/control.svg",
            caption="../report/control.rst",
            category="{dataset}",
        ),
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


rule control_phase_randomised:
    """Restore particles of half 1 with random phases beyond a shell and see from where on their map does not care."""
    input:
        unpack(partial(half_networks, half=1)),
        star="<results>/{dataset}/raw/half1/particles.star",
        restored_star="<results>/{dataset}/restored.{method}/half1/particles.star",
        restored_fsc="<results>/{dataset}/restored.{method}/fsc.json",
        reference_map="<results>/{dataset}/pairs/half1/reference_map.mrc",
        noise_json="<results>/{dataset}/pairs/half1/noise.json",
    output:
        control="<results>/{dataset}/control.phase_randomised.{method}/control.json",
        picture=report(
            "<results>/{dataset}/control.phase_randomised.{method}/control.svg",
            caption="../report/control.rst",
            category="{dataset}",
        ),
    log:
        "<logs>/control_phase_randomised/{dataset}_{method}.log",
    benchmark:
        "<benchmarks>/control_phase_randomised/{dataset}_{method}.tsv"
    conda:
        "../envs/network.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(memory_for_network("diffusion")),
        runtime=escalating(4 * HOUR),
        gpu=gpus,
    params:
        step=step_parameters("control_phase_randomised", half=1),
        code_version=code_version("control_phase_randomised"),
    script:
        "../scripts/control_phase_randomised.py"


rule control_shared_network:
    """Restore particles of half 2 with half 1's networks: what the half-map FSC would then have claimed."""
    input:
        unpack(simulated_truth_map),
        unpack(partial(half_networks, half=1, suffix="_1")),
        half1_star="<results>/{dataset}/raw/half1/particles.star",
        half2_star="<results>/{dataset}/raw/half2/particles.star",
        restored1_star="<results>/{dataset}/restored.{method}/half1/particles.star",
        restored2_star="<results>/{dataset}/restored.{method}/half2/particles.star",
        reference_map_1="<results>/{dataset}/pairs/half1/reference_map.mrc",
        noise_json_1="<results>/{dataset}/pairs/half1/noise.json",
    output:
        control="<results>/{dataset}/control.shared_network.{method}/control.json",
        picture=report(
            "<results>/{dataset}/control.shared_network.{method}/control.svg",
            caption="../report/control.rst",
            category="{dataset}",
        ),
    log:
        "<logs>/control_shared_network/{dataset}_{method}.log",
    benchmark:
        "<benchmarks>/control_shared_network/{dataset}_{method}.tsv"
    conda:
        "../envs/network.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(memory_for_network("diffusion")),
        runtime=escalating(4 * HOUR),
        gpu=gpus,
    params:
        step=step_parameters("control_shared_network", half=1),
        code_version=code_version("control_shared_network"),
    script:
        "../scripts/control_shared_network.py"


rule control_raw:
    """Hold the restored half-maps of a method to what the raw ones show."""
    input:
        raw_fsc="<results>/{dataset}/raw/fsc.json",
        restored_fsc="<results>/{dataset}/restored.{method}/fsc.json",
        raw_curve="<results>/{dataset}/raw/fsc.csv",
        restored_curve="<results>/{dataset}/restored.{method}/fsc.csv",
    output:
        control="<results>/{dataset}/control.raw.{method}/control.json",
        picture=report(
            "<results>/{dataset}/control.raw.{method}/control.svg",
            caption="../report/control.rst",
            category="{dataset}",
        ),
    log:
        "<logs>/control_raw/{dataset}_{method}.log",
    benchmark:
        "<benchmarks>/control_raw/{dataset}_{method}.tsv"
    conda:
        "../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=escalating(1 * GIB),
        runtime=escalating(10),
    params:
        step=step_parameters("control_raw"),
        code_version=code_version("control_raw"),
    script:
        "../scripts/control_raw.py"


# Every rule is looked at for every file: those that no data set asks for are left out, which planning is the faster for.
if any_data_set(lambda settings: settings["controls"]["level"] == "full"):

    include: "controls_full.smk"
