"""Layers by number of spatial axes, so that one body serves pictures and volumes."""

from typing import Any

from torch import nn

# Any: the three differ only in how many numbers a size has, which types cannot say by key.
CONV: dict[int, Any] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}
CONV_TRANSPOSE: dict[int, Any] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
INSTANCE_NORM: dict[int, Any] = {
    1: nn.InstanceNorm1d,
    2: nn.InstanceNorm2d,
    3: nn.InstanceNorm3d,
}
BATCH_NORM: dict[int, Any] = {
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}
AVERAGE_POOL: dict[int, Any] = {
    1: nn.AvgPool1d,
    2: nn.AvgPool2d,
    3: nn.AvgPool3d,
}


def per_axis(value: int | tuple[int, ...] | list[int], dims: int) -> tuple[int, ...]:
    """One number for every axis, or one per axis.

    Raises:
        ValueError: the number of values is not the number of axes.
    """
    values = (value,) * dims if isinstance(value, int) else tuple(value)
    if len(values) != dims:
        raise ValueError(f"{values} has {len(values)} values, but there are {dims} spatial axes")
    return values
