"""What a user declares of a foreign network, checked against its modules."""

from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod
from typing import NamedTuple

from torch import Tensor, nn

from unpaired.backbones.base import Level
from unpaired.errors import UsageError
from unpaired.names import did_you_mean
from unpaired.nn.dims import CONV

_FIRST = (
    *CONV.values(),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm),
)
_LAST = (nn.Linear, nn.LayerNorm)


class Place(NamedTuple):
    """One place in the network where a module of the encoder hangs."""

    parent: str
    name: str
    part: int
    """Which of the encoder's parts holds the module,"""
    inner: str
    """and under which path; empty for the part itself."""


def find(network: nn.Module, path: str) -> nn.Module:
    """The module at `path`.

    Raises:
        UsageError: there is none.
    """
    known = dict(network.named_modules(remove_duplicate=False))
    if not path or path not in known:
        hint = did_you_mean(path, known, most=1)
        children = ", ".join(name for name, _ in network.named_children())
        raise UsageError(
            f"{type(network).__name__} has no module {path!r}.{hint} Its children: {children}."
        )
    return known[path]


def check_scales(scales: Mapping[str, Level]) -> int:
    """Number of spatial axes.

    Raises:
        UsageError: there is no scale, axes differ in number, or the order is not coarse to fine.
    """
    dims = {len(level.stride) for level in scales.values()}
    if len(dims) != 1:
        raise UsageError(
            "scales must name at least one module, each with one stride per spatial axis; got "
            f"{ {path: level.stride for path, level in scales.items()} }"
        )
    sizes = [prod(level.stride) for level in scales.values()]
    if sizes != sorted(sizes, reverse=True):
        raise UsageError(
            "scales run from coarse to fine, the largest stride first; got "
            f"{ {path: level.stride for path, level in scales.items()} }"
        )
    return dims.pop()


def input_channels(network: nn.Module, paths: Sequence[str], dims: int) -> int:
    """K, from the convolutions that read the image.

    Raises:
        UsageError: none is named, or one is not a convolution that a stem folds into.
    """
    kind, channels = CONV[dims], set()
    for path in paths:
        layer = find(network, path)
        if not isinstance(layer, kind) or layer.groups != 1:
            raise UsageError(
                f"{path!r} is a {type(layer).__name__}; a layer that reads the image must be a "
                f"{kind.__name__} with groups=1, or a stem cannot fold into it"
            )
        channels.add(layer.in_channels)
    if len(channels) != 1:
        raise UsageError(
            "input_layers must name every convolution that reads the image, all of one number of "
            f"channels; {tuple(paths)} read {sorted(channels)}"
        )
    return channels.pop()


def branch_ends(network: nn.Module, paths: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Path -> width D and the axis of its channels in the output (1 or -1).

    Raises:
        UsageError: a module has no weight whose first axis is its output, or is named twice.
    """
    ends: dict[str, tuple[int, int]] = {}
    modules: set[nn.Module] = set()
    for path in paths:
        layer = find(network, path)
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor) or not isinstance(layer, _FIRST + _LAST):
            raise UsageError(
                f"{path!r} is a {type(layer).__name__} without weights that a gain folds into; "
                "the end of a branch is a linear layer, a convolution or a norm with weights "
                "(affine=True)"
            )
        if layer in modules:
            raise UsageError(f"{path!r} names a module that another path in branches names too")
        modules.add(layer)
        ends[path] = (len(weight), 1 if isinstance(layer, _FIRST) else -1)
    return ends


def places(network: nn.Module, parts: Sequence[str]) -> tuple[Place, ...]:
    """Every place outside the encoder's parts where one of their modules hangs.

    A network may hold a module under several names, and run it under another than the user's.

    Raises:
        UsageError: a path is unknown, or the parts overlap.
    """
    inside: dict[nn.Module, tuple[int, str]] = {}
    for i, path in enumerate(parts):
        for inner, module in find(network, path).named_modules():
            if inside.setdefault(module, (i, inner))[0] != i:
                raise UsageError(f"the encoder's modules {tuple(parts)} overlap: name each once")
    if network in inside:
        raise UsageError("the encoder cannot be the whole network")
    return tuple(
        Place(parent_path, name, *inside[child])
        for parent_path, parent in network.named_modules()
        if parent not in inside
        for name, child in parent._modules.items()
        if child is not None and child in inside
    )


def second_names(module: nn.Module) -> dict[str, str]:
    """Further names of parameters and buffers -> the first."""
    first: dict[int, str] = {}
    named = chain(
        module.named_parameters(remove_duplicate=False),
        module.named_buffers(remove_duplicate=False),
    )
    found = {}
    for name, tensor in named:
        known = first.setdefault(id(tensor), name)
        if known != name:
            found[name] = known
    return found
