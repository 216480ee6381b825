"""MONAI Bundle: configs/metadata.json, configs/inference.json, models/, docs/, LICENSE.

Preprocessing, tiling and the way back to the image's grid are `Predictor`'s, so the bundle gives
the labels of `unpaired predict`.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

import unpaired
from unpaired.artifact.model import Model
from unpaired.artifact.onnx import PREPROCESSING
from unpaired.errors import UsageError
from unpaired.files import atomic, write_json, write_text

SCHEMA_URL = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
MONAI_VERSION = "1.5.0"
"""Stated where MONAI is not installed: the oldest that the configuration is meant for."""
LICENSE_TEXT = """No licence has been chosen for this model.

Replace this file by the licence under which you share the weights, for example Apache-2.0 or
CC-BY-4.0. The licences of the scans and labels that it was trained on may limit the choice. The
software `unpaired` is under Apache-2.0, whatever you choose here.
"""


class OneModality(nn.Module):
    """A model for images of one modality: what MONAI calls a network.

    Args:
        network: called with images and a modality.
    """

    def __init__(self, network: nn.Module, modality: str) -> None:
        super().__init__()
        self.network, self.modality = network, modality

    def forward(self, image: Float[Tensor, "B K *space"]) -> Float[Tensor, "B Z *space"]:
        logits: Tensor = self.network(image, self.modality).logits
        return logits


def load_network(folder: str | Path, modality: str) -> OneModality:
    """The bundle's `network_def`: reads safetensors, never a pickle.

    Args:
        folder: the bundle's models/.
        modality: one of the model's.

    Raises:
        DataError: missing or damaged.
        UsageError: the model does not know the modality.
    """
    model = Model.load(Path(folder))
    if modality not in model.modalities:
        known = ", ".join(model.modalities)
        raise UsageError(f"the model does not know the modality {modality!r}; it knows {known}.")
    return OneModality(model.segmenter, modality)


def write_bundle(model: Model, folder: Path, extra: dict[str, Any], name: str) -> None:
    """Write everything but docs/README.md and preprocessing.json.

    models/model.pt holds the state dictionary that the specification asks for (tensors only, for
    `torch.load(weights_only=True)`); nothing of ours reads it.
    """
    models = folder / "models"
    model.save(models, extra)
    state = load_network(models, model.modalities[0]).state_dict()
    with atomic(models / "model.pt") as temporary:
        torch.save(dict(state), temporary)
    write_json(folder / "configs" / "metadata.json", metadata(model, name))
    write_json(folder / "configs" / "inference.json", inference(model))
    write_text(folder / "LICENSE", LICENSE_TEXT)


def metadata(model: Model, name: str) -> dict[str, Any]:
    """The fields of MONAI's schema, and no invented ones."""
    plan, patch = model.plan, list(model.plan.patch)
    first = model.modalities[0]
    classes = dict(enumerate(plan.classes))
    channels = [f"{c} {k}" for c in plan.modalities[first].channel_names for k in _offsets(plan)]
    common = {"type": "image", "spatial_shape": patch, "dtype": "float32", "value_range": []}
    return {
        "schema": SCHEMA_URL,
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported by unpaired"},
        "monai_version": _installed("monai", MONAI_VERSION),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": _installed("numpy", "2.0.0"),
        "required_packages_version": {"unpaired": unpaired.__version__},
        "name": name,
        "task": f"Segmentation of {', '.join(plan.classes[1:])}",
        "description": (
            f"One network for {', '.join(model.modalities)}, trained on unpaired scans "
            f"({model.config.model.network}). See docs/README.md."
        ),
        "authors": "to be filled in by whoever shares this model",
        "copyright": "to be filled in by whoever shares this model",
        "data_source": "see docs/README.md",
        "data_type": "nibabel",
        "intended_use": "Research only. Not a medical device.",
        "network_data_format": {
            "inputs": {
                "image": {
                    **common,
                    "format": "magnitude",
                    "modality": first,
                    "num_channels": model.channels[first],
                    "is_patch_data": True,
                    "channel_def": dict(enumerate(channels)),
                }
            },
            "outputs": {
                "pred": {
                    **common,
                    "format": "labels",
                    "num_channels": len(plan.classes),
                    "is_patch_data": True,
                    "channel_def": classes,
                }
            },
        },
    }


def _offsets(plan: Any) -> list[str]:
    """How the neighbouring slices of a channel are called; one empty name where there are none."""
    if plan.context == 1:
        return [""]
    return [f"slice {k:+d}" for k in range(-(plan.context // 2), plan.context // 2 + 1)]


def inference(model: Model) -> dict[str, Any]:
    """`python -m monai.bundle run --config_file configs/inference.json --bundle_root . ...`."""
    return {
        "imports": ["$import torch", "$from pathlib import Path"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/eval'",
        "modality": model.modalities[0],
        "device": "$'cuda' if torch.cuda.is_available() else 'cpu'",
        "network_def": {
            "_target_": "unpaired.load_network",
            "folder": "$@bundle_root + '/models'",
            "modality": "@modality",
        },
        "network": "$@network_def.to(@device)",
        "predictor": {
            "_target_": "unpaired.Predictor.from_folder",
            "run": "$@bundle_root + '/models'",
            "device": "@device",
        },
        "preprocessing": f"$@bundle_root + '/models/{PREPROCESSING}'",
        "inferer": "$@predictor.predict_folder",
        "run": ["$@inferer(Path(@dataset_dir), Path(@output_dir), @modality)"],
    }


def _installed(package: str, otherwise: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return otherwise
