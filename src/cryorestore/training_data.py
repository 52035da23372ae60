"""Training pairs, read from disk batch by batch, in an order that follows from seed and step alone."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cryorestore.errors import CryorestoreError
from cryorestore.seeds import derived_seeds

STATISTICS_PAIRS = 1024
"""At most this many pairs, evenly spread, tell the scales."""


class TrainingPairs:
    """A pairs file: tensors (n, box, box) by name; the pairs from `validation_from` on are held out of training.

    Raises
    ------
    CryorestoreError
        If the file cannot be read, lacks an image that is asked for, differs in shape, or does not say where its held-out pairs begin.
    """

    def __init__(self, path: str | Path, names: Iterable[str]) -> None:
        self.path = Path(path)
        try:
            self._file: Any = safe_open(self.path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise CryorestoreError(f"{path}: cannot be read as training pairs ({error}); run make_training_pairs again") from error
        metadata: dict[str, str] = self._file.metadata() or {}
        self.config: Any = json.loads(metadata.get("config", "null"))
        present = sorted(self._file.keys())
        missing = [name for name in names if name not in present]
        if missing:
            mend = "; 'mean' and 'deviation' need pairs made with a map" if {"mean", "deviation"} & set(missing) else ""
            raise CryorestoreError(f"{path}: holds the images {', '.join(present)}, not {', '.join(missing)}; mend the method's condition{mend}")
        shapes = {name: tuple(self._file.get_slice(name).get_shape()) for name in names}
        shape = next(iter(shapes.values()))
        if set(shapes.values()) != {shape} or len(shape) != 3:
            raise CryorestoreError(f"{path}: the images differ in shape: {shapes}; run make_training_pairs again")
        self.count, self.box_size = shape[0], shape[2]
        validation_from = self.config.get("validation_from") if isinstance(self.config, dict) else None
        if not isinstance(validation_from, int) or not 0 < validation_from < self.count:
            raise CryorestoreError(
                f"{path}: config's validation_from is {validation_from}, expected 1 to {self.count - 1}; run make_training_pairs again"
            )
        self.validation_from = validation_from

    def read(self, names: Iterable[str], rows: Sequence[int]) -> dict[str, Float[Tensor, "n box box"]]:
        """Images of some pairs, float32."""
        slices = {name: self._file.get_slice(name) for name in names}
        return {name: torch.cat([images[row : row + 1] for row in rows]).float() for name, images in slices.items()}

    def training_rows(self, step: int, batch_size: int, seed: int) -> list[int]:
        """Rows of the batch of `step` (from 1): every epoch is a new seeded order of all training pairs."""
        first = (step - 1) * batch_size
        places = range(first, first + batch_size)
        return [_epoch_order(seed, place // self.validation_from, self.validation_from)[place % self.validation_from] for place in places]

    def spread_rows(self, count: int, *, held_out: bool = False) -> list[int]:
        """At most `count` rows, evenly spread over the training pairs or the held-out ones."""
        first, last = (self.validation_from, self.count) if held_out else (0, self.validation_from)
        count = min(count, last - first)
        return [first + place * (last - first) // count for place in range(count)]

    def sha256(self) -> str:
        """Fingerprint of the whole file."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(derived_seeds(seed, [f"epoch {epoch}"], purpose="training")[0])
    return tuple(torch.randperm(count, generator=generator).tolist())


def root_mean_square(images: Float[Tensor, "n box box"], *, what: str) -> float:
    """Root mean square over all pixels.

    Raises
    ------
    CryorestoreError
        If it is zero or not finite: nothing can be learned from such images.
    """
    value = float(images.double().square().mean().sqrt())
    if not 0 < value < float("inf"):
        raise CryorestoreError(f"{what} of the training pairs has root mean square {value}; a positive number was expected: make the pairs again")
    return value
