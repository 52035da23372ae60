"""Processes that train one network together: which of them this one is, and what they tell each other."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed
from torch import Tensor, nn

Value = TypeVar("Value")

PATIENCE = timedelta(days=1)
"""How long ranks wait for each other: the first may validate or write for long; a rank that died is noticed by its launcher, not by this."""


def ranks_started() -> int:
    """How many ranks the launcher of this process has started; 1 where there is none.

    torchrun sets WORLD_SIZE and srun SLURM_STEP_NUM_TASKS. SLURM_NTASKS is no sign: a batch script has it too, and runs once.
    """
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or 1)


def rank_started() -> int:
    """Number of this process among them, from 0."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) if ranks_started() > 1 else 0


@contextmanager
def connected() -> Iterator[None]:
    """Connect this process with the other ranks, and give it its own GPU of the machine where there are any.

    Messages of tensors on a CPU go by gloo, those on a GPU by NCCL. MASTER_ADDR and MASTER_PORT say where the first rank listens.
    """
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
        torch.cuda.set_device(local % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, rank=rank_started(), world_size=ranks_started(), timeout=PATIENCE)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Ranks:
    """The ranks that are connected; every method is called by all of them at the same point, and does nothing where there is only one."""

    rank: int
    count: int

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that validates and writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """The places of a batch of `count` images that this rank computes: the ranks' shares follow each other and differ by one at most."""
        return slice(self.rank * count // self.count, (self.rank + 1) * count // self.count)

    def any(self, wanted: bool) -> bool:
        """Whether any rank wants it."""
        return self.total(float(wanted)) > 0

    def total(self, value: float) -> float:
        """Sum of the ranks' values, in double precision."""
        if self.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        torch.distributed.all_reduce(total)
        return float(total)

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What `make` returns on the first rank, where alone it is called."""
        if self.count == 1:
            return make()
        made: list[Value | None] = [make() if self.is_first else None]
        torch.distributed.broadcast_object_list(made)
        return cast(Value, made[0])

    def share_weights(self, network: nn.Module) -> None:
        """Give every rank the first one's parameters and buffers."""
        if self.count > 1:
            for tensor in network.state_dict().values():
                torch.distributed.broadcast(tensor, 0)

    def sum_gradients(self, network: nn.Module) -> None:
        """Replace the gradients with their sum over the ranks, in one message."""
        if self.count == 1:
            return
        gradients: list[Tensor] = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        message = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(message)
        for gradient, summed in zip(gradients, message.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(summed.view(gradient.shape))

    def wait(self) -> None:
        """Go on when all ranks have come here."""
        self.any(False)


def current_ranks() -> Ranks:
    """The ranks that `connected` joined; one rank outside of it."""
    if not torch.distributed.is_initialized():
        return Ranks(0, 1)
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
