rule split_folds:
    """Divide the particles of one half into two folds, each restored with what the other one teaches."""
    input:
        star="<results>/{dataset}/raw/half{half}/particles.star",
    output:
        fold1_learn_star="<results>/{dataset}/folds/half{half}/fold1/learn.star",
        fold1_star="<results>/{dataset}/folds/half{half}/fold1/particles.star",
        fold2_learn_star="<results>/{dataset}/folds/half{half}/fold2/learn.star",
        fold2_star="<results>/{dataset}/folds/half{half}/fold2/particles.star",
    log:
        "<logs>/split_folds/{dataset}_half{half}.log",
    benchmark:
        "<benchmarks>/split_folds/{dataset}_half{half}.tsv"
    conda:
        "../envs/network.yaml"
    threads: 1
    resources:
        mem_mb=escalating(2 * GIB),
        runtime=escalating(30),
    params:
        step=step_parameters("split_folds"),
        code_version=code_version("split_folds"),
    script:
        "../scripts/split_folds.py"


use rule reconstruct_map as reconstruct_fold with:
    input:
        star="<results>/{dataset}/folds/half{half}/fold{fold}/learn.star",
    output:
        map="<results>/{dataset}/folds/half{half}/fold{fold}/map.mrc",
        map_odd="<results>/{dataset}/folds/half{half}/fold{fold}/map_odd.mrc",
        map_even="<results>/{dataset}/folds/half{half}/fold{fold}/map_even.mrc",
    log:
        "<logs>/reconstruct_fold/{dataset}_half{half}_fold{fold}.log",
    benchmark:
        "<benchmarks>/reconstruct_fold/{dataset}_half{half}_fold{fold}.tsv"


use rule make_training_pairs as make_fold_pairs with:
    input:
        star="<results>/{dataset}/folds/half{half}/fold{fold}/learn.star",
        map="<results>/{dataset}/folds/half{half}/fold{fold}/map.mrc",
        map_odd="<results>/{dataset}/folds/half{half}/fold{fold}/map_odd.mrc",
        map_even="<results>/{dataset}/folds/half{half}/fold{fold}/map_even.mrc",
    output:
        pairs="<results>/{dataset}/folds/half{half}/fold{fold}/pairs.safetensors",
        reference_map="<results>/{dataset}/folds/half{half}/fold{fold}/reference_map.mrc",
        noise_json="<results>/{dataset}/folds/half{half}/fold{fold}/noise.json",
    log:
        "<logs>/make_fold_pairs/{dataset}_half{half}_fold{fold}.log",
    benchmark:
        "<benchmarks>/make_fold_pairs/{dataset}_half{half}_fold{fold}.tsv"


use rule train_diffusion as train_fold_diffusion with:
    input:
        pairs="<results>/{dataset}/folds/half{half}/fold{fold}/pairs.safetensors",
    output:
        weights="<results>/{dataset}/folds/half{half}/fold{fold}/{method}/diffusion.safetensors",
        history="<results>/{dataset}/folds/half{half}/fold{fold}/{method}/diffusion_history.csv",
    log:
        "<logs>/train_fold_diffusion/{dataset}_{method}_half{half}_fold{fold}.log",
    benchmark:
        "<benchmarks>/train_fold_diffusion/{dataset}_{method}_half{half}_fold{fold}.tsv"
    params:
        step=step_parameters("train_diffusion"),
        work_dir=partial(fold_work_folder, step="train_diffusion"),
        code_version=code_version("train_diffusion"),


use rule train_postprocess as train_fold_postprocess with:
    input:
        pairs="<results>/{dataset}/folds/half{half}/fold{fold}/pairs.safetensors",
        diffusion_weights="<results>/{dataset}/folds/half{half}/fold{fold}/{method}/diffusion.safetensors",
    output:
        weights="<results>/{dataset}/folds/half{half}/fold{fold}/{method}/postprocess.safetensors",
        history="<results>/{dataset}/folds/half{half}/fold{fold}/{method}/postprocess_history.csv",
    log:
        "<logs>/train_fold_postprocess/{dataset}_{method}_half{half}_fold{fold}.log",
    benchmark:
        "<benchmarks>/train_fold_postprocess/{dataset}_{method}_half{half}_fold{fold}.tsv"
    params:
        step=step_parameters("train_postprocess"),
        work_dir=partial(fold_work_folder, step="train_postprocess"),
        code_version=code_version("train_postprocess"),


use rule restore_particles as restore_fold with:
    input:
        unpack(fold_networks),
        star="<results>/{dataset}/folds/half{half}/fold{fold}/particles.star",
        reference_map="<results>/{dataset}/folds/half{half}/fold{fold}/reference_map.mrc",
        noise_json="<results>/{dataset}/folds/half{half}/fold{fold}/noise.json",
    output:
        restored_stack="<results>/{dataset}/folds/half{half}/fold{fold}/{method}/particles.mrcs",
        restored_star="<results>/{dataset}/folds/half{half}/fold{fold}/{method}/particles.star",
        evidence_csv="<results>/{dataset}/folds/half{half}/fold{fold}/{method}/evidence.csv",
    log:
        "<logs>/restore_fold/{dataset}_{method}_half{half}_fold{fold}.log",
    benchmark:
        "<benchmarks>/restore_fold/{dataset}_{method}_half{half}_fold{fold}.tsv"
    wildcard_constraints:
        dataset=datasets_cross_fitted,
    params:
        step=step_parameters("restore_particles"),
        deviation_stack=fold_deviation_stack,
        code_version=code_version("restore_particles"),


rule gather_folds:
    """Put the restored folds of a half together, in the order of its table."""
    input:
        star="<results>/{dataset}/raw/half{half}/particles.star",
        folds=expand(
            "<results>/{{dataset}}/folds/half{{half}}/fold{fold}/{{method}}/particles.star",
            fold=(1, 2),
        ),
    output:
        restored_stack="<results>/{dataset}/restored.{method}/half{half}/particles.mrcs",
        restored_star="<results>/{dataset}/restored.{method}/half{half}/particles.star",
        evidence_csv="<results>/{dataset}/restored.{method}/half{half}/evidence.csv",
    log:
        "<logs>/gather_folds/{dataset}_{method}_half{half}.log",
    benchmark:
        "<benchmarks>/gather_folds/{dataset}_{method}_half{half}.tsv"
    wildcard_constraints:
        dataset=datasets_cross_fitted,
    conda:
        "../envs/network.yaml"
    threads: 1
    resources:
        mem_mb=escalating(2 * GIB),
        runtime=escalating(HOUR),
    params:
        step=step_parameters("gather_folds"),
        fold_folders=fold_folders,
        deviation_stack=deviation_stack,
        code_version=code_version("gather_folds"),
    script:
        "../scripts/gather_folds.py"
