"""One process or several under torchrun, from the same code."""

import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from types import FrameType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed


@dataclass(frozen=True)
class Group:
    """This process among its peers."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for every process."""
        if self.world > 1:
            distributed.barrier()

    def sync(self, x: Tensor) -> Tensor:
        """Differentiable sum over the processes."""
        return SumOverProcesses.apply(x) if self.world > 1 else x

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world == 1:
            return flag
        votes = torch.tensor(float(flag), device=self._device)
        distributed.all_reduce(votes)
        return bool(votes > 0)

    def from_lead(self, value: float) -> float:
        """The first process's value, in every process."""
        if self.world == 1:
            return value
        box = torch.tensor(value, dtype=torch.float64, device=self._device)
        distributed.broadcast(box, 0)
        return float(box)

    @property
    def _device(self) -> str:
        return "cuda" if distributed.get_backend() == "nccl" else "cpu"


class SumOverProcesses(torch.autograd.Function):
    """All-reduce whose gradient is all-reduced too.

    Every process then holds the loss of the whole step. DistributedDataParallel averages the
    gradients, and each process's gradient is `world` times its part: the average is exact.
    """

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        total = x.detach().clone().contiguous()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        total = grads[0].clone().contiguous()
        distributed.all_reduce(total)
        return total


def leads() -> bool:
    """Whether this process is the first, or the only one: torchrun numbers its processes."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def process_group(cuda: bool) -> Iterator[Group]:
    """Join the group that torchrun describes in the environment; alone without it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Group()
        return
    group = Group(int(os.environ["RANK"]), world, int(os.environ.get("LOCAL_RANK", "0")))
    if cuda:
        torch.cuda.set_device(group.local_rank)
    # Imported later, this module would hold the group for good in its defaults, and the threads of
    # a group that is never freed can abort the process at its exit.
    import_module("torch.distributed.nn.functional")
    # Others wait while the first process prepares the data, however long that takes.
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=24))
    try:
        yield group
    finally:
        gc.collect()  # what still holds the group: DistributedDataParallel is part of a cycle
        distributed.destroy_process_group()


# Stopping at a step's end when asked to.


class Stop:
    """Set by the first SIGINT or SIGTERM; the second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Catch SIGINT and SIGTERM; outside the main thread nothing can be caught."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
