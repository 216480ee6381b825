"""Exporting: every network and format, each checked against the live one before it has a name."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import unpaired
from unpaired.artifact.card import facts_of, model_card
from unpaired.artifact.formats import CARD, GRAPHS, WHAT, WRITERS, Asked
from unpaired.artifact.graph import check_graph
from unpaired.artifact.model import Form, Model
from unpaired.artifact.onnx import need
from unpaired.artifact.parity import Parity, check_parity
from unpaired.artifact.places import RECORD, RECORD_FORMAT, model_folders
from unpaired.errors import UsageError
from unpaired.files import atomic_folder, printable, write_json, write_text
from unpaired.methods import method_of
from unpaired.progress import Progress


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
        raise UsageError(f"{printable(out)} holds the model to export. Choose another folder.")
    models = models_of(source, form, modalities)
    for model in models if set(chosen) & set(GRAPHS) else ():
        check_graph(model)
    asked = Asked(facts_of(source), out.name, fixed_size)
    work = _Work(source, models, asked, progress, len(chosen) * len(models))
    with atomic_folder(out) as folder:
        if len(chosen) == 1:
            work.format(folder, chosen[0], Path())
        else:
            for name in chosen:
                work.format(folder / name, name, Path(name))
            work.describe(folder, {"formats": chosen}, [f"`{n}`: {WHAT[n]}" for n in chosen])
    return Exported(out, models[0].form, tuple(chosen), work.parity)


def check_formats(formats: list[str]) -> list[str]:
    """The formats, each once; "all" stands for every one.

    Raises:
        UsageError: an unknown one, or the packages of one are not installed.
    """
    for name in formats:
        if name not in (*WRITERS, "all"):
            raise UsageError(
                f"there is no format {name!r}; choose from {', '.join(WRITERS)}, or all."
            )
    chosen = list(WRITERS) if "all" in formats else list(dict.fromkeys(formats))
    if "onnx" in chosen:
        need("onnx", "onnxscript", "onnxruntime")
    return chosen


def check_free(out: Path, overwrite: bool) -> None:
    """Raise UsageError where `out` holds something that this export may not replace."""
    if not out.exists() and not out.is_symlink():
        return
    if out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{printable(out)} exists. Choose another folder, or give --overwrite.")
    if out.is_symlink() or not (out / RECORD).is_file():
        raise UsageError(
            f"{printable(out)} was not written by an export, so it is not replaced. "
            "Choose another folder, or remove it yourself."
        )


def source_of(run: Path) -> Model:
    """The one model that `run` stands for.

    Raises:
        DataError: there is none.
        UsageError: there are several, or it holds no weights that can be exported.
    """
    folders = model_folders(run)
    if len(folders) > 1:
        names = ", ".join(printable(folder.parent) for folder in folders)
        raise UsageError(f"{printable(run)} holds several models. Export one at a time: {names}.")
    model = Model.load(folders[0])
    model.need_weights()
    return model


def models_of(source: Model, form: str, modalities: Sequence[str] = ()) -> list[Model]:
    """The models to write: one for the gains form, one per modality when folded.

    Args:
        modalities: which to fold; all by default.

    Raises:
        UsageError: unknown modalities, some named for the gains form, or a folded source cannot
            give the gains form.
    """
    for name in modalities:
        source.check_modality(name)
    if form == "folded":
        return [source.folded(m) for m in dict.fromkeys(modalities) or source.modalities]
    if modalities:
        raise UsageError(
            "--modality chooses networks to fold; the gains form is one network of all "
            "modalities. Leave --modality out, or give --form folded."
        )
    if source.form == "folded":
        raise UsageError(
            f"{printable(source.folder)} is folded already: its gains cannot be taken out of the "
            "weights. Give --form folded, or export from the run."
        )
    return [source]


def _check_one_pass(source: Model, formats: Sequence[str]) -> None:
    """Raise UsageError where the other formats would hold only half of the model."""
    if not method_of(source.config).one_pass and set(formats) != {"safetensors"}:
        raise UsageError(
            f"this model (model.name={source.config.model.name}) first looks for the structures "
            "and then segments one crop, which pt2, onnx and bundle cannot hold. Give --format "
            "safetensors."
        )


class _Work:
    """One export: what is the same for all its folders, and what was found in them."""

    def __init__(
        self,
        source: Model,
        models: Sequence[Model],
        asked: Asked,
        progress: Progress | None,
        total: int,
    ) -> None:
        self.models, self.asked = models, asked
        self.progress, self.total = progress, total
        # A copy: what a call leaves behind must not get into a graph of the written network.
        self.live = deepcopy(source.segmenter)
        self.parity: dict[str, Parity] = {}

    def format(self, folder: Path, name: str, below: Path) -> None:
        """All networks in one format: in `folder`, or when folded in a folder per modality."""
        if self.models[0].form == "gains":
            self.network(self.models[0], folder, name, below)
            return
        parts = [model.modalities[0] for model in self.models]
        for model, part in zip(self.models, parts, strict=True):
            self.network(model, folder / part, name, below / part)
        lines = [f"`{part}`: {WHAT[name]}" for part in parts]
        self.describe(folder, {"format_of_parts": name, "parts": parts}, lines)

    def network(self, model: Model, folder: Path, name: str, below: Path) -> None:
        """One network in one format, checked."""
        if self.progress is not None:
            self.progress(len(self.parity), self.total, f"write {below / name}")
        folder.mkdir(parents=True, exist_ok=True)
        asked = replace(self.asked, name="_".join([self.asked.name, *below.parts]))
        written = WRITERS[name](model, folder, asked)
        sizes = (written.sizes.patch, written.sizes.larger())
        what = str(below / written.file)
        parity = check_parity(self.live, model, written.reload(), sizes, what)
        self.parity[str(below)] = parity
        lines = [WHAT[name], "`preprocessing.json`: what the network expects as input"]
        card = model_card([model], asked.facts, asked.name, lines, parity.as_json())
        write_text(folder / written.card, card)
        self._record(folder, {"formats": [name], "parity": parity.as_json()})

    def describe(self, folder: Path, record: dict[str, Any], lines: Sequence[str]) -> None:
        """Card and record of a folder of folders."""
        card = model_card(self.models, self.asked.facts, self.asked.name, lines)
        write_text(folder / CARD, card)
        self._record(folder, record)

    def _record(self, folder: Path, content: dict[str, Any]) -> None:
        head = {"format": RECORD_FORMAT, "schema": 1, "form": self.models[0].form}
        versions = {"unpaired": unpaired.__version__, "torch": torch.__version__}
        content = {**head, **content, "versions": versions, "facts": self.asked.facts}
        write_json(folder / RECORD, content)
