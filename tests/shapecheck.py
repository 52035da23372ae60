"""The type checker that jaxtyping's import hook puts on the library during tests (pyproject.toml, `--jaxtyping-packages`)."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype
from beartype.roar import BeartypeDecorHintException
from numpy.typing import NDArray

Checked = TypeVar("Checked", bound=Callable[..., object])
# an int is a float, as mypy has it; and strings of any length are strings, where beartype takes the length 0 literally
decorate = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({NDArray[np.str_]: np.ndarray})))


def shapecheck(function: Checked) -> Checked:
    """Check a function's arguments and result at each call; leave it as it is if it has a hint that cannot be checked (Self, Protocols)."""
    try:
        return decorate(function)
    except BeartypeDecorHintException:
        return function
