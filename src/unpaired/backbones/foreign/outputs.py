"""What a forward pass of a foreign network gave, checked and brought to the contract."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import TracebackType
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from unpaired.backbones.base import Level
from unpaired.errors import UsageError


@dataclass(frozen=True)
class Scale(Level):
    """A decoder scale of a foreign network, with the order of its axes."""

    layout: Literal["first", "last", "tokens"] = "first"
    """Where the channels are: first [B C *space], last [B *space C], tokens [B L C] row by row."""


def feature_map(path: str, level: Level, outputs: Sequence[Any], shape: Sequence[Any]) -> Tensor:
    """What the module of a scale gave, as [B C *space].

    Args:
        path: the module's path, for the message.
        level: what was declared of it.
        outputs: what it gave at each call.
        shape: of the image, [B K *space]; in a traced graph its numbers are symbols.

    Raises:
        UsageError: it did not run once, gave no tensor, or not the declared shape.
    """
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor):
        what = f"ran {len(outputs)} times in one forward pass"
        if len(outputs) == 1:
            what = f"gives a {type(outputs[0]).__name__}, not a tensor"
        raise UsageError(
            f"the module {path!r} {what}: name one that runs once and gives the feature map"
        )
    x = outputs[0]
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


# Hooks of one forward pass of a network that is not ours: there while it runs, gone after it.


class OnePass:
    """Multiplies and keeps outputs of modules while `network` runs once.

    A context: the hooks are registered inside it and removed at its end, whatever happens, so
    that nothing accumulates, is copied, or is left in a network that is handed back. Where the
    network runs itself again inside the pass, that inner run is neither kept nor multiplied.

    Modules whose work is done again in the backward pass (activation checkpointing) are out of
    its reach there: do not checkpoint what holds the ends of branches.
    """

    def __init__(self, network: nn.Module) -> None:
        self.kept: dict[str, list[Any]] = {}
        """By name, what the module gave at each of its calls."""
        self.versions: dict[str, int] = {}
        """By name, how often the tensor had been changed in place when it was kept."""
        self.called: set[nn.Module] = set()
        """Modules that ran, of those that are watched."""
        self.readers: set[nn.Module] = set()
        """Watched layers (with weights, without children) that were given the network's input."""
        self._depth = 0
        self._handles: list[RemovableHandle] = [
            network.register_forward_pre_hook(self._begin, prepend=True),
            network.register_forward_hook(self._end, always_call=True),
        ]

    def __enter__(self) -> "OnePass":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, *_: Any) -> None:
        self._depth += 1

    def _end(self, *_: Any) -> None:
        self._depth -= 1

    def multiply(self, module: nn.Module, gain: Float[Tensor, " D"], axis: int) -> None:
        """Scale the channels (along `axis`: 1 or -1) of what `module` gives."""

        def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
            if self._depth != 1:
                return None
            shape = [-1, *[1] * (output.ndim - 2)] if axis == 1 else [-1]
            return output * gain.to(output.dtype).view(shape)

        self._handles.append(module.register_forward_hook(hook))

    def keep(self, name: str, module: nn.Module) -> None:
        """Keep what `module` gives, after whatever multiplies it."""

        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if self._depth == 1:
                self.kept.setdefault(name, []).append(output)
                self.versions[name] = version(output)

        self._handles.append(module.register_forward_hook(hook))

    def watch(self, module: nn.Module, image: Tensor) -> None:
        """Note whether `module` runs, and whether it reads `image` itself."""
        layer = next(module.children(), None) is None and any(True for _ in module.parameters())

        def hook(_: nn.Module, given: tuple[Any, ...]) -> None:
            if self._depth == 1:
                self.called.add(module)
                if layer and any(x is image for x in given):
                    self.readers.add(module)

        self._handles.append(module.register_forward_pre_hook(hook))


def version(output: Any) -> int:
    """How often a tensor was changed in place; 0 where nobody counts."""
    if not isinstance(output, Tensor) or output.is_inference():
        return 0
    return output._version
