"""The step functions as the command line sees them: imported when one is asked for, its help saying of every option what the docstring says."""

import functools
import importlib
import re
from collections.abc import Callable
from typing import Any

from cryorestore.config import STEPS

SHARED_ENTRY = re.compile(r"^(?P<indent> *)(?P<names>\w+(?:, \w+)+)\n(?P<text>(?:(?P=indent) +\S.*\n)+)", re.MULTILINE)


def __getattr__(name: str) -> Callable[..., Any]:
    """The function of the step `name`."""
    if name not in STEPS:
        raise AttributeError(name)
    step = STEPS[name]
    function = getattr(importlib.import_module(f"cryorestore.{step.module}"), step.function)

    @functools.wraps(function)
    def command(*arguments: Any, **options: Any) -> None:
        function(*arguments, **options)

    command.__doc__ = with_separate_entries(function.__doc__ or "")
    return command


def with_separate_entries(docstring: str) -> str:
    """Write a docstring's entry `a, b` as two entries with the same text, which is the only form that the option parser reads."""

    def separate(entry: re.Match[str]) -> str:
        return "".join(f"{entry['indent']}{name}\n{entry['text']}" for name in entry["names"].split(", "))

    return SHARED_ENTRY.sub(separate, docstring)
