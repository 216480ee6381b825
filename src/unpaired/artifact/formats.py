"""The formats of an export: each writes a network into a folder and says how to read it back."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unpaired.artifact.bundle import load_network, write_bundle
from unpaired.artifact.graph import (
    AXES,
    OPSET,
    Sizes,
    graph_inputs,
    quiet,
    trace,
    write_onnx,
)
from unpaired.artifact.model import Model
from unpaired.artifact.onnx import FORMAT, ONNX, PREPROCESSING, SCHEMA, file_digest
from unpaired.artifact.parity import ParityError, Reloaded
from unpaired.artifact.safetensors import WEIGHTS
from unpaired.files import write_json

CARD, PT2 = "README.md", "model.pt2"
GRAPHS = ("pt2", "onnx")


@dataclass(frozen=True)
class Asked:
    """What the written files are to hold beside the network.

    Attributes:
        facts: as `facts_of` gives them.
        name: of the export.
        fixed_size: graphs take the patch's size only.
    """

    facts: dict[str, Any]
    name: str
    fixed_size: bool


@dataclass(frozen=True)
class Written:
    """A network in files.

    Attributes:
        file: its path below the folder, for messages.
        sizes: the input sizes it takes.
        reload: reads the files back, and gives what is compared with the live network.
        card: where the model card belongs, below the folder.
    """

    file: str
    sizes: Sizes
    reload: Callable[[], Reloaded]
    card: str = CARD


def write_safetensors(model: Model, folder: Path, asked: Asked) -> Written:
    """model.safetensors, model.json and preprocessing.json."""
    model.save(folder, {"facts": asked.facts})
    sizes = _patch_only(model)
    write_preprocessing(model, folder / WEIGHTS, sizes)
    return Written(WEIGHTS, sizes, lambda: _loaded(folder))


def write_pt2(model: Model, folder: Path, asked: Asked) -> Written:
    """model.pt2 and preprocessing.json."""
    program, sizes = trace(model, asked.fixed_size)
    with quiet():
        torch.export.save(program, folder / PT2)
    write_preprocessing(model, folder / PT2, sizes)

    def reload() -> Reloaded:
        graph = torch.export.load(folder / PT2).module()
        return lambda image, modality: graph(*graph_inputs(model, image, modality))

    return Written(PT2, sizes, reload)


def write_onnx_folder(model: Model, folder: Path, asked: Asked) -> Written:
    """model.onnx and preprocessing.json."""
    program, sizes = trace(model, asked.fixed_size)
    write_onnx(program, folder / ONNX)
    write_preprocessing(model, folder / ONNX, sizes, OPSET)
    return Written(ONNX, sizes, lambda: _loaded(folder))


def write_bundle_folder(model: Model, folder: Path, asked: Asked) -> Written:
    """A MONAI Bundle, with preprocessing.json in models/."""
    write_bundle(model, folder, {"facts": asked.facts}, asked.name)
    sizes, models = _patch_only(model), folder / "models"
    write_preprocessing(model, models / WEIGHTS, sizes)

    def reload() -> Reloaded:
        """Its safetensors; its model.pt must hold the same."""
        networks = {m: load_network(models, m) for m in model.modalities}
        state = torch.load(models / "model.pt", weights_only=True)
        for network in networks.values():
            own = network.state_dict()
            if own.keys() != state.keys() or not all(torch.equal(own[n], state[n]) for n in own):
                raise ParityError(
                    "models/model.pt differs from the weights beside it. Export again."
                )
        return lambda image, modality: networks[modality](image)

    return Written(f"models/{WEIGHTS}", sizes, reload, f"docs/{CARD}")


def _loaded(folder: Path) -> Reloaded:
    segmenter = Model.load(folder).segmenter

    def run(image: Tensor, modality: str) -> Tensor:
        logits: Tensor = segmenter(image, modality).logits
        return logits

    return run


def _patch_only(model: Model) -> Sizes:
    patch = tuple(model.plan.patch)
    return Sizes(patch, model.backbone.multiple, (False,) * len(patch))


WRITERS: dict[str, Callable[[Model, Path, Asked], Written]] = {
    "safetensors": write_safetensors,
    "pt2": write_pt2,
    "onnx": write_onnx_folder,
    "bundle": write_bundle_folder,
}
WHAT = {
    "safetensors": "`model.safetensors`, `model.json`: weights and description; "
    "`unpaired predict --model` reads this folder",
    "pt2": "`model.pt2`: a graph for `torch.export.load`",
    "onnx": "`model.onnx`: a graph for onnxruntime; `unpaired predict --model` reads this folder",
    "bundle": "`configs`, `models`: a MONAI Bundle; `unpaired predict --model` reads this folder",
}


def write_preprocessing(model: Model, file: Path, sizes: Sizes, opset: int | None = None) -> None:
    """Write preprocessing.json beside the network in `file`: what a program needs to run it without
    this package; docs/export.md explains every field.

    Args:
        opset: of ONNX.
    """
    plan, axes = model.plan, list(AXES[-len(model.plan.patch) :])
    channels = max(model.channels.values())
    index = {m: i for i, m in enumerate(model.modalities)}
    is_graph = file.suffix in (".onnx", ".pt2")
    gains = {"name": "modality", "dtype": "int64", "shape": [1], "index": index}
    write_json(
        file.with_name(PREPROCESSING),
        {
            "format": FORMAT,
            "schema": SCHEMA,
            "model": {
                "file": file.name,
                "sha256": file_digest(file),
                "form": model.form,
                "opset": opset,
            },
            "image": {
                "name": "image",
                "dtype": "float32",
                "axes": ["batch", "channel", *axes],
                "shape": sizes.shape(channels),
                "fixed_axes": [name for name, f in zip(axes, sizes.free, strict=True) if not f],
                "smallest_free": [
                    2 * k if f else None for k, f in zip(sizes.step, sizes.free, strict=True)
                ],
                "channels": model.channels,
            },
            "modality": gains if is_graph and model.form == "gains" else None,
            "logits": {
                "name": "logits",
                "dtype": "float32",
                "axes": ["batch", "class", *axes],
                "shape": sizes.shape(len(plan.classes)),
            },
            "plan": plan.model_dump(mode="json"),
            "predict": model.config.predict.model_dump(mode="json"),
            "mirror_axes": [axes[i] for i in model.mirror_axes()],
        },
    )
