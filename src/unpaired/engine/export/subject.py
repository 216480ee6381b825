"""What is exported: a network in one of its two forms, and what belongs to it."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from unpaired.backbones import Backbone
from unpaired.build import input_channels
from unpaired.config import Config
from unpaired.data.paths import shown
from unpaired.data.plan import Plan
from unpaired.datasets.dataset import did_you_mean
from unpaired.engine.members import Member, load_member, model_folders
from unpaired.errors import UsageError
from unpaired.models import Segmenter, fold
from unpaired.models.folded import Folded

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
