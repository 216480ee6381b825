"""Exporting: every network and format, each checked against the live one before it has a name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import unpaired
from unpaired.artifact.bundle import load_network, write_bundle
from unpaired.artifact.card import facts_of, model_card
from unpaired.artifact.graph import Sizes, check_graph, graph_inputs, quiet, trace
from unpaired.artifact.model import (
    CARD,
    ONNX,
    PT2,
    RECORD,
    RECORD_FORMAT,
    Form,
    Member,
    Subject,
    check_free,
    source_of,
    subjects,
    whole_folder,
)
from unpaired.artifact.onnx import OPSET, load_onnx, need, write_onnx
from unpaired.artifact.parity import Parity, ParityError, Reloaded, check_parity
from unpaired.artifact.preprocessing import write_preprocessing
from unpaired.artifact.safetensors import WEIGHTS, load_model, save_model
from unpaired.errors import UsageError
from unpaired.files import shown, write_json, write_text

# One writer a format: it writes a network into a folder and says how to read it back.


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


Progress = Callable[[int, int, str], None]

WHAT = {
    "safetensors": "`model.safetensors`, `model.json`: weights and description; "
    "`unpaired predict --model` reads this folder",
    "pt2": "`model.pt2`: a graph for `torch.export.load`",
    "onnx": "`model.onnx`: a graph for onnxruntime; `unpaired predict --model` reads this folder",
    "bundle": "`configs`, `models`: a MONAI Bundle; `unpaired predict --model` reads this folder",
}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        parity: folder below `out` ("." for itself) -> how far its network is from the live one.
    """

    out: Path
    form: Form
    formats: tuple[str, ...]
    parity: dict[str, Parity]


def export(
    run: Path,
    out: Path,
    form: str = "gains",
    formats: Sequence[str] = ("safetensors",),
    modalities: Sequence[str] = (),
    *,
    fixed_size: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write the model of a run (its kept weights) to the folder `out`, whole or not at all.

    One format lies in `out` itself, several in `out`/<format>. The folded form has a folder per
    modality in there. Every folder holds a model card and the preprocessing as JSON.

    Args:
        run: a run, its model folder, or an earlier export in safetensors.
        form: gains: one network of all modalities; folded: a plain network per modality.
        formats: safetensors, pt2, onnx, bundle, or all.
        modalities: which to fold; all by default.
        fixed_size: pt2 and onnx take the patch's size only; else any legal size, where the network
            allows it.
        overwrite: replace an earlier export.
        progress: called with (done, all, what).

    Raises:
        UsageError: an unknown name, a form the model cannot have, a missing extra, or `out` is
            taken.
        ParityError: a written file does not answer as the live network does.
        DataError: the run has no model, or a damaged one.
        ResourceError: `out` cannot be written.
    """
    if form not in ("gains", "folded"):
        raise UsageError(f"there is no form {form!r}; choose gains or folded.")
    chosen = check_formats(list(formats) or ["safetensors"])
    check_free(out, overwrite)
    source = source_of(run)
    _check_one_pass(source, chosen)
    if source.folder.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"{shown(out)} holds the model to export. Choose another folder.")
    networks = subjects(source, "gains" if form == "gains" else "folded", modalities, fixed_size)
    for subject in networks if set(chosen) & set(GRAPHS) else ():
        check_graph(subject)
    work = _Work(networks, facts_of(source), out.name, len(chosen) * len(networks), progress)
    with whole_folder(out, overwrite) as folder:
        if len(chosen) == 1:
            work.format(folder, chosen[0], Path())
        else:
            for name in chosen:
                work.format(folder / name, name, Path(name))
            work.describe(folder, {"formats": chosen}, [f"`{n}`: {WHAT[n]}" for n in chosen])
    return Exported(out, networks[0].form, tuple(chosen), work.parity)


def _check_one_pass(source: Member, formats: Sequence[str]) -> None:
    """Raise UsageError where the other formats would hold only half of the model."""
    if source.plan.coarse is not None and set(formats) != {"safetensors"}:
        raise UsageError(
            f"this model (model.name={source.config.model.name}) first looks for the structures "
            "and then segments one crop, which pt2, onnx and bundle cannot hold. Give --format "
            "safetensors."
        )


class _Work:
    """One export: what is the same for all its folders, and what was found in them."""

    def __init__(
        self,
        networks: Sequence[Subject],
        facts: dict[str, Any],
        name: str,
        total: int,
        progress: Progress | None,
    ) -> None:
        self.networks, self.facts, self.name = networks, facts, name
        self.total, self.progress = total, progress
        self.parity: dict[str, Parity] = {}

    def format(self, folder: Path, name: str, below: Path) -> None:
        """All networks in one format: in `folder`, or when folded in a folder per modality."""
        if self.networks[0].form == "gains":
            self.network(self.networks[0], folder, name, below)
            return
        parts = [subject.modalities[0] for subject in self.networks]
        for subject, part in zip(self.networks, parts, strict=True):
            self.network(subject, folder / part, name, below / part)
        lines = [f"`{part}`: {WHAT[name]}" for part in parts]
        self.describe(folder, {"format_of_parts": name, "parts": parts}, lines)

    def network(self, subject: Subject, folder: Path, name: str, below: Path) -> None:
        """One network in one format, checked."""
        self._tell(f"write {below / name}")
        folder.mkdir(parents=True, exist_ok=True)
        title = "_".join([self.name, *below.parts])
        written = WRITERS[name](subject, folder, {"facts": self.facts}, title)
        sizes = (written.sizes.patch, written.sizes.larger())
        found = check_parity(subject, written.reload(), sizes, str(below / written.file))
        self.parity[str(below)] = found
        lines = [WHAT[name], "`preprocessing.json`: what the network expects as input"]
        card = model_card([subject], self.facts, title, lines, found.as_json())
        write_text(folder / written.card, card)
        self._record(folder, subject.form, {"formats": [name], "parity": found.as_json()})

    def describe(self, folder: Path, record: dict[str, Any], lines: Sequence[str]) -> None:
        """Card and record of a folder of folders."""
        write_text(folder / CARD, model_card(self.networks, self.facts, self.name, lines))
        self._record(folder, self.networks[0].form, record)

    def _record(self, folder: Path, form: Form, content: dict[str, Any]) -> None:
        head = {"format": RECORD_FORMAT, "schema": 1, "form": form}
        versions = {"unpaired": unpaired.__version__, "torch": torch.__version__}
        content = {**head, **content, "versions": versions, "facts": self.facts}
        write_json(folder / RECORD, content)

    def _tell(self, what: str) -> None:
        if self.progress is not None:
            self.progress(len(self.parity), self.total, what)


# Exported forms of a trained model, each written whole, checked, and only then named.
