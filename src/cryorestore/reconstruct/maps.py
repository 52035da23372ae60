"""What every backend returns."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class HalfMaps:
    """The map of a half-set, and of its particles at odd and even places: their agreement is what the half knows about its own map."""

    full: Float[Tensor, "box box box"]
    odd: Float[Tensor, "box box box"]
    even: Float[Tensor, "box box box"]
