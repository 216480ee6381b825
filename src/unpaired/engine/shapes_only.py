"""Building a network without its memory, to compare it with a file before it is allocated."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from unpaired.build import build_segmenter
from unpaired.config import Config
from unpaired.data.plan import Plan

Network = TypeVar("Network", bound=nn.Module)
_LARGEST = 2**30
"""Bytes of tables that are computed and not stored; a window of 56 x 56 takes 75 MiB a block."""


def build_shapes(
    config: Config,
    plan: Plan,
    tensors: int,
    build: Callable[[Config, Plan], Network] = build_segmenter,  # type: ignore[assignment]
) -> Network:
    """The network on the device "meta": names, shapes and types without content.

    Args:
        tensors: how many the file holds; a network of far more is given up while it is built.
        build: what makes it.

    Raises:
        ValueError: it is far larger than the file.
        Exception: whatever the backbone raises; the description is at fault.
    """
    with torch.device("meta"), _Bounded(100 * (tensors + 100)):
        network = build(config, plan)
    stored = network.state_dict().keys()
    tables = sum(b.nbytes for name, b in network.named_buffers() if name not in stored)
    if tables > _LARGEST:
        raise ValueError(f"its windows need tables of {tables} bytes")
    return network


class _Bounded(TorchFunctionMode):
    """Counts calls of torch, and leaves on the CPU what is read while a network is built."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        self.left -= 1
        if func is torch.linspace:
            self.left -= int(kwargs["steps"] if "steps" in kwargs else args[2])
            kwargs["device"] = "cpu"
        if self.left < 0:
            raise ValueError("it has far more layers than the file has tensors")
        return func(*args, **kwargs)
