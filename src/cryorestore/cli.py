"""The command line: one command a step, its options made from the signature of the function that the rule calls."""

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from cryorestore import __version__
from cryorestore.config import STEPS, Configuration, check_inputs, load_configuration
from cryorestore.config.loading import read_yaml

app = App(
    name="cryorestore",
    version=__version__,
    help=__doc__,
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
    help_format="plaintext",
)


@app.command
def check_config(*, configfile: Path | None = None, datasets: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None) -> None:
    """Check the configuration as the workflow does before any job starts.

    Parameters
    ----------
    configfile
        What differs from config/config.yaml and the dataset files, as for `snakemake --configfile`.
    datasets
        Names of data sets, instead of those configured.
    """
    configuration = _configuration(configfile, datasets)
    print(f"the configuration of {', '.join(configuration.settings)} is in order")


@app.command
def check_disk(*, configfile: Path | None = None, datasets: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None) -> None:
    """Predict how many bytes a run writes, as the workflow does before its first job; exit code 1 where they do not fit.

    Parameters
    ----------
    configfile
        What differs from config/config.yaml and the dataset files, as for `snakemake --configfile`.
    datasets
        Names of data sets, instead of those configured.
    """
    from cryorestore.disk import check_disk

    configuration = _configuration(configfile, datasets)
    check_inputs(configuration)
    keep = configuration.keep_intermediates
    check_disk(configuration.settings, results=configuration.results, policy=configuration.disk_check, keep_intermediates=keep)


@app.command
def doctor(*, configfile: Path | None = None, datasets: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None) -> None:
    """Say on one page what this machine has and lacks for a run, each lack with its mend; exit code 1 where no run works, or this one does not.

    Parameters
    ----------
    configfile
        What differs from config/config.yaml and the dataset files, as for `snakemake --configfile`.
    datasets
        Names of data sets, instead of those configured.
    """
    from cryorestore.doctor import examine_machine
    from cryorestore.findings import has_error, print_findings

    findings = examine_machine(_configuration(configfile, datasets))
    print_findings(findings)
    if has_error(findings):
        sys.exit(1)


def _configuration(configfile: Path | None, datasets: list[str] | None) -> Configuration:
    overrides: dict[str, Any] = {} if configfile is None else read_yaml(configfile, shown=str(configfile))
    if datasets:
        overrides["datasets"] = datasets
    return load_configuration(overrides)


def _add_commands() -> None:
    app.command(
        "cryorestore.converting:convert_particles", name="convert-particles", help="Turn a RELION table into a .cs, or a .cs into a STAR file."
    )
    app.command("cryorestore.project_init:init", help="Write a dataset file from a RELION job, a cryoSPARC job or a table.")
    app.command("cryorestore.status:status", name="status", help="Say what a run is doing: done, running, failed, losses, and when it will be over.")
    app.command("cryorestore.external:relion_external", name="relion-external", help="Restore particles as an External job of RELION.")
    app.command("cryorestore.crate:write_crate", name="write-crate", help="Describe a data set's results as an RO-Crate.")
    app.command("cryorestore.deposition:prepare_deposition", name="prepare-deposition", help="Gather files for EMDB and EMPIAR.")
    app.command("cryorestore.general.command:restore", name="restore", help="Restore particles of any protein: no map, poses or training needed.")
    app.command("cryorestore.general.training:train_general", name="train-general", help="Train the general restorer from a list of structures.")
    for rule, step in STEPS.items():
        app.command(f"cryorestore.commands:{rule}", name=rule.replace("_", "-"), help=step.summary)


_add_commands()


def relion_external() -> None:
    """Run the command relion-external: RELION calls a program without a command's name."""
    sys.argv[1:1] = ["relion-external"]
    main()


def main() -> None:
    """Run the command that the arguments name; a CryorestoreError is told as one message, with exit code 1."""
    from cryorestore.logs import logged_step

    with logged_step(None):
        app(sys.argv[1:])
