"""ONNX: written from the traced graph, and run by onnxruntime in the place of the network."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import ExportedProgram

from unpaired.artifact.graph import quiet
from unpaired.artifact.model import ONNX
from unpaired.artifact.preprocessing import read_preprocessing
from unpaired.backbones.base import Decoded
from unpaired.config import Config
from unpaired.data.plan import Plan
from unpaired.errors import DataError, UsageError
from unpaired.files import shown
from unpaired.models.fold import Folded

OPSET = 20
_LARGEST_FILE = 2**31 - 2**24
"""Bytes; protocol buffers end at 2 GiB, and weights of larger models lie beside the graph."""


def need(*packages: str) -> None:
    """Raise UsageError naming the extra where one of these packages is missing."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"ONNX needs {' and '.join(missing)}, which is not installed here. "
            "Install the extra: pip install 'unpaired[onnx]'."
        )


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


class OnnxGraph(nn.Module):
    """A graph in onnxruntime, on the CPU, called as a network of one modality.

    Raises:
        DataError: the file is not a whole ONNX model.
        UsageError: onnxruntime is not installed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        need("onnxruntime")
        onnxruntime: Any = import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session: Any = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors share no other base
            reason = str(error).strip().split("\n")[0]
            raise DataError(
                f"onnxruntime cannot open {shown(path)}: {reason}. Export again."
            ) from error

    def run(self, image: Float[Tensor, "B K *space"], **more: Tensor) -> Decoded:
        """Logits on the device of the image."""
        given = {"image": image.float().cpu().numpy(), **{k: t.numpy() for k, t in more.items()}}
        (logits,) = self.session.run(["logits"], given)
        return Decoded(torch.from_numpy(logits).to(image.device), ())

    def forward(self, image: Float[Tensor, "B K *space"]) -> Decoded:
        return self.run(image)


class OnnxGains(nn.Module):
    """The gains form in onnxruntime, called with images and a modality.

    Args:
        graph: its inputs are `image` and `modality`.
        modalities: the names, in the order of their index.
    """

    def __init__(self, graph: OnnxGraph, modalities: Sequence[str]) -> None:
        super().__init__()
        self.graph, self.modalities = graph, tuple(modalities)
        (self.channels,) = (i.shape[1] for i in graph.session.get_inputs() if i.name == "image")

    def forward(self, image: Float[Tensor, "B K *space"], modality: str) -> Decoded:
        missing = self.channels - image.shape[1]
        if missing:
            zeros = image.new_zeros(len(image), missing, *image.shape[2:])
            image = torch.cat([image, zeros], 1)
        return self.graph.run(image, modality=torch.tensor([self.modalities.index(modality)]))


def load_onnx(folder: Path) -> tuple[nn.Module, Plan, Config, str]:
    """The network of an ONNX export, its plan, its inference settings, and its fingerprint.

    Raises:
        DataError: damaged, or another file than its preprocessing.json describes.
        UsageError: onnxruntime is not installed.
    """
    need("onnxruntime")
    about = read_preprocessing(folder)
    graph = OnnxGraph(folder / ONNX)
    network: nn.Module
    if about.form == "gains":
        network = OnnxGains(graph, about.modalities)
    else:
        network = Folded({about.modalities[0]: graph})
    return network.eval(), about.plan, about.config, about.digest
