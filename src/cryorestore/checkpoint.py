"""Weights with what they were made of, and the state of a training that goes on later. Nothing here reads or writes pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cryorestore.errors import CryorestoreError
from cryorestore.files import atomic_path, read_json, write_json
from cryorestore.io.file_form import require_regular_file, seen_form
from cryorestore.logs import get_logger


def fingerprint(content: Mapping[str, Any]) -> str:
    """One number for a set of parameters and fingerprints of files."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def description_path(weights: str | Path) -> Path:
    """The JSON that belongs to a weights file: the same name with .json."""
    return Path(weights).with_suffix(".json")


def save_weights(path: str | Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write weights and, beside them, what they are; both carry `description["fingerprint"]`, by which a mixed-up pair is known."""
    write_json(description_path(path), description)
    with atomic_path(path) as temporary:
        save_file(_on_cpu(tensors), temporary, {"fingerprint": description["fingerprint"]})


def load_weights(path: str | Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights and their description.

    Raises
    ------
    CryorestoreError
        If either cannot be read, they do not belong together, or they are another kind of network.
    """
    metadata = _metadata(path)
    description = read_json(description_path(path))
    if not isinstance(description, dict):
        found = type(description).__name__
        raise CryorestoreError(f"{description_path(path)}: found {found}, expected the description of weights; copy both files from one training")
    if metadata.get("fingerprint") != description.get("fingerprint"):
        raise CryorestoreError(f"{path}: does not belong to {description_path(path)} (their fingerprints differ); copy both from one training")
    if description.get("kind") != kind:
        raise CryorestoreError(f"{path}: holds a network of kind '{description.get('kind')}', expected '{kind}'")
    return load_file(path), description


def filled_network(network: nn.Module, tensors: Mapping[str, Tensor], device: torch.device) -> nn.Module:
    """The network with its weights, on its device, for use and not for training."""
    network.load_state_dict(dict(tensors))
    return network.to(device).eval().requires_grad_(False)


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and state as one file, so that they cannot part."""
    with atomic_path(path) as temporary:
        save_file(_on_cpu(tensors), temporary, {"state": json.dumps(state)})


def load_checkpoint(path: Path, *, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state, or None where there is no checkpoint or it belongs to other parameters or pairs (`state["key"]`): that one is removed."""
    if not path.exists():
        return None
    state = _state(path)
    if state.get("key") != key:
        get_logger().warning("%s: belongs to other parameters or other training pairs; it is discarded and training starts anew", path)
        path.unlink()
        return None
    return load_file(path), state


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments and counters by "parameter number/name"."""
    return {f"{number}/{name}": tensor for number, entry in optimizer.state_dict()["state"].items() for name, tensor in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, each moment in its parameter's memory layout, which a fused optimizer takes for granted."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split("/")
        parameter = parameters[int(number)]
        laid_out = torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor
        state.setdefault(int(number), {})[name] = laid_out.detach()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _state(path: Path) -> dict[str, Any]:
    text = _metadata(path).get("state", "{}")
    try:
        state = json.loads(text)
    except ValueError as error:
        raise CryorestoreError(f"{path}: its state cannot be read as JSON ({error}); remove it, and the training starts anew") from error
    if not isinstance(state, dict):
        raise CryorestoreError(f"{path}: found a state of {type(state).__name__}, expected keys and values; remove it, and the training starts anew")
    return state


def _metadata(path: str | Path) -> dict[str, str]:
    require_regular_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        with Path(path).open("rb") as handle:
            form = seen_form(handle.read(8))
        if form:
            raise CryorestoreError(f"{path}: found a file that {form}; expected safetensors; give the weights that the training wrote") from error
        raise CryorestoreError(f"{path}: cannot be read as safetensors ({error}); remove it and run the training again") from error


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
