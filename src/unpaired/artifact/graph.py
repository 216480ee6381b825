"""Graphs: the network as one function of tensors, traced by `torch.export`; ONNX of it.

In the gains form one graph serves every modality: it takes the modality's index and selects the
stem and the row of gains with it. Batches have any size. An axis may have any multiple of the
backbone's step where the patch is at least two steps long there, and the network allows it
(shifted windows are laid out by size); otherwise its size is the patch's.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.func import functional_call

from unpaired.artifact.model import Model
from unpaired.artifact.onnx import need
from unpaired.artifact.parity import TOLERANCE
from unpaired.backbones import Backbone
from unpaired.errors import UsageError
from unpaired.models import Segmenter

OPSET = 20
_LARGEST_FILE = 2**31 - 2**24
"""Bytes; protocol buffers end at 2 GiB, and weights of larger models lie beside the graph."""
AXES = ("depth", "row", "column")
"""Names of spatial axes; a network of fewer has the last ones."""


class PlainGraph(nn.Module):
    """Image -> logits of a folded network."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Float[Tensor, "B K *space"]) -> Float[Tensor, "B Z *space"]:
        return self.backbone(image).logits


class GainsGraph(nn.Module):
    """Image and modality index -> logits, for every modality of a gains form.

    A stem's two 1x1 convolutions are one affine map of the channels; a modality with fewer
    channels than the widest has zero columns, so what lies in its further channels is ignored.
    """

    mix: Tensor
    offset: Tensor
    phi: Tensor

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.backbone = segmenter.backbone
        self.branches = dict(segmenter.branches)
        stems = [_affine(segmenter.stems[m]) for m in segmenter.modalities]
        width = max(mix.shape[1] for mix, _ in stems)
        padded = [nn.functional.pad(mix, (0, width - mix.shape[1])) for mix, _ in stems]
        self.register_buffer("mix", torch.stack(padded))
        self.register_buffer("offset", torch.stack([offset for _, offset in stems]))
        ones = torch.ones(sum(self.branches.values()))
        tables = [segmenter.stored_gains(m) for m in segmenter.modalities]
        rows = [
            ones if t is None else torch.cat([t[name] for name in self.branches]) for t in tables
        ]
        self.scaled = any(t is not None for t in tables)
        self.register_buffer("phi", torch.stack(rows))
        norms = [n.values_by_name() for n in segmenter.norms.values()]  # type: ignore[operator]
        self.norms = {name: f"norm_{i}" for i, name in enumerate(norms[0] if norms else ())}
        for name, buffer in self.norms.items():
            self.register_buffer(buffer, torch.stack([own[name].detach() for own in norms]))

    def forward(
        self, image: Float[Tensor, "B K *space"], modality: Int[Tensor, " 1"]
    ) -> Float[Tensor, "B Z *space"]:
        mix, offset, phi = (
            t.index_select(0, modality)[0] for t in (self.mix, self.offset, self.phi)
        )
        batch, space = image.shape[0], image.shape[2:]  # len() would fix the batch in a graph
        mixed = (mix @ image.flatten(2)).reshape(batch, mix.shape[0], *space)
        mixed = mixed + offset.reshape(-1, *[1] * len(space))
        gains = None
        if self.scaled:
            parts = phi.split(list(self.branches.values()))
            gains = dict(zip(self.branches, parts, strict=True))
        if not self.norms:
            return self.backbone(mixed, gains).logits
        norms = {
            name: getattr(self, buffer).index_select(0, modality)[0]
            for name, buffer in self.norms.items()
        }
        return functional_call(self.backbone, norms, (mixed, gains)).logits


def _affine(stem: nn.Module) -> tuple[Float[Tensor, "K Km"], Float[Tensor, " K"]]:
    """The stem as matrix and offset, computed in double precision."""
    first, second = stem.children()
    a, b = (layer.weight.flatten(1).double() for layer in (first, second))  # type: ignore[operator]
    if not isinstance(first.bias, Tensor) or not isinstance(second.bias, Tensor):
        return (b @ a).float(), torch.zeros(len(b))
    return (b @ a).float(), (b @ first.bias.double() + second.bias.double()).float()


@dataclass(frozen=True)
class Sizes:
    """The input sizes that a graph takes."""

    patch: tuple[int, ...]
    step: tuple[int, ...]
    free: tuple[bool, ...]
    """Per spatial axis, whether any multiple of `step` from two steps on is allowed."""

    def shape(self, channels: int) -> list[int | str]:
        """For people and programs: numbers are fixed, words vary."""
        axes = zip(AXES[-len(self.patch) :], self.patch, self.step, self.free, strict=True)
        return ["batch", channels, *(f"{k}*{name}" if f else n for name, n, k, f in axes)]

    def larger(self) -> tuple[int, ...]:
        """Another legal size, if there is one; else the patch."""
        axes = zip(self.patch, self.step, self.free, strict=True)
        return tuple(n + k if free else n for n, k, free in axes)


