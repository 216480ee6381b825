"""The contract between a backbone and the rest: what it declares, and what it returns."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from unpaired.nn.block import Gains, ScaledBlock

DECIDED = {"self", "image_size", "in_channels", "classes"}
"""Constructor arguments that the plan decides, not the configuration."""


@dataclass(frozen=True)
class Level:
    """One decoder scale: its width C and its stride against the input, per axis."""

    channels: int
    stride: tuple[int, ...]


class Decoded(NamedTuple):
    """What a backbone yields for a batch."""

    logits: Float[Tensor, "B Z *space"]
    features: tuple[Float[Tensor, "B _ ..."], ...]
    """F per scale, coarse to fine: the last block's output of each decoder stage."""
    deep: tuple[Float[Tensor, "B Z ..."], ...] = ()
    """Logits of coarser maps, fine to coarse, of a backbone with deep supervision in training."""


class Backbone(nn.Module):
    """An encoder-decoder that declares what it gives; nobody probes it with a dummy tensor.

    A subclass sets the attributes below, has two children `encoder` and `decoder`, called as
    `decoder(encoder(image, gains), gains)`, and calls `name_branches()` at the end of `__init__`.
    One that is not cut in two so, or where another part than the encoder may be private to a
    modality, overrides `take_private`, `put_private` and `forward` (`backbones/foreign`,
    `methods/ummkd.py`).
    """

    dims: int
    """Number of spatial axes."""
    in_channels: int
    """Channels K it reads; the modality stems bring every modality to it."""
    classes: int
    """Number of classes Z, background included."""
    levels: tuple[Level, ...]
    """Decoder scales, coarse to fine."""
    multiple: tuple[int, ...]
    """Per axis, the input's size must be a multiple of this."""
    input_layers: tuple[str, ...]
    """Module paths of every convolution that reads the input; the stems fold into them."""
    pads_input: bool
    """Whether those convolutions pad with zeros: then a stem with bias would not fold."""
    no_decay: tuple[str, ...] = ("bias_table", "position")
    """Endings of parameter names that take no weight decay, beside norms and biases."""
    Options: type | None = None
    """A dataclass of what its constructor takes by name (`model.options`), if it is one."""
    encoder: nn.Module
    decoder: nn.Module

    @classmethod
    def size_step(cls, options: Mapping[str, Any], dims: int) -> tuple[int, ...]:
        """Per axis, the step of the image sizes that can be built with these options."""
        raise AssertionError(f"{cls.__name__} must declare its sizes")

    @classmethod
    def least_side(cls, options: Mapping[str, Any]) -> int:
        """The least that the longer side of a plane may have with these options."""
        return 1

    @classmethod
    def option_names(cls) -> set[str]:
        """What its constructor takes beside what the plan decides."""
        if cls.Options is not None:
            return {field.name for field in fields(cls.Options)}
        return set(inspect.signature(cls).parameters) - DECIDED

    def name_branches(self) -> None:
        """Tell every block its module path, which names its gains."""
        for path, module in self.named_modules():
            if isinstance(module, ScaledBlock):
                module.path = path

    @property
    def branches(self) -> dict[str, int]:
        """Module path of each residual branch's last layer -> width D, in network order."""
        widths: dict[str, int] = {}
        for module in self.modules():
            if isinstance(module, ScaledBlock):
                widths.update(module.branch_ends())
        return widths

    def take_private(self) -> nn.Module:
        """Take out what a modality may have of its own, here the encoder (V1).

        Until one is put back, `forward` needs one.

        Nothing may hold parameters that nothing trains.
        """
        taken, self.encoder = self.encoder, nn.Identity()
        return taken

    def put_private(self, private: nn.Module) -> None:
        """Put a modality's own part, as `take_private` gives it, in its place."""
        self.encoder = private

    def check_size(self, size: Sequence[int]) -> None:
        """Raise ValueError where an input of spatial `size` does not fit."""
        if any(s % m for s, m in zip(size, self.multiple, strict=True)):
            raise ValueError(
                f"an input of {tuple(size)} does not fit this backbone: "
                f"each axis must be a multiple of {self.multiple}"
            )

    def forward(
        self,
        image: Float[Tensor, "B K *space"],
        gains: Gains | None = None,
        private: nn.Module | None = None,
    ) -> Decoded:
        """Segment a batch; `private` replaces the backbone's own part (the encoder in V1)."""
        self.check_size(image.shape[2:])
        return self.decoder((private or self.encoder)(image, gains), gains)
