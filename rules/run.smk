"""What is done before the first job of a run, and after one in which a job failed."""


def summarize_unfinished(run_log):
    """Write the table of a `reprocess` in which data sets failed; its JSON is dated back, so that the next run makes it anew."""
    from cryorestore.bulk import summarize_datasets

    names = {
        "table": "datasets.tsv",
        "summary": "datasets.json",
        "page": "datasets.html",
    }
    paths = {
        name: os.path.join(CONFIGURATION.results, file) for name, file in names.items()
    }
    summarize_datasets(**paths, **bulk_run(), run_log=str(run_log))
    os.utime(paths["summary"], (0, 0))
    print(
        f"data sets that finished, and those that failed with their logs: {paths['page']}",
        file=sys.stderr,
    )


def check_cluster():
    """Where jobs go to SLURM: that their states can be had, before the first is submitted."""
    settings = workflow.executor_settings
    if not hasattr(settings, "status_command"):
        return
    from snakemake.logging import logger
    from cryorestore.cluster import check_status_query

    try:
        for doubt in check_status_query(settings.status_command):
            logger.warning(doubt)
    except CryorestoreError as error:
        raise WorkflowError(str(error)) from None


def check_disk():
    """Predict what the run writes, before its first job."""
    from cryorestore.disk import check_disk
    from cryorestore.logs import logged_step

    with logged_step(None):
        check_disk(
            CONFIGURATION.settings,
            results=CONFIGURATION.results,
            policy=CONFIGURATION.disk_check,
            keep_intermediates=CONFIGURATION.keep_intermediates,
        )


onstart:
    check_disk()
    check_cluster()


onerror:
    if "reprocess" in workflow.dag_settings.targets:
        summarize_unfinished(log)
