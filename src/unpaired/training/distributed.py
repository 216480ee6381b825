"""One process or several under torchrun, from the same code."""

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from time import monotonic, sleep
from types import FrameType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from unpaired.errors import Interrupted
from unpaired.signals import caught
from unpaired.training.heartbeat import FAILED, LEFT, Heartbeat

DAY = timedelta(hours=24)
"""Of the network library; signs of life are quicker (`training.heartbeat`)."""
POLL_SECONDS, SAME_WISH_SECONDS = 0.2, 2.0


@dataclass(frozen=True)
class Group:
    """This process among its peers."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    heart: Heartbeat | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for every process."""
        if self.world > 1:
            self._meet()
            distributed.barrier()

    def sync(self, x: Tensor) -> Tensor:
        """Differentiable sum over the processes."""
        if self.world == 1:
            return x
        self._meet()
        total: Tensor = SumOverProcesses.apply(x)
        return total

    def at(self, step: int) -> None:
        """Tell the others, in signs of life, where the training stands."""
        if self.heart is not None:
            self.heart.step = step

    def _meet(self) -> None:
        if self.heart is not None:
            self.heart.meetings += 1

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world == 1:
            return flag
        self._meet()
        votes = torch.tensor(float(flag), device=self._device)
        distributed.all_reduce(votes)
        return bool(votes > 0)

    def total(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Sum over the processes, without gradient; exact where all but one hold zeros."""
        if self.world == 1:
            return values
        self._meet()
        moved = values.to(self._device, copy=True)
        distributed.all_reduce(moved)
        return moved.to(values.device)

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


def world_size() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True)
class Meeting:
    """Where the processes of a training meet before they train: a store, and signs of life."""

    store: distributed.Store
    heart: Heartbeat

    def wait_for_lead(self, stop: "Stop") -> None:
        """The first process says that everything is prepared; the others wait for that.

        Raises:
            Interrupted: `stop` was asked meanwhile.
        """
        if leads():
            self.store.set("prepared", "yes")
            return
        while not self.store.check(["prepared"]):
            if stop.asked:
                raise Interrupted(
                    "stopped before the first step. The same command begins where this one ended."
                )
            sleep(POLL_SECONDS)


@contextmanager
def meeting(limit: float) -> Iterator[Meeting | None]:
    """Meet the other processes that torchrun started; None without it.

    Args:
        limit: seconds without a sign of life after which a process counts as stalled.
    """
    rank, world = int(os.environ.get("RANK", "0")), world_size()
    if world == 1:
        yield None
        return
    ours, beats = _store(rank), _store(-1)

    def look() -> dict[int, str]:
        others = [r for r in range(world) if r != rank]
        there = [r for r in others if beats.check([f"sign/{r}"])]
        return {r: beats.get(f"sign/{r}").decode() for r in there}

    heart = Heartbeat(lambda text: beats.set(f"sign/{rank}", text), look, rank, limit)
    heart.start()
    how = FAILED
    try:
        yield Meeting(ours, heart)
        how = LEFT
    except (Interrupted, KeyboardInterrupt):
        how = LEFT
        raise
    finally:
        heart.end(how)


def _store(rank: int) -> distributed.Store:
    """A connection to the store that torchrun keeps, or else the first process."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = distributed.TCPStore(
        host, port, None, is_master=rank == 0 and not kept, timeout=DAY, wait_for_workers=False
    )
    attempt = [os.environ.get(f"TORCHELASTIC_{name}", "") for name in ("RUN_ID", "RESTART_COUNT")]
    return distributed.PrefixStore("/".join(["unpaired", *attempt]), store)


@contextmanager
def process_group(cuda: bool, met: Meeting | None = None) -> Iterator[Group]:
    """Join the group that torchrun describes in the environment; alone without it.

    Raises:
        ResourceError: another process was lost.
    """
    world = world_size()
    if world == 1:
        yield Group()
        return
    heart = None if met is None else met.heart
    local = int(os.environ.get("LOCAL_RANK", "0"))
    group = Group(int(os.environ["RANK"]), world, local, heart)
    if cuda:
        torch.cuda.set_device(group.local_rank)
    # Imported later, this module would hold the group for good in its defaults, and the threads of
    # a group that is never freed can abort the process at its exit.
    import_module("torch.distributed.nn.functional")
    given: dict[str, Any] = {}
    if met is not None:
        given = {"store": met.store, "rank": group.rank, "world_size": world}
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=DAY, **given)
    try:
        yield group
    except RuntimeError as error:
        if heart is not None:
            heart.explain(error)
        raise
    finally:
        gc.collect()  # what still holds the group: DistributedDataParallel is part of a cycle
        distributed.destroy_process_group()


# Stopping at a step's end when asked to.


class Stop:
    """Set by the first signal that asks to stop; a second SIGINT interrupts at once.

    Under torchrun Ctrl-C comes twice, from the terminal and from torchrun: that is one wish.

    Attributes:
        met: the other processes; when their launcher has died, too, this one is asked to stop.
    """

    def __init__(self, met: Meeting | None = None) -> None:
        self.met, self._asked, self._since = met, False, 0.0

    @property
    def asked(self) -> bool:
        """Whether to save and stop."""
        return self._asked or (self.met is not None and self.met.heart.orphaned)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        again = self.met is None or monotonic() - self._since > SAME_WISH_SECONDS
        if self._asked and number == signal.SIGINT and again:
            raise KeyboardInterrupt
        if not self._asked:
            self._asked, self._since = True, monotonic()


@contextmanager
def stop_signals(met: Meeting | None = None) -> Iterator[Stop]:
    """Catch what asks to stop; outside the main thread nothing can be caught."""
    stop = Stop(met)
    with caught(stop):
        yield stop
