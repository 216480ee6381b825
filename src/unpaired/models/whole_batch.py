"""What a layer draws or averages over its batch is that of all processes, not of each its own.

So several processes compute what one would with the batch of all. One process is left as it is.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from unpaired.nn.block import DropPath

Sync = Callable[[Tensor], Tensor]
"""Differentiable sum over the processes."""


def span_processes(network: nn.Module, rank: int, world: int, sync: Sync) -> None:
    """Exchange, in place, the layers that draw or average over the batch.

    The names in the state dict stay. Every process must seed its draws alike.
    """
    if world == 1:
        return
    for module in list(network.modules()):
        for name, child in module.named_children():
            if _draws(child):
                setattr(module, name, DrawnForAll(child, rank, world))
            elif isinstance(child, _BatchNorm) and child.track_running_stats:
                setattr(module, name, NormOverAll(child, sync))


def _draws(module: nn.Module) -> bool:
    """Dropout of values, channels or branches, ours or another package's."""
    return isinstance(module, DropPath | _DropoutNd) or type(module).__name__ == "DropPath"


class DrawnForAll(nn.Module):
    """A dropout that draws for the images of all processes and takes those of this one.

    Args:
        inner: multiplies its input by what it draws.
    """

    def __init__(self, inner: nn.Module, rank: int, world: int) -> None:
        super().__init__()
        self.inner, self.rank, self.world = inner, rank, world

    def forward(self, x: Float[Tensor, "B *rest"]) -> Float[Tensor, "B *rest"]:
        if not self.training:
            return x
        n = len(x)
        factors: Tensor = self.inner(x.new_ones(self.world * n, *x.shape[1:]))
        return x * factors[self.rank * n : (self.rank + 1) * n]


class NormOverAll(nn.Module):
    """Batch norm whose mean and variance are those of the batches of all processes.

    Weight, bias and running numbers are those of `inner`, under the same names.
    """

    def __init__(self, inner: _BatchNorm, sync: Sync) -> None:
        super().__init__()
        self.eps, self.momentum, self.sync = inner.eps, inner.momentum, sync
        self.weight: nn.Parameter | None = inner.weight
        self.bias: nn.Parameter | None = inner.bias
        self.running_mean: Tensor
        self.running_var: Tensor
        self.num_batches_tracked: Tensor
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(inner, name))

    def forward(self, x: Float[Tensor, "B C *space"]) -> Float[Tensor, "B C *space"]:
        if not self.training:
            running = self.running_mean, self.running_var
            return functional.batch_norm(x, *running, self.weight, self.bias, eps=self.eps)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, variance = self._of_all(exact)
        shape = (1, -1, *[1] * (x.ndim - 2))
        y = (exact - mean.reshape(shape)) * (variance + self.eps).rsqrt().reshape(shape)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight.reshape(shape) + self.bias.reshape(shape)
        return y.to(x.dtype)

    def _of_all(self, x: Float[Tensor, "B C *space"]) -> tuple[Tensor, Tensor]:
        """Mean and variance per channel; the running ones follow them."""
        axes = [axis for axis in range(x.ndim) if axis != 1]
        count = self.sync(x.new_tensor(float(x.numel() // x.shape[1])))
        mean = self.sync(x.sum(axes)) / count
        centred = x - mean.reshape(1, -1, *[1] * (x.ndim - 2))
        variance = self.sync(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            share = self.momentum
            if share is None:
                share = 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
            unbiased = variance * (count / (count - 1).clamp_min(1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
        return mean, variance
