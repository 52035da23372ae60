rule simulate_micrographs:
    """Simulate micrographs, picks, perturbed poses and the truth; for the demo and the benchmark."""
    output:
        micrographs_star="<results>/{dataset}/simulated/micrographs.star",
        coordinates_dir=directory("<results>/{dataset}/simulated/coordinates"),
        particles_star="<results>/{dataset}/simulated/particles.star",
        truth_star="<results>/{dataset}/truth/truth.star",
        truth_stack="<results>/{dataset}/truth/truth.mrcs",
        truth_map="<results>/{dataset}/truth/truth_map.mrc",
        noise_stack="<results>/{dataset}/truth/noise.mrcs",
    log:
        "<logs>/simulate_micrographs/{dataset}.log",
    benchmark:
        "<benchmarks>/simulate_micrographs/{dataset}.tsv"
    conda:
        "../envs/prepare.yaml"
    threads: 1
    resources:
        mem_mb=escalating(4 * GIB),
        runtime=escalating(30),
    params:
        step=step_parameters("simulate_micrographs"),
        code_version=code_version("simulate_micrographs"),
    script:
        "../scripts/simulate_micrographs.py"


rule extract_particles:
    """Cut the picks out of their micrographs and rescale them."""
    input:
        unpack(picked_input),
    output:
        stack=intermediate("<results>/{dataset}/extracted/particles.mrcs"),
        star="<results>/{dataset}/extracted/particles.star",
        rejects_star="<results>/{dataset}/extracted/rejects.star",
    log:
        "<logs>/extract_particles/{dataset}.log",
    benchmark:
        "<benchmarks>/extract_particles/{dataset}.tsv"
    conda:
        "../envs/prepare.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(4 * GIB),
        runtime=escalating(2 * HOUR),
    params:
        step=step_parameters("extract_particles"),
        picks=picks,
        picks_version=picks_version,
        named_files=partial(named_files, step="extract_particles"),
        work_dir=partial(work_folder, step="extract_particles"),
        code_version=code_version("extract_particles"),
    script:
        "../scripts/extract_particles.py"


rule import_particles:
    """Take in a particle stack by its RELION table or cryoSPARC .cs files."""
    input:
        particles=imported_particles,
    output:
        star="<results>/{dataset}/imported/particles.star",
    log:
        "<logs>/import_particles/{dataset}.log",
    benchmark:
        "<benchmarks>/import_particles/{dataset}.tsv"
    conda:
        "../envs/prepare.yaml"
    threads: 1
    resources:
        mem_mb=escalating(2 * GIB),
        runtime=escalating(30),
    params:
        step=step_parameters("import_particles"),
        named_files=partial(named_files, step="import_particles"),
        code_version=code_version("import_particles"),
    script:
        "../scripts/import_particles.py"


rule normalize_particles:
    """Bring every particle to background mean 0 and sigma 1."""
    input:
        star=unprocessed_particles,
    output:
        normalized_stack="<results>/{dataset}/normalized/particles.mrcs",
        normalized_star="<results>/{dataset}/normalized/particles.star",
        normalized_cs="<results>/{dataset}/normalized/particles.cs",
        statistics_csv="<results>/{dataset}/normalized/statistics.csv",
        rejects_star="<results>/{dataset}/normalized/rejects.star",
        noise_spectra="<results>/{dataset}/normalized/noise_spectra.csv",
    log:
        "<logs>/normalize_particles/{dataset}.log",
    benchmark:
        "<benchmarks>/normalize_particles/{dataset}.tsv"
    conda:
        "../envs/prepare.yaml"
    threads: compute_threads
    resources:
        mem_mb=escalating(memory_for_images(images=64, copies=12)),
        runtime=escalating(2 * HOUR),
    params:
        step=step_parameters("normalize_particles"),
        code_version=code_version("normalize_particles"),
    script:
        "../scripts/normalize_particles.py"


rule preflight:
    """Judge a few hundred particles before anything costly; ends the run where they contradict their table."""
    input:
        unpack(preflight_map),
        star="<results>/{dataset}/normalized/particles.star",
    output:
        preflight_json="<results>/{dataset}/normalized/preflight.json",
    log:
        "<logs>/preflight/{dataset}.log",
    benchmark:
        "<benchmarks>/preflight/{dataset}.tsv"
    conda:
        "../envs/reconstruct.yaml"
    threads: 1
    resources:
        mem_mb=escalating(3 * GIB),
        runtime=escalating(30),
    params:
        step=step_parameters("preflight"),
        code_version=code_version("preflight"),
    script:
        "../scripts/preflight.py"


rule split_particles:
    """Split into half-sets, set some particles apart for scoring, and list those without poses; after the preflight."""
    input:
        "<results>/{dataset}/normalized/preflight.json",
        star="<results>/{dataset}/normalized/particles.star",
    output:
        half1_star="<results>/{dataset}/raw/half1/particles.star",
        half2_star="<results>/{dataset}/raw/half2/particles.star",
        unposed1_star="<results>/{dataset}/raw/half1/unposed.star",
        unposed2_star="<results>/{dataset}/raw/half2/unposed.star",
    log:
        "<logs>/split_particles/{dataset}.log",
    benchmark:
        "<benchmarks>/split_particles/{dataset}.tsv"
    wildcard_constraints:
        dataset=datasets_with_poses(found=False),
    conda:
        "../envs/prepare.yaml"
    threads: 1
    resources:
        mem_mb=escalating(2 * GIB),
        runtime=escalating(30),
    params:
        step=step_parameters("split_particles"),
        code_version=code_version("split_particles"),
    script:
        "../scripts/split_particles.py"
