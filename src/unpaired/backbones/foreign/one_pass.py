"""Hooks of one forward pass of a network that is not ours: there while it runs, gone after it."""

from types import TracebackType
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


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
