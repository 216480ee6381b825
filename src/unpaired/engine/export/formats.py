"""One writer a format: it writes a network into a folder and says how to read it back."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unpaired.engine.export.bundle import load_network, write_bundle
from unpaired.engine.export.graph import Sizes, graph_inputs, quiet, trace
from unpaired.engine.export.layout import CARD, ONNX, PT2
from unpaired.engine.export.onnx_file import OPSET, load_onnx, need, write_onnx
from unpaired.engine.export.parity import ParityError, Reloaded
from unpaired.engine.export.preprocessing import write_preprocessing
from unpaired.engine.export.subject import Subject
from unpaired.engine.model_file import WEIGHTS, load_model, save_model
from unpaired.errors import UsageError

FORMATS = ("safetensors", "pt2", "onnx", "bundle")
GRAPHS = ("pt2", "onnx")


@dataclass(frozen=True)
class Written:
    """A network in files.

    Attributes:
        file: its path below the folder, for messages.
        card: where the model card belongs, below the folder.
        sizes: the input sizes it takes.
        reload: reads the files back, and gives what is compared with the live network.
    """

    file: str
    card: str
    sizes: Sizes
    reload: Callable[[], Reloaded]


def write_safetensors(subject: Subject, folder: Path, extra: dict[str, Any], name: str) -> Written:
    """model.safetensors, model.json and preprocessing.json."""
    save_model(subject.network, subject.config, subject.plan, folder, extra)
    sizes = _patch_only(subject)
    write_preprocessing(subject, folder, WEIGHTS, sizes)
    return Written(WEIGHTS, CARD, sizes, lambda: _safetensors(folder))


def _safetensors(folder: Path) -> Reloaded:
    network = load_model(folder)[0]
    return lambda image, modality: network(image, modality).logits


def write_pt2(subject: Subject, folder: Path, extra: dict[str, Any], name: str) -> Written:
    """model.pt2 and preprocessing.json."""
    program, sizes = trace(subject)
    with quiet():
        torch.export.save(program, folder / PT2)
    write_preprocessing(subject, folder, PT2, sizes)
    return Written(PT2, CARD, sizes, lambda: _pt2(subject, folder))


def _pt2(subject: Subject, folder: Path) -> Reloaded:
    graph = torch.export.load(folder / PT2).module()

    def run(image: Tensor, modality: str) -> Tensor:
        logits: Tensor = graph(*graph_inputs(subject, image, modality))
        return logits

    return run


def write_onnx_folder(subject: Subject, folder: Path, extra: dict[str, Any], name: str) -> Written:
    """model.onnx and preprocessing.json."""
    program, sizes = trace(subject)
    write_onnx(program, folder / ONNX)
    write_preprocessing(subject, folder, ONNX, sizes, OPSET)
    return Written(ONNX, CARD, sizes, lambda: _onnx(folder))


def _onnx(folder: Path) -> Reloaded:
    network = load_onnx(folder)[0]
    return lambda image, modality: network(image, modality).logits


def write_bundle_folder(
    subject: Subject, folder: Path, extra: dict[str, Any], name: str
) -> Written:
    """A MONAI Bundle, with preprocessing.json in models/."""
    write_bundle(subject, folder, extra, name)
    sizes = _patch_only(subject)
    write_preprocessing(subject, folder / "models", WEIGHTS, sizes)
    return Written(f"models/{WEIGHTS}", f"docs/{CARD}", sizes, lambda: _bundle(subject, folder))


def _bundle(subject: Subject, folder: Path) -> Reloaded:
    """Its safetensors; its model.pt must hold the same."""
    models = folder / "models"
    networks = {m: load_network(models, m) for m in subject.modalities}
    state = torch.load(models / "model.pt", weights_only=True)
    for network in networks.values():
        own = network.state_dict()
        if own.keys() != state.keys() or not all(torch.equal(own[n], state[n]) for n in own):
            raise ParityError("models/model.pt differs from the weights beside it. Export again.")
    return lambda image, modality: networks[modality](image)


WRITERS: dict[str, Callable[[Subject, Path, dict[str, Any], str], Written]] = {
    "safetensors": write_safetensors,
    "pt2": write_pt2,
    "onnx": write_onnx_folder,
    "bundle": write_bundle_folder,
}


def check_formats(formats: list[str]) -> list[str]:
    """The formats, each once; "all" stands for every one.

    Raises:
        UsageError: an unknown one, or the packages of one are not installed.
    """
    for name in formats:
        if name not in (*FORMATS, "all"):
            raise UsageError(
                f"there is no format {name!r}; choose from {', '.join(FORMATS)}, or all."
            )
    chosen = list(FORMATS) if "all" in formats else list(dict.fromkeys(formats))
    if "onnx" in chosen:
        need("onnx", "onnxscript", "onnxruntime")
    return chosen


def _patch_only(subject: Subject) -> Sizes:
    patch = tuple(subject.plan.patch)
    return Sizes(patch, subject.backbone.multiple, (False,) * len(patch))
