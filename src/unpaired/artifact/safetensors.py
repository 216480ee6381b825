"""The exported model: safetensors, never pickle. The weights file alone is a whole model.

`model.safetensors` carries in its header the format, modalities, labels, a sha256 of the tensors
and the full description (configuration, plan). `model.json` beside it is the same description for
people and other programs; it must agree with the weights file.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import unpaired
from unpaired.backbones import Backbone
from unpaired.config import Config
from unpaired.data.plan import Plan
from unpaired.errors import DataError, UsageError
from unpaired.files import atomic, printable, read_json, write_text
from unpaired.methods import method_of
from unpaired.models.fold import Folded
from unpaired.models.segmenter import GainTable, Segmenter

Network = TypeVar("Network", bound=nn.Module)
FORMAT, SCHEMA = "unpaired-segmenter", 1
GAINS, FOLDED = "gains", "folded"
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
_LARGEST = 2**30
"""Bytes of tables that are computed and not stored; a window of 56 x 56 takes 75 MiB a block."""


def build_shapes(build: Callable[[], Network], tensors: int) -> Network:
    """The network on the device "meta": names, shapes and types without content, to compare with a
    file before anything is allocated.

    Args:
        build: what makes it.
        tensors: how many the file holds; a network of far more is given up while it is built.

    Raises:
        ValueError: it is far larger than the file.
        Exception: whatever the backbone raises; the description is at fault.
    """
    with torch.device("meta"), _Bounded(100 * (tensors + 100)):
        network = build()
    stored = network.state_dict().keys()
    tables = sum(b.nbytes for name, b in network.named_buffers() if name not in stored)
    if tables > _LARGEST:
        raise ValueError(f"its windows need tables of {tables} bytes")
    return network


class _Bounded(TorchFunctionMode):
    """Counts calls of torch, and leaves on the CPU what is read while a network is built."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        self.left -= 1
        if func is torch.linspace:
            self.left -= int(kwargs["steps"] if "steps" in kwargs else args[2])
            kwargs["device"] = "cpu"
        if self.left < 0:
            raise ValueError("it has far more layers than the file has tensors")
        # Nothing to fill, and asking torch to would load its compiler: a second of every start.
        if func is Tensor.normal_ or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def write_safetensors(
    network: nn.Module, config: Config, plan: Plan, folder: Path, extra: dict[str, Any]
) -> None:
    """Write the weights file and the copy of its description; see `Model.save`.

    Args:
        network: the gains form, or the folded form of the plan's one modality: a plain backbone.
    """
    tensors = {n: t.detach().cpu().contiguous() for n, t in network.state_dict().items()}
    description = {
        "format": FORMAT,
        "schema": SCHEMA,
        "form": GAINS if isinstance(network, Segmenter) else FOLDED,
        "modalities": list(plan.modalities),
        "labels": list(plan.classes),
        "parameters": sum(p.numel() for p in network.parameters()),
        "sha256": tensor_digest(tensors),
        "versions": {
            "unpaired": unpaired.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "config": without_folders(config).model_dump(mode="json"),
        "plan": plan.model_dump(mode="json"),
        "extra": extra,
    }
    text = json.dumps(description, allow_nan=False)
    metadata = {
        "format": FORMAT,
        "schema": str(SCHEMA),
        "modalities": json.dumps(description["modalities"]),
        "labels": json.dumps(description["labels"]),
        "sha256": tensor_digest(tensors),
        "description": text,
        "description_sha256": _digest(text),
    }
    with atomic(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata)
    write_text(folder / DESCRIPTION, json.dumps(description, indent=2, allow_nan=False) + "\n")


def without_folders(config: Config) -> Config:
    """The configuration with the names of its files, not the folders of the machine they lie on:
    a model is passed on."""

    def name(path: str | None) -> str | None:
        return path and Path(path).name

    data = config.data.model_copy(update={"splits": name(config.data.splits)})
    model = config.model.model_copy(update={"pretrained": name(config.model.pretrained)})
    train = config.train.model_copy(update={"init_from": name(config.train.init_from)})
    return config.model_copy(update={"data": data, "model": model, "train": train})


def read_safetensors(folder: Path) -> tuple[Segmenter | Folded, Plan, Config, str]:
    """Read what `write_safetensors` wrote, on the CPU, in evaluation mode.

    Returns:
        network, plan, configuration, and their fingerprint (hexadecimal).

    Raises:
        DataError: missing, damaged, changed, foreign, newer, or not fitting its own description.
    """
    path = folder / WEIGHTS
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    with _told(path):
        form, config, plan = _checked(path, tensors, metadata)
        network = _filled(path, tensors, form, config, plan)
    digest = _digest(metadata["sha256"] + metadata["description_sha256"])
    return network, plan, config, digest


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever a description makes the parser or the network raise is the file's fault."""
    try:
        yield
    except (
        *(UsageError, ArithmeticError, AssertionError, AttributeError, LookupError),
        *(MemoryError, RuntimeError, TypeError, ValueError),
    ) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(
            f"the network in {printable(path)} cannot be built: {reason}. "
            "Export the model again, or ask for a whole copy."
        ) from error


def _checked(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]
) -> tuple[str, Config, Plan]:
    """Form and description, once it is known to be whole and to belong to these tensors."""
    description = _description(path, metadata)
    if tensor_digest(tensors) != metadata.get("sha256"):
        raise DataError(
            f"{printable(path)} was changed after it was written (its sha256 does not match). "
            "Export the model again, or restore the file from a copy."
        )
    _check_copy(path.with_name(DESCRIPTION), description)
    form = description.get("form", GAINS)  # files before there were two do not say it
    if form not in (GAINS, FOLDED):
        raise DataError(f"{printable(path)} holds an unknown form of network. Update unpaired.")
    return form, *_config_and_plan(path, description)


