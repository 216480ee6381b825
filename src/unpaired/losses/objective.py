"""The objective (paper, Eq. 12): named terms and their weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from unpaired.losses.consistency import icr, mcr
from unpaired.losses.segmentation import (
    Sync,
    auxiliary_loss,
    deep_weights,
    identity,
    label_at,
    segmentation_loss,
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

    def __call__(
        self, outputs: Mapping[str, Prediction], labels: Mapping[str, Int64[Tensor, "B *space"]]
    ) -> Terms:
        """Every term of the step. Terms of weight 0 are left out."""
        terms: dict[str, Tensor] = {}
        weights: dict[str, float] = {}

        def add(name: str, weight: float, value: Tensor) -> None:
            terms[name], weights[name] = value, weight

        for m, output in outputs.items():
            add(f"seg/{m}", 1.0, self._segment(output, labels[m]))
        if self.alpha:
            for m, output in outputs.items():
                add(f"aux/{m}", self.alpha, self._auxiliary(output.auxiliary, labels[m]))
        if self.beta and len(outputs) > 1:
            found = {m: o.embeddings for m, o in outputs.items() if o.embeddings is not None}
            add("mcr", self.beta, mcr(found))
        if self.gamma and len(outputs) > 1:
            add("icr", self.gamma, self._icr(outputs, labels))
        weighted = {name: weights[name] * value for name, value in terms.items()}
        return Terms(torch.stack(list(weighted.values())).sum(), terms, weighted)

    def _weights(self, like: Tensor) -> Tensor | None:
        if self.class_weights is None:
            return None
        exact = torch.promote_types(like.dtype, torch.float32)
        return torch.tensor(self.class_weights, dtype=exact, device=like.device)

    def _segment(self, output: Prediction, label: Tensor) -> Tensor:
        """L_seg; with deep supervision its weighted mean over the scales."""
        weights = self._weights(output.logits)
        scales = [output.logits, *output.deep]
        losses = [
            share
            * segmentation_loss(
                logits,
                label_at(label, logits.shape[2:]),
                self.ce,
                self.dice,
                weights,
                self.background,
                self.sync,
            )
            for share, logits in zip(deep_weights(len(scales)), scales, strict=True)
        ]
        return torch.stack(losses).sum()

    def _auxiliary(self, logits: Sequence[Tensor], label: Tensor) -> Tensor:
        weights = self._weights(logits[0])
        return auxiliary_loss(
            logits, label, self.aux_target, self.ce, self.dice, weights, self.background, self.sync
        )

    def _icr(self, outputs: Mapping[str, Prediction], labels: Mapping[str, Tensor]) -> Tensor:
        """L_icr, summed over the scales."""
        present = None
        if self.mask_absent:
            present = {m: _present(labels[m], o.logits.shape[1]) for m, o in outputs.items()}
        scales = zip(*(output.correlations for output in outputs.values()), strict=True)
        losses = [
            icr(dict(zip(outputs, scale, strict=True)), self.tau, present, self.sync)
            for scale in scales
        ]
        return torch.stack(losses).sum()


def _present(label: Int64[Tensor, "B *space"], classes: int) -> Bool[Tensor, "B Z"]:
    flat = label.flatten(1)
    return torch.stack([(flat == z).any(1) for z in range(classes)], dim=1)
