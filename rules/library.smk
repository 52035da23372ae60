"""How the library reaches the rules and every script, whatever environment a step runs in."""

import gc
import os
import sys

# Planning makes many objects that stay: looking through them for garbage again and again takes a fifth of the time.
gc.set_threshold(200_000, 50, 100)

SOURCE = os.path.join(workflow.basedir, "src")
sys.path.insert(0, SOURCE)
os.environ.update(
    PYTHONPATH=os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")]))
)