def tensor_digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        raw = tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.empty(0)
        digest.update(raw.data)
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Only the safetensors parser ever sees the bytes."""
    if not path.is_file():
        raise DataError(
            f"there is no {WEIGHTS} in {printable(path.parent)}. Name a folder that `unpaired "
            "train` or `unpaired export` has written."
        )
    try:
        with path.open("rb") as plain:
            head = plain.read(9)
        # A safetensors header begins at byte 8; the length before it may look like anything.
        if head[8:] != b"{" and (head[:1] == b"\x80" or head[:2] == b"PK"):
            raise DataError(
                f"{printable(path)} is a pickle, which can run code when it is opened; it was not. "
                "Ask for the model as safetensors."
            )
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise DataError(
            f"{printable(path)} is not a whole safetensors file ({error}). "
            "Copy it again, or export the model again."
        ) from error


def _description(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The description in the weights file, its schema and digest checked."""
    if metadata.get("format") != FORMAT:
        raise DataError(
            f"{printable(path)} was not written by this program. Give a folder exported by "
            "`unpaired`."
        )
    schema = metadata.get("schema", "")
    if not schema.isdecimal() or len(schema) > 9 or int(schema) > SCHEMA:
        raise DataError(
            f"{printable(path)} has schema {printable(schema[:9]) or 'none'}, this version reads "
            f"up to {SCHEMA}. Update unpaired."
        )
    text = metadata.get("description", "")
    if _digest(text) != metadata.get("description_sha256"):
        raise DataError(
            f"the description in {printable(path)} was changed after it was written. "
            "Export the model again, or restore the file from a copy."
        )
    try:
        description = json.loads(text)
    except ValueError as error:
        raise DataError(f"the description in {printable(path)} is not JSON: {error}.") from error
    if not isinstance(description, dict):
        raise DataError(f"the description in {printable(path)} is not a table. Export it again.")
    for name in ("modalities", "labels"):  # for other programs; ours reads the description
        if metadata.get(name) != json.dumps(description.get(name)):
            raise DataError(
                f"the {name} in the header of {printable(path)} were changed after it was written. "
                "Export the model again, or restore the file from a copy."
            )
    return description


def _check_copy(path: Path, description: dict[str, Any]) -> None:
    if path.exists() and read_json(path) != description:
        raise DataError(
            f"{printable(path)} does not belong to {WEIGHTS} beside it: it was edited, or writing "
            f"was interrupted. Delete it (the weights file holds its own description), or export "
            "again."
        )


def _config_and_plan(path: Path, description: dict[str, Any]) -> tuple[Config, Plan]:
    try:
        config = Config.model_validate_json(json.dumps(description.get("config")))
        plan = Plan.model_validate_json(json.dumps(description.get("plan")), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"the description in {printable(path)} does not fit this version: {where}: "
            f"{first['msg']}. Use the version of unpaired that wrote it."
        ) from error
    return config, plan


def _filled(
    path: Path, tensors: dict[str, Tensor], form: str, config: Config, plan: Plan
) -> Segmenter | Folded:
    # Shapes first: a description must not be able to ask for more memory than its file has.
    build = _segmenter_for if form == GAINS else _backbone_for
    shapes = build_shapes(lambda: build(config, plan, tensors), len(tensors))
    _check_fit(path, shapes.state_dict(), tensors)
    # The random start is overwritten; the caller's random numbers must not notice it.
    with torch.random.fork_rng(devices=[]):
        network = build(config, plan, tensors)
    network.load_state_dict(tensors)
    network.eval().requires_grad_(False)
    if isinstance(network, Segmenter):
        return network
    return Folded(dict.fromkeys(plan.modalities, network))


def _segmenter_for(config: Config, plan: Plan, tensors: Mapping[str, Tensor]) -> Segmenter:
    """Untrained, with room for the gains that the file holds and that fit."""
    segmenter = method_of(config).segmenter(config, plan)
    for modality in segmenter.modalities:
        phi = tensors.get(f"gains.{modality}.phi")
        size = (sum(segmenter.branches.values()),)
        if phi is not None and phi.dtype == torch.float32 and tuple(phi.shape) == size:
            segmenter.gains[modality] = GainTable(phi)
    return segmenter


def _backbone_for(config: Config, plan: Plan, tensors: Mapping[str, Tensor]) -> Backbone:
    """The plain backbone that folding leaves of one modality, untrained, with room for the biases
    that folding a stem adds to layers that have none."""
    if len(plan.modalities) != 1:
        raise ValueError(f"a folded network has one modality, its plan {len(plan.modalities)}")
    backbone = method_of(config).backbone(config, plan)
    for path in backbone.input_layers:
        layer, bias = backbone.get_submodule(path), tensors.get(f"{path}.bias")
        width = getattr(layer, "out_channels", None)
        if layer.bias is None and bias is not None and tuple(bias.shape) == (width,):
            where = layer.weight.device
            layer.bias = nn.Parameter(torch.empty(bias.shape, device=where))
    return backbone


def _check_fit(path: Path, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Same names, shapes and types; `load_state_dict` alone would convert types silently."""
    reasons = [f"{name} is missing" for name in expected.keys() - found.keys()]
    reasons += [f"{name} is unknown" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        kinds = [f"{t.dtype} {tuple(t.shape)}" for t in (expected[name], found[name])]
        if kinds[0] != kinds[1]:
            reasons.append(f"{name} should be {kinds[0]}, is {kinds[1]}")
    if reasons:
        raise DataError(
            f"the weights in {printable(path)} do not fit the network they describe: "
            f"{'; '.join(sorted(reasons)[:3])}. Export the model again with this version."
        )
