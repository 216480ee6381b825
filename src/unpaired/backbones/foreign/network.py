"""A network of somebody else's as a backbone.

The network is held as it is, neither copied nor changed; what the method needs is read and
multiplied by hooks that live for one forward pass (`one_pass.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unpaired.backbones.base import Backbone, Decoded, Level
from unpaired.backbones.foreign import declared
from unpaired.backbones.foreign.outputs import OnePass, feature_map, logits_of, version
from unpaired.errors import UsageError
from unpaired.nn.block import Gains
from unpaired.nn.dims import per_axis


class Foreign(Backbone):
    """A network of somebody else's, as it is, that obeys the contract.

    Args:
        network: takes an image [B K *space], gives logits [B Z *space]. Held, not copied.
        scales: module path -> its width C and its stride against the image, coarse to fine. The
            output of that module is F: the last block of a decoder stage, before up-sampling.
        classes: number of classes Z, background included.
        input_layers: paths of every convolution that reads the image; the stems fold into them.
        pads_input: whether one of those convolutions pads with zeros (then stems have no bias).
        multiple: image sizes must be a multiple of this, one number or one per axis.
        encoder: path or paths of the modules that are private to a modality in V1.
        branches: paths of the last layers of the residual branches, which V3 multiplies: linear
            layers, convolutions (not transposed) and norms with weights. In a convolutional
            block, name the last norm (before an instance norm a gain would cancel).
        logits: where the network gives several maps, which holds the full-size logits: an index
            into a list or tuple, or along axis 1 of a stacked tensor; or a key of a dictionary.
            The other maps with Z channels are the logits of deep supervision, in training only.

    Raises:
        UsageError: a path is not the network's, or a module is not of a kind that serves.
    """

    def __init__(
        self,
        network: nn.Module,
        scales: Mapping[str, Level],
        *,
        classes: int,
        input_layers: Sequence[str],
        pads_input: bool = True,
        multiple: int | Sequence[int] = 1,
        encoder: str | Sequence[str] = (),
        branches: Sequence[str] = (),
        logits: int | str = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.scales, self.dims = dict(scales), declared.check_scales(scales)
        for path in self.scales:
            declared.find(network, path)
        self.levels, self.classes = tuple(self.scales.values()), classes
        self.multiple = per_axis(
            multiple if isinstance(multiple, int) else tuple(multiple), self.dims
        )
        self.in_channels = declared.input_channels(network, input_layers, self.dims)
        self.input_layers = tuple(f"network.{path}" for path in input_layers)
        self.pads_input, self.logits = pads_input, logits
        self.ends = declared.branch_ends(network, branches)
        self.parts = (encoder,) if isinstance(encoder, str) else tuple(encoder)
        self.places = declared.places(network, self.parts)
        self.checked = False
        """Whether a forward pass has agreed with the declaration."""

    @property
    def branches(self) -> dict[str, int]:
        """Module path of each residual branch's last layer -> width D, as declared."""
        return {f"network.{path}": width for path, (width, _) in self.ends.items()}

    def take_private(self) -> nn.Module:
        if not self.parts:
            raise UsageError(
                "private encoders (V1) need to know the network's encoder: name its modules, "
                'encoder="path" or encoder=("path", "path")'
            )
        taken = nn.ModuleList(self.network.get_submodule(path) for path in self.parts)
        for parent, name, *_ in self.places:
            self.network.get_submodule(parent).add_module(name, nn.Identity())
        return taken

    def put_private(self, private: nn.Module) -> None:
        for parent, name, part, inner in self.places:
            module = private.get_submodule(f"{part}.{inner}".rstrip("."))
            self.network.get_submodule(parent).add_module(name, module)

    @contextmanager
    def _with(self, private: nn.Module | None) -> Iterator[None]:
        """The network with this encoder in it for a while."""
        if private is None:
            yield
            return
        parents = [(self.network.get_submodule(parent), name) for parent, name, *_ in self.places]
        before = [parent.get_submodule(name) for parent, name in parents]
        self.put_private(private)
        try:
            yield
        finally:
            for (parent, name), module in zip(parents, before, strict=True):
                parent.add_module(name, module)

    def forward(
        self,
        image: Float[Tensor, "B K *space"],
        gains: Gains | None = None,
        private: nn.Module | None = None,
    ) -> Decoded:
        """Segment a batch with the network as it is.

        Raises:
            ValueError: the image's size is not a multiple of `multiple`.
            UsageError: the network does not do what was declared; the message names the module.
        """
        self.check_size(image.shape[2:])
        first = not self.checked and not torch.compiler.is_compiling()
        with self._with(private), OnePass(self.network) as run:
            for path, (_, axis) in self.ends.items():
                if gains is not None:
                    layer = self.network.get_submodule(path)
                    run.multiply(layer, gains[f"network.{path}"], axis)
            for path in self.scales:
                run.keep(path, self.network.get_submodule(path))
            for module in self.network.modules() if first else ():
                run.watch(module, image)
            output = self.network(image)
            if first:
                self._check_run(run)
        features = tuple(
            feature_map(path, level, run.kept.get(path, []), image.shape)
            for path, level in self.scales.items()
        )
        want = (image.shape[0], self.classes, *image.shape[2:])
        logits, deep = logits_of(output, self.logits, want)
        self.checked = self.checked or first
        return Decoded(logits, features, deep if self.training else ())

    def _check_run(self, run: OnePass) -> None:
        """What a first pass shows: who reads the image, and who was not run or was overwritten."""
        named = {self.get_submodule(path) for path in self.input_layers}
        if other := run.readers - named:
            paths = [path for path, module in self.network.named_modules() if module in other]
            raise UsageError(
                f"the image is also read by {', '.join(map(repr, paths))}: name every layer that "
                "reads it in input_layers, or the stems would fold into some of them only"
            )
        for path in self.ends:
            if self.network.get_submodule(path) not in run.called:
                raise UsageError(f"the end of a branch {path!r} was not run in a forward pass")
        for path in self.parts:
            if not run.called & set(self.network.get_submodule(path).modules()):
                raise UsageError(f"the encoder's module {path!r} was not run in a forward pass")
        for path, found in run.kept.items():
            if version(found[-1]) != run.versions[path]:
                raise UsageError(
                    f"the output of the scale {path!r} is changed in place by what follows it: "
                    "name the module that follows, or switch its in-place operation off"
                )

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Without second names of one tensor, which safetensors refuses (DynUNet has them)."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        for name in declared.second_names(self):
            state.pop(kwargs.get("prefix", "") + name, None)
        return state

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Give the second names back before the children load."""
        for name, first in declared.second_names(self).items():
            if prefix + first in state_dict:
                state_dict.setdefault(prefix + name, state_dict[prefix + first])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Foreign":
        """As ever, but for tensors that a network keeps of its last pass (DynUNet: its heads).

        Only leaves can be copied; those are copied without their history.
        """
        for module in self.network.modules():
            for value in vars(module).values():
                for x in value if isinstance(value, (list, tuple)) else (value,):
                    if isinstance(x, Tensor) and not x.is_leaf:
                        memo[id(x)] = x.detach().clone()
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(deepcopy(self.__dict__, memo))
        return copied
