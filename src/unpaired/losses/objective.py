"""A loss is a dictionary of named, weighted terms; the paper's objective (Eq. 12) is one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from unpaired.losses.consistency import icr, mcr
from unpaired.losses.segmentation import (
    SegmentationLoss,
    Sync,
    auxiliary_loss,
    deep_weights,
    identity,
    label_at,
    present,
)


@runtime_checkable
class Prediction(Protocol):
    """What the objective reads of one modality's forward pass."""

    @property
    def logits(self) -> Tensor:
        """[B Z *space]."""

    @property
    def deep(self) -> Sequence[Tensor]:
        """Logits of coarser maps, fine to coarse; empty without deep supervision."""

    @property
    def auxiliary(self) -> Sequence[Tensor]:
        """Auxiliary logits, one per scale; empty where alpha = 0."""

    @property
    def correlations(self) -> Sequence[Tensor]:
        """E, [B Z Z] per scale; empty where gamma = 0."""

    @property
    def embeddings(self) -> Tensor | None:
        """Q, [Z C]; None where nothing uses it."""


class Terms(NamedTuple):
    """The loss and its named parts, before and after weighting."""

    total: Tensor
    terms: dict[str, Tensor]
    weighted: dict[str, Tensor]
    eased: tuple[str, ...] = ()
    """Names of those that rise at the start and whose gradient has a limit."""


Outputs = Mapping[str, Prediction]
"""What the network gives, by modality."""
Labels = Mapping[str, Int64[Tensor, "B *space"]]
"""Class indices, by modality; -100 where nobody annotated."""
Value = Callable[[Outputs, Labels], Tensor | Mapping[str, Tensor]]
"""One number of a step; or one per modality (key), of which a step may have none."""


class Term(NamedTuple):
    """One addend of a loss: `weight` times `value(outputs, labels)`."""

    weight: float
    value: Value
    eased: bool = False
    """Whether it rises at the start of a training and its gradient has a limit (`Terms.eased`)."""


def weigh(terms: Mapping[str, Term], outputs: Outputs, labels: Labels) -> Terms:
    """The weighted sum of named terms; the parts of a term are named `term/key`."""
    values: dict[str, Tensor] = {}
    weighted: dict[str, Tensor] = {}
    eased: list[str] = []
    for name, (weight, value, easily) in terms.items():
        result = value(outputs, labels)
        if isinstance(result, Tensor):
            parts = {name: result}
        else:
            parts = {f"{name}/{key}": part for key, part in result.items()}
        values |= parts
        weighted |= {key: weight * part for key, part in parts.items()}
        eased += parts if easily else ()
    return Terms(torch.stack(list(weighted.values())).sum(), values, weighted, tuple(eased))


def ease(terms: Terms, share: float) -> Terms:
    """The terms with those that are eased at this share of their weight."""
    if share == 1 or not terms.eased:
        return terms
    weighted = {
        name: share * value if name in terms.eased else value
        for name, value in terms.weighted.items()
    }
    total = torch.stack(list(weighted.values())).sum()
    return terms._replace(total=total, weighted=weighted)


@dataclass(frozen=True)
class Objective:
    """L = sum_m L_seg + alpha sum_m L_aux + beta L_mcr + gamma L_icr (Eq. 12).

    The paper prints no alpha, beta, gamma, and has tau 4 with every class counted; the defaults
    are ours (docs/decisions.md).
    `sync` sums over the processes of a distributed run, so that Dice and the pairs of L_icr are
    those of the whole step.
    """

    alpha: float = 0.4
    beta: float = 0.1
    gamma: float = 0.1
    tau: float = 32.0
    ce: float = 1.0
    dice: float = 1.0
    background: bool = True
    class_weights: tuple[float, ...] | None = None
    aux_target: Literal["label", "logits"] = "label"
    mask_absent: bool = True
    sync: Sync = identity

    def __call__(self, outputs: Outputs, labels: Labels) -> Terms:
        """Every term of the step."""
        return weigh(self.terms(), outputs, labels)

    def terms(self) -> dict[str, Term]:
        """Eq. 12, addend by addend. Terms of weight 0 are left out."""
        addends = {
            "seg": Term(1.0, self._segment),
            "aux": Term(self.alpha, self._auxiliary),
            "mcr": Term(self.beta, self._mcr),
            "icr": Term(self.gamma, self._icr),
        }
        return {name: term for name, term in addends.items() if term.weight}

    def _segment(self, outputs: Outputs, labels: Labels) -> dict[str, Tensor]:
        """L_seg per modality; with deep supervision its weighted mean over the scales."""
        return {m: self._deep(output, labels[m]) for m, output in outputs.items()}

    def _auxiliary(self, outputs: Outputs, labels: Labels) -> dict[str, Tensor]:
        """L_aux per modality (Eq. 9)."""
        return {
            m: auxiliary_loss(output.auxiliary, labels[m], self.aux_target, self.segmentation)
            for m, output in outputs.items()
        }

    def _mcr(self, outputs: Outputs, labels: Labels) -> Tensor | dict[str, Tensor]:
        """L_mcr (Eq. 10); one modality has none."""
        if len(outputs) < 2:
            return {}
        return mcr({m: o.embeddings for m, o in outputs.items() if o.embeddings is not None})

    def _icr(self, outputs: Outputs, labels: Labels) -> Tensor | dict[str, Tensor]:
        """L_icr (Eq. 11), summed over the scales; one modality has none."""
        if len(outputs) < 2:
            return {}
        held = None
        if self.mask_absent:
            held = {m: present(labels[m], o.logits.shape[1]) for m, o in outputs.items()}
        scales = zip(*(output.correlations for output in outputs.values()), strict=True)
        losses = [
            icr(dict(zip(outputs, scale, strict=True)), self.tau, held, self.sync)
            for scale in scales
        ]
        return torch.stack(losses).sum()

    def _deep(self, output: Prediction, label: Tensor) -> Tensor:
        scales = [output.logits, *output.deep]
        losses = [
            share * self.segmentation(logits, label_at(label, logits.shape[2:]))
            for share, logits in zip(deep_weights(len(scales)), scales, strict=True)
        ]
        return torch.stack(losses).sum()

    @property
    def segmentation(self) -> SegmentationLoss:
        """The loss of one map of logits."""
        return SegmentationLoss(self.ce, self.dice, self.class_weights, self.background, self.sync)
