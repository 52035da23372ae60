rule make_control_maps:
    """Change the maps of half 1, so that what is learned from them is wrong in a known way."""
    input:
        map="<results>/{dataset}/raw/half1/map.mrc",
        map_odd="<results>/{dataset}/raw/half1/map_odd.mrc",
        map_even="<results>/{dataset}/raw/half1/map_even.mrc",
    output:
        changed_map="<results>/{dataset}/control.{change}/half1/map.mrc",
        changed_map_odd="<results>/{dataset}/control.{change}/half1/map_odd.mrc",
        changed_map_even="<results>/{dataset}/control.{change}/half1/map_even.mrc",
        domain_json="<results>/{dataset}/control.{change}/half1/domain.json",
    log:
        "<logs>/make_control_maps/{dataset}_{change}.log",
    benchmark:
        "<benchmarks>/make_control_maps/{dataset}_{change}.tsv"
    conda:
        "../envs/network.yaml"
    threads: 1
    resources:
        mem_mb=escalating(memory_for_maps(copies=12)),
        runtime=escalating(30),
    params:
        step=step_parameters("make_control_maps"),
        change="{change}",
        code_version=code_version("make_control_maps"),
    script:
        "../scripts/make_control_maps.py"


use rule make_training_pairs as make_control_pairs with:
    input:
        star="<results>/{dataset}/raw/half{half}/particles.star",
        map="<results>/{dataset}/control.{change}/half{half}/map.mrc",
        map_odd="<results>/{dataset}/control.{change}/half{half}/map_odd.mrc",
        map_even="<results>/{dataset}/control.{change}/half{half}/map_even.mrc",
    output:
        pairs="<results>/{dataset}/control.{change}/half{half}/pairs.safetensors",
        reference_map="<results>/{dataset}/control.{change}/half{half}/reference_map.mrc",
        noise_json="<results>/{dataset}/control.{change}/half{half}/noise.json",
    log:
        "<logs>/make_control_pairs/{dataset}_{change}_half{half}.log",
    benchmark:
        "<benchmarks>/make_control_pairs/{dataset}_{change}_half{half}.tsv"


use rule train_diffusion as train_control_diffusion with:
    input:
        pairs="<results>/{dataset}/control.{change}/half{half}/pairs.safetensors",
    output:
        weights="<results>/{dataset}/control.{change}.{method}/half{half}/diffusion.safetensors",
        history="<results>/{dataset}/control.{change}.{method}/half{half}/diffusion_history.csv",
    log:
        "<logs>/train_control_diffusion/{dataset}_{change}_{method}_half{half}.log",
    benchmark:
        "<benchmarks>/train_control_diffusion/{dataset}_{change}_{method}_half{half}.tsv"
    params:
        step=step_parameters("train_diffusion"),
        work_dir=partial(control_work_folder, step="train_diffusion"),
        code_version=code_version("train_diffusion"),


use rule train_postprocess as train_control_postprocess with:
    input:
        pairs="<results>/{dataset}/control.{change}/half{half}/pairs.safetensors",
        diffusion_weights="<results>/{dataset}/control.{change}.{method}/half{half}/diffusion.safetensors",
    output:
        weights="<results>/{dataset}/control.{change}.{method}/half{half}/postprocess.safetensors",
        history="<results>/{dataset}/control.{change}.{method}/half{half}/postprocess_history.csv",
    log:
        "<logs>/train_control_postprocess/{dataset}_{change}_{method}_half{half}.log",
    benchmark:
        "<benchmarks>/train_control_postprocess/{dataset}_{change}_{method}_half{half}.tsv"
    params:
        step=step_parameters("train_postprocess"),
        work_dir=partial(control_work_folder, step="train_postprocess"),
        code_version=code_version("train_postprocess"),


rule control_changed_map:
    """Restore particles of half 1 by what was learned from a changed map, and see whose structure comes out."""
    input:
        unpack(changed_networks),
        star="<results>/{dataset}/raw/half1/particles.star",
        other_half_map="<results>/{dataset}/raw/half2/map.mrc",
        domain_json="<results>/{dataset}/control.{change}/half1/domain.json",
        reference_map="<results>/{dataset}/control.{change}/half1/reference_map.mrc",
        noise_json="<results>/{dataset}/control.{change}/half1/noise.json",
    output:
        control="<results>/{dataset}/control.{change}.{method}/control.json",
        picture=report(
            "<results>/{dataset}/control.{change}.{method}/control.svg",
            caption="../report/control.rst",
            category="{dataset}",
        ),
    log:
        "<logs>/control_changed_map/{dataset}_{change}_{method}.log",
    benchmark:
        "<benchmarks>/control_changed_map/{dataset}_{change}_{method}.tsv"
    conda:
        "../envs/network.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(memory_for_network("diffusion")),
        runtime=escalating(4 * HOUR),
        gpu=gpus,
    params:
        step=step_parameters("control_changed_map", half=1),
        code_version=code_version("control_changed_map"),
    script:
        "../scripts/control_changed_map.py"


rule control_junk:
    """Mix particles with structured junk and see how much the evidence of half 1 accepts."""
    input:
        unpack(partial(half_networks, half=1)),
        star="<results>/{dataset}/raw/half1/particles.star",
        reference_map="<results>/{dataset}/pairs/half1/reference_map.mrc",
        noise_json="<results>/{dataset}/pairs/half1/noise.json",
    output:
        control="<results>/{dataset}/control.junk.{method}/control.json",
        picture=report(
            "<results>/{dataset}/control.junk.{method}/control.svg",
            caption="../report/control.rst",
            category="{dataset}",
        ),
    log:
        "<logs>/control_junk/{dataset}_{method}.log",
    benchmark:
        "<benchmarks>/control_junk/{dataset}_{method}.tsv"
    conda:
        "../envs/network.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(memory_for_network("diffusion")),
        runtime=escalating(4 * HOUR),
        gpu=gpus,
    params:
        step=step_parameters("control_junk", half=1),
        code_version=code_version("control_junk"),
    script:
        "../scripts/control_junk.py"


rule control_particle_number:
    """Reconstruct from fewer and fewer particles, raw and restored, and see where half-maps cross."""
    input:
        half1_star="<results>/{dataset}/raw/half1/particles.star",
        half2_star="<results>/{dataset}/raw/half2/particles.star",
        restored1_star="<results>/{dataset}/restored.{method}/half1/particles.star",
        restored2_star="<results>/{dataset}/restored.{method}/half2/particles.star",
    output:
        control="<results>/{dataset}/control.particle_number.{method}/control.json",
        picture=report(
            "<results>/{dataset}/control.particle_number.{method}/control.svg",
            caption="../report/control.rst",
            category="{dataset}",
        ),
    log:
        "<logs>/control_particle_number/{dataset}_{method}.log",
    benchmark:
        "<benchmarks>/control_particle_number/{dataset}_{method}.tsv"
    conda:
        "../envs/network.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(memory_for_maps(copies=40)),
        runtime=escalating(4 * HOUR),
    params:
        step=step_parameters("control_particle_number"),
        code_version=code_version("control_particle_number"),
    script:
        "../scripts/control_particle_number.py"
