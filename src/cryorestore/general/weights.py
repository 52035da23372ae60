"""The weights that are shipped: safetensors in half precision, and the model card, a JSON file of the same name beside them."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cryorestore.checkpoint import filled_network, load_weights, save_weights
from cryorestore.general.network import GeneralNetwork

KIND = "general"


def shipped_weights() -> Path:
    """The weights of the package; their model card is beside them."""
    return Path(str(resources.files("cryorestore").joinpath("assets/general.safetensors")))


def save_general(path: str | Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write weights as float16 and the model card, which says `fingerprint` and what else describes them."""
    save_weights(path, {name: tensor.half() for name, tensor in tensors.items()}, {"kind": KIND, **card})


def load_general(path: str | Path | None, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """The network, for use, and its model card; None takes the shipped weights.

    Raises
    ------
    CryorestoreError
        If weights or card cannot be read or do not belong together, or they are of another kind of network.
    """
    tensors, card = load_weights(shipped_weights() if path is None else path, kind=KIND)
    network = GeneralNetwork(tuple(card["widths"]))
    return filled_network(network, {name: tensor.float() for name, tensor in tensors.items()}, device), card
