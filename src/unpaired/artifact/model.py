"""From folders to the networks that predict together."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from unpaired.artifact.safetensors import WEIGHTS, load_model, model_digest
from unpaired.backbones import Backbone
from unpaired.build import input_channels
from unpaired.config import Config
from unpaired.data.augment import mirror_axes
from unpaired.data.plan import Plan
from unpaired.errors import DataError, ResourceError, UsageError
from unpaired.files import read_json, shown
from unpaired.inference.inferer import Network, mean_probabilities, mirrored
from unpaired.inference.located import Located
from unpaired.models import Segmenter, fold
from unpaired.models.fold import Folded
from unpaired.names import did_you_mean

# Names of what an export holds, and folders that appear under their name only when whole.


ONNX, PT2, PREPROCESSING = "model.onnx", "model.pt2", "preprocessing.json"
RECORD, CARD = "export.json", "README.md"
RECORD_FORMAT = "unpaired-export"


def parts_of(folder: Path) -> dict[str, Path]:
    """Modality -> folder, of a folded export that has one a modality; empty for anything else.

    Raises:
        DataError: its record is damaged, or a part is missing.
    """
    path = folder / RECORD
    if not path.is_file():
        return {}
    parts = read_record(folder).get("parts", [])
    if not isinstance(parts, list) or not all(_is_plain(name) for name in parts):
        raise DataError(f"{shown(path)} is not what an export writes. Export again.")
    for name in parts:
        if not (folder / name).is_dir():
            raise DataError(
                f"{shown(folder)} should hold the folder {name}. Export again, or name one of its "
                "folders."
            )
    return {name: folder / name for name in parts}


def read_record(folder: Path) -> dict[str, Any]:
    """The content of export.json.

    Raises:
        DataError: missing, damaged, foreign, or newer.
    """
    found = read_json(folder / RECORD)
    if not isinstance(found, dict) or found.get("format") != RECORD_FORMAT:
        raise DataError(f"{shown(folder / RECORD)} is not what an export writes. Export again.")
    if found.get("schema") != 1:
        raise DataError(f"{shown(folder / RECORD)} is of a newer version. Update unpaired.")
    return found


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier()


@contextmanager
def whole_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `out`; on success it is flushed and takes that name.

    Whatever ends the block early, `out` is as it was.

    Args:
        overwrite: replace an earlier export.

    Raises:
        UsageError: `out` exists and may not be replaced.
        ResourceError: it cannot be written.
    """
    check_free(out, overwrite)
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("r+b") as file:  # Windows flushes only what may be written
                    os.fsync(file.fileno())
        _take_name(temporary, out)
    except OSError as error:
        raise ResourceError(
            f"cannot write {shown(out)}: {error.strerror or error}. "
            "Choose a folder that is yours to write and has space left."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(out: Path, overwrite: bool) -> None:
    """Raise UsageError where `out` holds something that this export may not replace."""
    if not out.exists() and not out.is_symlink():
        return
    if out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{shown(out)} exists. Choose another folder, or give --overwrite.")
    if out.is_symlink() or not (out / RECORD).is_file():
        raise UsageError(
            f"{shown(out)} was not written by an export, so it is not replaced. "
            "Choose another folder, or remove it yourself."
        )


def _take_name(temporary: Path, out: Path) -> None:
    """Move into place; an earlier export stands aside until that is done."""
    if not out.exists():
        temporary.rename(out)
        return
    aside = temporary.with_name(temporary.name + ".old")
    out.rename(aside)
    try:
        temporary.rename(out)
    except BaseException:
        aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)


_PLACES = ("model", "models", "safetensors", "bundle", "onnx")
"""Where a run, or an export of several formats, keeps its model; the first one counts."""
_AGREED = ("classes", "spacing_mm", "slice_axis", "patch", "context", "order")


