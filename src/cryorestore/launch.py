"""Start a step as several ranks: on this machine by PyTorch's launcher (torchrun's), on several by srun."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from cryorestore.errors import CryorestoreError
from cryorestore.logs import get_logger, log_file
from cryorestore.ranks import connected, ranks_started
from cryorestore.training_loop import EXIT_UNFINISHED

SECONDS_TO_STOP = 120
"""After SIGTERM the ranks have so long to save their state; SLURM's own limit, KillWait, is often shorter."""


def on_ranks(function: Callable[..., None]) -> Callable[..., None]:
    """Let a step that has the keywords `processes`, `nodes` and `threads` run as that many ranks.

    Called once, it starts the ranks and waits for them. Called within ranks that a launcher started (`start_ranks`, or the user's own torchrun or
    srun), it connects them and runs. With several ranks, arguments have to be what JSON can hold, or paths.

    Raises
    ------
    CryorestoreError
        If another number of ranks was started than `processes`, or the nodes do not share them equally.
    """

    @functools.wraps(function)
    def step(*, processes: int = 1, nodes: int = 1, **arguments: Any) -> None:
        started = ranks_started()
        if processes % nodes:
            raise CryorestoreError(f"processes is {processes} on {nodes} nodes; expected as many on each: choose a multiple of {nodes}")
        if started not in (1, processes):
            raise CryorestoreError(
                f"{started} tasks were started (WORLD_SIZE or SLURM_STEP_NUM_TASKS), expected 1, or {processes} for processes = {processes}: "
                f"start one task, or set processes to {started}"
            )
        if processes == 1:
            function(**arguments)
        elif started == 1:
            start_ranks(function.__name__, {**arguments, "processes": processes, "nodes": nodes})
        else:
            with connected():
                function(**arguments)

    return step


def start_ranks(step: str, arguments: Mapping[str, Any]) -> None:
    """Run a step as `arguments["processes"]` ranks and wait for them.

    Raises
    ------
    SystemExit
        With code 75 if they saved their state to be started again.
    CryorestoreError
        If one of them failed, there are fewer GPUs than processes, or srun is missing where there are several nodes.
    """
    processes, nodes, log = arguments["processes"], arguments["nodes"], log_file()
    command = [sys.executable, "-m", "cryorestore.rank", step, json.dumps(arguments, default=os.fspath), str(log or "")]
    get_logger().info("%s: starting %d processes on %d node%s", step, processes, nodes, "" if nodes == 1 else "s")
    if nodes == 1:
        _check_gpus(processes, arguments.get("device", "auto"))
        code = _run_here(command, processes)
    else:
        code = _run_by_srun([f"--ntasks={processes}", f"--nodes={nodes}", f"--cpus-per-task={arguments.get('threads', 1)}"], command)
    if code == EXIT_UNFINISHED:
        raise SystemExit(EXIT_UNFINISHED)
    if code:
        raise CryorestoreError(f"{step}: one of {processes} processes ended with code {code}; what it said stands above, or in {log or 'its output'}")


def _check_gpus(processes: int, device: str) -> None:
    visible = torch.cuda.device_count()
    if device != "cpu" and 0 < visible < processes:
        raise CryorestoreError(
            f"processes is {processes}, and {visible} GPU{'s are' if visible > 1 else ' is'} visible here; expected one for each: "
            "ask the scheduler for as many, or set processes to their number"
        )


def _run_here(command: Sequence[str], processes: int) -> int:
    """The exit code of the first rank that failed; 75 also where this process was asked to end, for the ranks then were, too."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        signals_to_handle="SIGTERM",
        shutdown_timeout=SECONDS_TO_STOP,
    )
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        return int(error.get_first_failure()[1].exitcode)
    except SignalException:
        return EXIT_UNFINISHED
    return 0


def _run_by_srun(options: Sequence[str], command: Sequence[str]) -> int:
    """The exit code of srun, the highest of its tasks; SIGTERM is left to the tasks, for SLURM sends it to them as well."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": socket.gethostname(), "MASTER_PORT": str(port)}
    previous = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        return subprocess.run(["srun", *options, "--kill-on-bad-exit=1", *command], env=environment, check=False).returncode
    except FileNotFoundError as error:
        raise CryorestoreError("srun was not found here, and several nodes need it; set nodes to 1, or run this as a job of SLURM") from error
    finally:
        signal.signal(signal.SIGTERM, previous)
