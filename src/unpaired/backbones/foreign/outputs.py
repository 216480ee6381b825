"""What a forward pass of a foreign network gave, checked and brought to the contract."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from unpaired.backbones.base import Level
from unpaired.errors import UsageError


@dataclass(frozen=True)
class Scale(Level):
    """A decoder scale of a foreign network, with the order of its axes."""

    layout: Literal["first", "last", "tokens"] = "first"
    """Where the channels are: first [B C *space], last [B *space C], tokens [B L C] row by row."""


def feature_map(path: str, level: Level, found: Sequence[Any], shape: Sequence[Any]) -> Tensor:
    """What the module of a scale gave, as [B C *space].

    Args:
        path: the module's path, for the message.
        level: what was declared of it.
        found: what it gave at each call.
        shape: of the image, [B K *space]; in a traced graph its numbers are symbols.

    Raises:
        UsageError: it did not run once, gave no tensor, or not the declared shape.
    """
    if len(found) != 1 or not isinstance(found[0], Tensor):
        what = f"ran {len(found)} times in one forward pass"
        if len(found) == 1:
            what = f"gives a {type(found[0]).__name__}, not a tensor"
        raise UsageError(
            f"the module {path!r} {what}: name one that runs once and gives the feature map"
        )
    x = found[0]
    layout = level.layout if isinstance(level, Scale) else "first"
    space = tuple(n // s for n, s in zip(shape[2:], level.stride, strict=True))
    want = {
        "first": (shape[0], level.channels, *space),
        "last": (shape[0], *space, level.channels),
        "tokens": (shape[0], prod(space), level.channels),
    }[layout]
    if not torch.compiler.is_compiling() and tuple(x.shape) != want:
        raise UsageError(
            f"the scale {path!r} was declared with {level.channels} channels at stride "
            f'{level.stride}, layout "{layout}": an image of {tuple(shape[2:])} should give '
            f"{want}, it gives {tuple(x.shape)}. Correct channels, stride or layout of that scale."
        )
    if layout == "tokens":
        return x.transpose(1, 2).unflatten(2, space)
    return x.movedim(-1, 1) if layout == "last" else x


def logits_of(
    output: Any, where: int | str, want: tuple[Any, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The full-size logits, and the other maps with as many classes, fine to coarse.

    Args:
        output: a tensor; several in a list, a tuple or a dictionary; or stacked along axis 1.
        where: index or key of the full-size logits among several.
        want: their shape, [B Z *space].

    Raises:
        UsageError: there is nothing at `where`, or it is not of that shape.
    """
    maps: dict[int | str, Any] = {where: output}
    if isinstance(output, Mapping):
        maps = dict(output)
    elif isinstance(output, (list, tuple)):
        maps = dict(enumerate(output))
    elif isinstance(output, Tensor) and output.ndim == len(want) + 1:
        maps = dict(enumerate(output.unbind(1)))
    key = where
    if isinstance(where, int) and where not in maps and where < 0:
        key = where + len(maps)
    if key not in maps:
        raise UsageError(
            f"the network gives a {type(output).__name__} with {', '.join(map(str, maps))}; "
            f"logits={where!r} is not among them: say where the full-size logits are"
        )
    logits = maps.pop(key)
    given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not torch.compiler.is_compiling() and given != want:
        raise UsageError(
            f"logits of {want} were expected for {want[1]} classes, the network gives {given}. "
            "Correct classes, or say with logits=... which of its outputs holds them."
        )
    deep = [x for x in maps.values() if isinstance(x, Tensor) and x.ndim == len(want)]
    deep = [x for x in deep if x.shape[1] == want[1]]
    return logits, tuple(sorted(deep, key=lambda x: -x[0, 0].numel()))