@dataclass(frozen=True)
class Member:
    """One exported model, loaded."""

    folder: Path
    segmenter: nn.Module
    """Called with images and the modality's name; gives `Decoded`."""
    plan: Plan
    config: Config
    digest: str

    def recipe(self, modality: str) -> str:
        """Members with equal recipes see the same prepared image."""
        return self.plan.fingerprint(modality)

    def network(self, modality: str, mirror: bool = False) -> Network:
        """Class probabilities of images of this modality.

        Args:
            mirror: mean over the mirrorings that training used.
        """
        found = mean_probabilities([lambda image: self.segmenter(image, modality).logits])
        if mirror:
            found = mirrored(found, self.mirror_axes())
        if self.plan.coarse is None:
            return found
        return Located(found, lambda view: self.segmenter.locate(view, modality), self.plan.coarse)  # type: ignore[operator]

    def mirror_axes(self) -> tuple[int, ...]:
        """The spatial axes along which training images were mirrored."""
        if self.config.augment.mirror == "none":
            return ()
        return tuple(axis for axis, used in enumerate(mirror_axes(self.plan)[0]) if used)


def model_folders(run: Path) -> list[Path]:
    """The exported models that `run` stands for: itself, one inside it, or those of its folds.

    Raises:
        DataError: there is none.
    """
    if (found := _model_in(run)) is not None:
        return [found]
    folds = sorted(path for path in run.glob("fold_*") if path.is_dir())
    missing = [fold.name for fold in folds if not (fold / "model" / WEIGHTS).is_file()]
    if folds and not missing:
        return [fold / "model" for fold in folds]
    if missing:
        raise DataError(
            f"{shown(run)}: {', '.join(missing)} hold no model yet. Finish their training, or name "
            "the folds to use one by one."
        )
    what = "does not exist" if not run.exists() else f"holds no {WEIGHTS}, model/ or fold_*/"
    raise DataError(
        f"{shown(run)} {what}. Name the folder of a run whose training has written its model."
    )


def _model_in(folder: Path) -> Path | None:
    """The folder that holds the model: this one, or one of the known places in it."""
    if any((folder / name).is_file() for name in (WEIGHTS, ONNX)) or parts_of(folder):
        return folder
    found = (_model_in(folder / name) for name in _PLACES if (folder / name).is_dir())
    return next((place for place in found if place is not None), None)


def load_member(folder: Path) -> Member:
    """Load one model: safetensors, ONNX, or the folded networks of several modalities.

    Raises:
        DataError: damaged, or its parts do not belong together.
        UsageError: it is ONNX and onnxruntime is not installed.
    """
    if parts := parts_of(folder):
        return _together(folder, [load_member(model_folders(part)[0]) for part in parts.values()])
    if (folder / WEIGHTS).is_file():
        return Member(folder, *load_model(folder), model_digest(folder))
    from unpaired.artifact.onnx import load_onnx

    return Member(folder, *load_onnx(folder))


def _together(folder: Path, parts: Sequence[Member]) -> Member:
    """One member of the folded networks of several modalities."""
    first, modalities = parts[0], {}
    networks: dict[str, nn.Module] = {}
    for part in parts:
        if not isinstance(part.segmenter, Folded):
            raise DataError(f"{shown(part.folder)} is not a folded network. Export again.")
        if any(getattr(part.plan, name) != getattr(first.plan, name) for name in _AGREED):
            raise DataError(
                f"{shown(first.folder)} and {shown(part.folder)} come from different exports. "
                "Export all modalities again."
            )
        networks.update(part.segmenter.networks.items())
        modalities.update(part.plan.modalities)
    plan = first.plan.model_copy(update={"modalities": modalities})
    digest = hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()
    return Member(folder, Folded(networks), plan, first.config, digest)


def load_members(runs: Path | Sequence[Path]) -> list[Member]:
    """Load every model; they must segment the same classes on the same grid.

    The intensity scale may differ: each network sees the image as it was trained.

    Raises:
        DataError: none found, damaged, or they do not belong together.
    """
    named = [runs] if isinstance(runs, Path) else list(runs)
    folders = [folder for run in named for folder in model_folders(Path(run))]
    if not folders:
        raise UsageError("no run is named; give at least one run folder.")
    members = [load_member(folder) for folder in folders]
    for other in members[1:]:
        _check_alike(members[0], other)
    return members


