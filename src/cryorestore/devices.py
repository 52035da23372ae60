"""Where networks are computed and in which arithmetic."""

import os
from typing import Literal, get_args

import torch

from cryorestore.errors import CryorestoreError
from cryorestore.logs import warn_once

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]


def select_device(device: str) -> torch.device:
    """The processor to compute on; "auto" takes a GPU where there is one.

    Raises
    ------
    CryorestoreError
        If a GPU is asked for and none is visible, or the name is unknown.
    """
    if device not in get_args(Device):
        raise CryorestoreError(f"device is '{device}'; choose one of {', '.join(get_args(Device))}")
    if device == "cuda" and not torch.cuda.is_available():
        raise CryorestoreError("device is 'cuda', but no GPU is visible here; ask the scheduler for one, or set device to 'cpu' or 'auto'")
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device == "auto" and given and not torch.cuda.is_available():
        warn_once(f"this job was given a GPU (CUDA_VISIBLE_DEVICES={given}), but torch finds no GPU it can use: computing on the CPU")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Context in which a network is evaluated.

    "auto" takes bfloat16 where the processor has it: on a CPU that must imitate it, it was 12 to 20 times slower than float32.
    """
    if precision not in get_args(Precision):
        raise CryorestoreError(f"precision is '{precision}'; choose one of {', '.join(get_args(Precision))}")
    native = _has_bfloat16(device)
    if precision == "bfloat16" and not native:
        warn_once(f"precision is 'bfloat16', which this {device.type} only imitates, slowly; 'auto' would take float32 here")
    wanted = native if precision == "auto" else precision == "bfloat16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
