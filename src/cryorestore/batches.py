"""Batches of one fixed size: sums then do not depend on how many particles there are."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cryorestore.logs import progress


def fixed_batches(count: int, batch_size: int, *, description: str) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yield places (batch_size,) and how many of them are real: the last batch is filled up with the last place. Shows progress."""
    for start in progress(range(0, count, batch_size), total=-(-count // batch_size), description=description):
        yield np.minimum(np.arange(start, start + batch_size), count - 1), min(batch_size, count - start)