def _check_alike(first: Member, other: Member) -> None:
    for name in _AGREED:
        a, b = getattr(first.plan, name), getattr(other.plan, name)
        if a != b:
            raise DataError(
                f"{shown(first.folder)} and {shown(other.folder)} cannot be averaged: {name} is "
                f"{a} in one, {b} in the other. Name runs that were planned alike."
            )
    ours, theirs = (
        {name: part.channel_names for name, part in member.plan.modalities.items()}
        for member in (first, other)
    )
    if ours != theirs:
        raise DataError(
            f"{shown(first.folder)} and {shown(other.folder)} cannot be averaged: one knows the "
            f"modalities {', '.join(ours)}, the other {', '.join(theirs)}, or their channels "
            "differ. Name runs of the same modalities."
        )


# What is exported: a network in one of its two forms, and what belongs to it.


Form = Literal["gains", "folded"]


@dataclass(frozen=True)
class Subject:
    """One network to export.

    Attributes:
        form: gains: all modalities in one network; folded: a plain network of one modality.
        network: what is written, float32 on the CPU in evaluation mode. It is never called, so
            that nothing a call leaves behind gets into a graph; copy it.
        live: the network that the written one must equal; called with images and a modality.
        plan, config: of these modalities.
        fixed_size: whether graphs take the patch's size only.
        source: where it came from.
    """

    form: Form
    network: Segmenter | Backbone
    live: nn.Module
    plan: Plan
    config: Config
    source: Member
    fixed_size: bool = False

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names, in the order of their index."""
        return tuple(self.plan.modalities)

    @property
    def channels(self) -> dict[str, int]:
        """K_m of every modality."""
        return input_channels(self.plan)

    @property
    def backbone(self) -> Backbone:
        """The network without stems and gains."""
        return self.network if isinstance(self.network, Backbone) else self.network.backbone


def source_of(run: Path) -> Member:
    """The one model that `run` stands for.

    Raises:
        DataError: there is none.
        UsageError: there are several, or it holds no weights that can be exported.
    """
    folders = model_folders(run)
    if len(folders) > 1:
        names = ", ".join(shown(folder.parent) for folder in folders)
        raise UsageError(f"{shown(run)} holds several models. Export one at a time: {names}.")
    member = load_member(folders[0])
    if not _is_torch(member.segmenter):
        raise UsageError(
            f"{shown(folders[0])} is ONNX, from which nothing else can be made. Export from the "
            "run, or from its safetensors form."
        )
    return member


def _is_torch(network: nn.Module) -> bool:
    if isinstance(network, Folded):
        return all(isinstance(one, Backbone) for one in network.networks.values())
    return isinstance(network, Segmenter)


def subjects(
    source: Member, form: Form, modalities: Sequence[str] = (), fixed_size: bool = False
) -> list[Subject]:
    """The networks of this form: one for the gains form, one per modality when folded.

    Args:
        modalities: which to fold; all by default.

    Raises:
        UsageError: unknown modalities, some named for the gains form, or a folded source cannot
            give the gains form.
    """
    known = tuple(source.plan.modalities)
    for name in modalities:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UsageError(
                f"the model does not know the modality {name!r}.{hint} It knows {', '.join(known)}."
            )
    whole = source.segmenter
    if form == "gains":
        if modalities:
            raise UsageError(
                "--modality chooses networks to fold; the gains form is one network of all "
                "modalities. Leave --modality out, or give --form folded."
            )
        if not isinstance(whole, Segmenter):
            raise UsageError(
                f"{shown(source.folder)} is folded already: its gains cannot be taken out of the "
                "weights. Give --form folded, or export from the run."
            )
        live = deepcopy(whole)
        return [Subject(form, whole, live, source.plan, source.config, source, fixed_size)]
    assert isinstance(whole, Segmenter | Folded)
    chosen = tuple(dict.fromkeys(modalities)) or known
    copied, config = deepcopy(whole), source.config
    return [
        Subject(
            form, fold(whole, m).eval(), copied, _part(source.plan, m), config, source, fixed_size
        )
        for m in chosen
    ]


def _part(plan: Plan, modality: str) -> Plan:
    """The plan of one modality."""
    return plan.model_copy(update={"modalities": {modality: plan.modalities[modality]}})
