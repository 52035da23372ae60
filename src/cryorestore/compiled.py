"""Loops that are compiled for the CPU by numba."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., None])


def compiled(kernel: Kernel) -> Kernel:
    """Compile at the first call and keep the machine code for later processes, where a folder for it can be written.

    Sums may be reordered (for vector instructions), which on one machine is always in the same way; NaN and infinity are kept. Python's
    global lock is released.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    plain = inspect.unwrap(kernel)  # tests wrap every function of the library in a check of its arguments
    try:
        made: Kernel = numba.njit(cache=True, **options)(plain)
    except RuntimeError:  # numba found no folder to keep it in
        made = numba.njit(**options)(plain)
    return made
