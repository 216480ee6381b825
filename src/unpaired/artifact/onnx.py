"""ONNX, read: the graph in onnxruntime takes the place of the network."""

import hashlib
import json
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from pydantic import ValidationError
from torch import Tensor, nn

from unpaired.backbones.base import Decoded
from unpaired.config import Config
from unpaired.data.plan import Plan
from unpaired.errors import DataError, UsageError
from unpaired.files import printable, read_json
from unpaired.models.fold import Folded

ONNX, PREPROCESSING = "model.onnx", "preprocessing.json"
FORMAT, SCHEMA = "unpaired-preprocessing", 1
"""Of preprocessing.json."""


def need(*packages: str) -> None:
    """Raise UsageError naming the extra where one of these packages is missing."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"ONNX needs {' and '.join(missing)}, which is not installed here. "
            "Install the extra: pip install 'unpaired[onnx]'."
        )


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
                f"onnxruntime cannot open {printable(path)}: {reason}. Export again."
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


def read_onnx(folder: Path) -> tuple[nn.Module, Plan, Config, str]:
    """The network of an ONNX export, its plan, its inference settings, and its fingerprint.

    Raises:
        DataError: damaged, or another file than its preprocessing.json describes.
        UsageError: onnxruntime is not installed.
    """
    need("onnxruntime")
    about = _described(folder)
    graph = OnnxGraph(folder / ONNX)
    network: nn.Module
    if about.form == "gains":
        network = OnnxGains(graph, about.modalities)
    else:
        network = Folded({about.modalities[0]: graph})
    return network.eval(), about.plan, about.config, about.digest


class _Described(NamedTuple):
    """What preprocessing.json says, checked."""

    form: str
    modalities: tuple[str, ...]
    plan: Plan
    config: Config
    """Defaults, but for the inference settings; float32."""
    digest: str
    """Of the model file and this description."""


def _described(folder: Path) -> _Described:
    """preprocessing.json, read; its model file must be the one it means."""
    path = folder / PREPROCESSING
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f"{printable(path)} was not written by an export. Export again.")
    if found.get("schema") != SCHEMA:
        raise DataError(f"{printable(path)} is of a newer version. Update unpaired.")
    try:
        model = found["model"]
        plan = Plan.model_validate_json(json.dumps(found["plan"]), strict=True)
        settings = {
            "predict": found["predict"],
            "augment": {"mirror": "auto" if found["mirror_axes"] else "none"},
            "train": {"precision": "fp32"},
        }
        config = Config.model_validate_json(json.dumps(settings))
        file, form, expected = model["file"], model["form"], model["sha256"]
        named = found["modality"]["index"] if form == "gains" else plan.modalities
        modalities = tuple(named)
        if set(modalities) != set(plan.modalities) or Path(file).name != file:
            raise ValueError("its parts do not fit each other")
        if form == "folded" and len(modalities) != 1:
            raise ValueError(f"a folded network of {len(modalities)} modalities")
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(
            f"{printable(path)} does not fit this version: {reason}. Export again."
        ) from error
    if not (folder / file).is_file() or file_digest(folder / file) != expected:
        raise DataError(
            f"{printable(folder / file)} is not the file that {PREPROCESSING} beside it describes. "
            "Export again, or restore both from a copy."
        )
    text = json.dumps([expected, modalities, plan.model_dump(mode="json")])
    digest = hashlib.sha256(text.encode()).hexdigest()
    return _Described(form, modalities, plan, config, digest)


def file_digest(path: Path) -> str:
    """sha256 of a file and of those that continue its name (the data of a large ONNX model)."""
    digest = hashlib.sha256()
    for part in sorted(path.parent.glob(f"{path.name}*")):
        with part.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
