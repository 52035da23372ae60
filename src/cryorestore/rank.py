"""One rank of a step: `python -m cryorestore.rank STEP ARGUMENTS LOG`, as `launch.start_ranks` calls it."""

import importlib
import json
import logging
import sys

from cryorestore.config import STEPS
from cryorestore.logs import get_logger, logged_step
from cryorestore.ranks import rank_started


def run_rank(step: str, arguments: str, log: str) -> None:
    """Run a step in this process, its keywords given as JSON; the first rank tells how it goes, the others what goes wrong."""
    with logged_step(log or None, append=True):
        if rank_started() > 0:
            get_logger().setLevel(logging.WARNING)
        function = getattr(importlib.import_module(f"cryorestore.{STEPS[step].module}"), STEPS[step].function)
        function(**json.loads(arguments))


if __name__ == "__main__":
    run_rank(*sys.argv[1:])