def make_graph(model: Model) -> nn.Module:
    """The graph's module, a copy: nothing that a call leaves behind gets into a graph.

    Raises:
        UsageError: modalities have parts of their own, between which no graph can choose.
    """
    check_graph(model)
    graph: nn.Module
    if isinstance(model.segmenter, Segmenter):
        graph = GainsGraph(deepcopy(model.segmenter))
    else:
        graph = PlainGraph(deepcopy(model.backbone))
    return graph.eval().requires_grad_(False)


def check_graph(model: Model) -> None:
    """Raise UsageError where no single graph serves all modalities."""
    if isinstance(model.segmenter, Segmenter) and len(model.segmenter.encoders):
        raise UsageError(
            "every modality has a part of this network of its own, so pt2 and onnx cannot hold it "
            "in one graph. Give --form folded, or --format safetensors."
        )


def graph_inputs(
    model: Model, image: Float[Tensor, "B Km *space"], modality: str
) -> tuple[Tensor, ...]:
    """What the graph takes for images of a modality."""
    if model.form == "folded":
        return (image,)
    missing = max(model.channels.values()) - image.shape[1]
    if missing:
        image = torch.cat([image, image.new_zeros(len(image), missing, *image.shape[2:])], 1)
    return image, torch.tensor([model.modalities.index(modality)])


def trace(model: Model, fixed_size: bool = False) -> tuple[ExportedProgram, Sizes]:
    """The traced graph, with as many free axes as the network allows.

    Args:
        fixed_size: it takes the patch's size only.

    Raises:
        UsageError: the network cannot be traced at all.
    """
    patch, step = tuple(model.plan.patch), model.backbone.multiple
    wanted = Sizes(patch, step, tuple(n >= 2 * k for n, k in zip(patch, step, strict=True)))
    fixed = Sizes(patch, step, (False,) * len(patch))
    for sizes in dict.fromkeys((fixed,) if fixed_size else (wanted, fixed)):
        try:
            program = _trace(model, sizes)
            if not any(sizes.free) or _agrees(model, program, sizes):
                return program, sizes
            failure: Exception = ValueError("its graph answers otherwise at another size")
        except Exception as error:  # tracing fails in many ways; a fixed size is the way out
            failure = error
    reason = str(failure).strip().split("\n")[0]
    raise UsageError(
        f"this network cannot be traced as a graph: {reason}. Give --format safetensors or bundle."
    ) from failure


@torch.no_grad()
def _agrees(model: Model, program: ExportedProgram, sizes: Sizes) -> bool:
    """Whether the graph holds at another size too; a trace may take a size for a constant."""
    graph, modality, live = program.module(), model.modalities[0], deepcopy(model.segmenter)
    generator = torch.Generator().manual_seed(0)
    for size in (sizes.patch, sizes.larger()):
        image = torch.randn(1, model.channels[modality], *size, generator=generator)
        found = graph(*graph_inputs(model, image, modality))
        expected = live(image, modality).logits
        if found.shape != expected.shape or not (found - expected).abs().max() <= TOLERANCE:
            return False
    return True


@torch.no_grad()
def _trace(model: Model, sizes: Sizes) -> ExportedProgram:
    graph = make_graph(model)
    shape = (2, max(model.channels.values()), *sizes.patch)
    inputs: tuple[Tensor, ...] = (torch.zeros(shape),)
    if model.form == "gains":
        inputs = (*inputs, torch.zeros(1, dtype=torch.long))
    if not any(sizes.free):
        graph(*inputs)  # what depends on the size only, such as masks, becomes a constant
    dynamic: list[Any] = [{0: Dim("batch"), **_dims(sizes)}, *(None for _ in inputs[1:])]
    return torch.export.export(graph, inputs, dynamic_shapes=tuple(dynamic), strict=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' remarks, on packages that are not needed and on sharing of storage."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _dims(sizes: Sizes) -> dict[int, Any]:
    names: Sequence[str] = AXES[-len(sizes.patch) :]
    axes = enumerate(zip(names, sizes.step, sizes.free, strict=True), start=2)
    return {a: k * Dim(name, min=2) if k > 1 else Dim(name, min=2) for a, (name, k, f) in axes if f}


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """Write the graph, weights included.

    Raises:
        UsageError: the extra is not installed, or an operation has no counterpart in ONNX.
    """
    need("onnx", "onnxscript", "onnxruntime")
    onnx: Any = import_module("onnx")

    with quiet():
        try:
            made = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                output_names=["logits"],
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error).strip().split("\n")[0]
            raise UsageError(
                f"this network cannot be written as ONNX: {reason}. Give --format pt2 or "
                "safetensors."
            ) from error
        assert made is not None
        made.rename_axes({str(made.model.graph.inputs[0].shape[0]): "batch"})  # type: ignore[index]
        size = sum(t.nbytes for t in program.state_dict.values())
        made.save(path, external_data=size > _LARGEST_FILE)
    onnx.checker.check_model(path)
