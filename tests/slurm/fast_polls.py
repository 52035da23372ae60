"""Snakemake that asks SLURM for its jobs' states every second; the plugin waits ten seconds longer after every time without news."""

import sys

from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

RemoteExecutor.next_seconds_between_status_checks = property(lambda self: 1.0, lambda self, value: None)

from snakemake.cli import main  # noqa: E402

sys.exit(main())
