"""preprocessing.json: what a program needs to run an exported network without this package.

docs/export.md explains every field.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from unpaired.artifact.graph import AXES, Sizes
from unpaired.artifact.model import PREPROCESSING, Subject
from unpaired.config import Config
from unpaired.data.plan import Plan
from unpaired.errors import DataError
from unpaired.files import read_json, shown, write_json

FORMAT, SCHEMA = "unpaired-preprocessing", 1


@dataclass(frozen=True)
class Described:
    """What preprocessing.json says, checked."""

    form: str
    modalities: tuple[str, ...]
    plan: Plan
    config: Config
    """Defaults, but for the inference settings; float32."""
    digest: str
    """Of the model file and this description."""


def write_preprocessing(
    subject: Subject, folder: Path, file: str, sizes: Sizes, opset: int | None = None
) -> None:
    """Write `folder`/preprocessing.json for the network in `folder`/`file`.

    Args:
        opset: of ONNX.
    """
    plan, axes = subject.plan, list(AXES[-len(subject.plan.patch) :])
    channels = max(subject.channels.values())
    index = {m: i for i, m in enumerate(subject.modalities)}
    is_graph = file.endswith((".onnx", ".pt2"))
    gains = {"name": "modality", "dtype": "int64", "shape": [1], "index": index}
    write_json(
        folder / PREPROCESSING,
        {
            "format": FORMAT,
            "schema": SCHEMA,
            "model": {
                "file": file,
                "sha256": file_digest(folder / file),
                "form": subject.form,
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
                "channels": subject.channels,
            },
            "modality": gains if is_graph and subject.form == "gains" else None,
            "logits": {
                "name": "logits",
                "dtype": "float32",
                "axes": ["batch", "class", *axes],
                "shape": sizes.shape(len(plan.classes)),
            },
            "plan": plan.model_dump(mode="json"),
            "predict": subject.config.predict.model_dump(mode="json"),
            "mirror_axes": [axes[i] for i in subject.source.mirror_axes()],
        },
    )


def read_preprocessing(folder: Path) -> Described:
    """Read what `write_preprocessing` wrote, and check that its model file is the one it means.

    Raises:
        DataError: missing, damaged, foreign, newer, or of another model file.
    """
    path = folder / PREPROCESSING
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f"{shown(path)} was not written by an export. Export again.")
    if found.get("schema") != SCHEMA:
        raise DataError(f"{shown(path)} is of a newer version. Update unpaired.")
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
            f"{shown(path)} does not fit this version: {reason}. Export again."
        ) from error
    if not (folder / file).is_file() or file_digest(folder / file) != expected:
        raise DataError(
            f"{shown(folder / file)} is not the file that {PREPROCESSING} beside it describes. "
            "Export again, or restore both from a copy."
        )
    text = json.dumps([expected, modalities, plan.model_dump(mode="json")])
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Described(form, modalities, plan, config, digest)


def file_digest(path: Path) -> str:
    """sha256 of a file and of those that continue its name (the data of a large ONNX model)."""
    digest = hashlib.sha256()
    for part in sorted(path.parent.glob(f"{path.name}*")):
        with part.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
