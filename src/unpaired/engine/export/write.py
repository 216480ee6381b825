"""Exporting: every network and format, each checked against the live one before it has a name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import unpaired
from unpaired.data.paths import shown
from unpaired.engine.export.card import model_card
from unpaired.engine.export.facts import facts_of
from unpaired.engine.export.formats import GRAPHS, WRITERS, check_formats
from unpaired.engine.export.graph import check_graph
from unpaired.engine.export.layout import CARD, RECORD, RECORD_FORMAT, check_free, whole_folder
from unpaired.engine.export.parity import Parity, check_parity
from unpaired.engine.export.subject import Form, Subject, source_of, subjects
from unpaired.engine.members import Member
from unpaired.errors import UsageError
from unpaired.files import write_json, write_text

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
