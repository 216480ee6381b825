"""What `model.name` means: the network, its training form and its objective, for each method."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

from unpaired.backbones import BACKBONES, Backbone
from unpaired.config import Config
from unpaired.config.schema import LossConfig, ModelConfig
from unpaired.data.plan import Plan
from unpaired.errors import UsageError
from unpaired.losses import Distillation, LocateAndSegment, Objective, Prediction, Terms
from unpaired.losses.segmentation import Sync
from unpaired.models import (
    VARIANTS,
    DualStream,
    Joint,
    LocateThenSegment,
    LocatingJoint,
    LocatingSegmenter,
    Scaling,
    Segmenter,
    Semantics,
    UmmkdNet,
    share_embeddings,
    whole,
)
from unpaired.names import did_you_mean

Entry = TypeVar("Entry")


@runtime_checkable
class Criterion(Protocol):
    """What a training minimises."""

    def __call__(self, outputs: Mapping[str, Prediction], labels: Mapping[str, Tensor]) -> Terms:
        """The terms of a step, from the outputs [B Z *space] and labels [B *space] by modality."""


@dataclass(frozen=True)
class Method:
    """How the network and the objective of one `model.name` are made.

    Attributes:
        backbone: the class of its network; `model.options` are the arguments of its constructor.
        segmenter: from the built backbone, the channels by modality, and the settings, what is
            kept at test time.
        joint: with what only training needs beside it.
        objective: what is minimised.
    """

    backbone: Callable[[ModelConfig], type[Backbone]]
    segmenter: Callable[[Backbone, Mapping[str, int], ModelConfig], Segmenter]
    joint: Callable[[Segmenter, Config, Plan], Joint]
    objective: Callable[[Config, Plan, Sync], Criterion]


def method_of(config: Config) -> Method:
    """The registered method that `model.name` names.

    Raises:
        UsageError: there is none.
    """
    return _named(MODELS, config.model.name, "model.name")


def backbone_class(name: str) -> type[Backbone]:
    """The registered backbone of that name.

    Raises:
        UsageError: there is none.
    """
    return _named(BACKBONES, name, "model.backbone")


def _named(table: Mapping[str, Entry], name: str, key: str) -> Entry:
    if name not in table:
        hint = did_you_mean(name, table, most=1)
        raise UsageError(f"{key}={name!r} is unknown.{hint} Known: {', '.join(table)}.")
    return table[name]


def _consistency_segmenter(
    backbone: Backbone, channels: Mapping[str, int], model: ModelConfig
) -> Segmenter:
    return Segmenter(backbone, channels, VARIANTS[model.variant].private_encoders)


def _consistency_joint(segmenter: Segmenter, config: Config, plan: Plan) -> Joint:
    variant, loss, levels = VARIANTS[config.model.variant], config.loss, segmenter.backbone.levels
    several = len(plan.modalities) > 1
    predict, correlate = loss.alpha > 0, loss.gamma > 0 and several
    scaling = None
    if variant.scaling:
        scaling = Scaling(len(plan.classes), levels[0].channels, segmenter.branches)
    semantics = {}
    if predict or correlate or scaling is not None or (loss.beta > 0 and several):
        widths = [level.channels for level in levels]
        if bad := [width for width in widths if width % config.model.heads]:
            raise UsageError(
                f"model.heads={config.model.heads} does not divide the decoder widths {bad}; "
                "choose a number of heads that divides every one of them"
            )
        semantics = {
            m: Semantics(
                len(plan.classes), widths, config.model.heads, predict, correlate, config.model.maps
            )
            for m in plan.modalities
        }
    if config.model.shared_embeddings:
        share_embeddings(list(semantics.values()))
    return Joint(segmenter, semantics, scaling)


def _consistency_objective(config: Config, plan: Plan, sync: Sync) -> Objective:
    return _objective(config.loss, sync)


def _objective(loss: LossConfig, sync: Sync) -> Objective:
    return Objective(
        alpha=loss.alpha,
        beta=loss.beta,
        gamma=loss.gamma,
        tau=loss.tau,
        ce=loss.ce,
        dice=loss.dice,
        background=loss.dice_background,
        class_weights=loss.class_weights,
        aux_target=loss.aux_target,
        mask_absent=loss.mask_absent,
        sync=sync,
    )


def _ummkd_segmenter(
    backbone: Backbone, channels: Mapping[str, int], model: ModelConfig
) -> Segmenter:
    _from_scratch(model)
    return Segmenter(backbone, channels, private_encoders=True, fixed_stems=True)


def _ummkd_objective(config: Config, plan: Plan, sync: Sync) -> Distillation:
    loss = config.loss
    return Distillation(loss.ce, loss.dice, loss.distill, loss.distill_tau, sync)


def _valindria_segmenter(
    backbone: Backbone, channels: Mapping[str, int], model: ModelConfig
) -> Segmenter:
    _from_scratch(model)
    assert isinstance(backbone, DualStream)
    return Segmenter(backbone, channels, bool(backbone.own), fixed_stems=True)


def _valindria_objective(config: Config, plan: Plan, sync: Sync) -> Objective:
    plain = config.loss.model_copy(update={"alpha": 0.0, "beta": 0.0, "gamma": 0.0})
    return _objective(plain, sync)


def _payer_segmenter(
    backbone: Backbone, channels: Mapping[str, int], model: ModelConfig
) -> Segmenter:
    _from_scratch(model)
    assert isinstance(backbone, LocateThenSegment)
    return LocatingSegmenter(backbone, channels)


def _payer_joint(segmenter: Segmenter, config: Config, plan: Plan) -> Joint:
    assert isinstance(segmenter, LocatingSegmenter)
    return LocatingJoint(segmenter)


def _payer_objective(config: Config, plan: Plan, sync: Sync) -> LocateAndSegment:
    assert plan.coarse is not None
    spacing = [n * mm for n, mm in zip(plan.coarse.stride, plan.spacing_mm, strict=True)]
    names = {whole(m): m for m in plan.modalities}
    locate, weights = config.locate, config.loss.class_weights
    return LocateAndSegment(names, spacing, locate.sigma_mm, locate.weight, weights, sync)


def _plain_joint(segmenter: Segmenter, config: Config, plan: Plan) -> Joint:
    return Joint(segmenter, {})


def _from_scratch(model: ModelConfig) -> None:
    if model.pretrained is not None:
        raise UsageError(
            f"model.pretrained fills a backbone, and model.name={model.name} has a network of its "
            "own. Leave it out; train.init_from starts from another run of the same kind."
        )


MODELS: dict[str, Method] = {
    "consistency": Method(
        lambda model: backbone_class(model.backbone),
        _consistency_segmenter,
        _consistency_joint,
        _consistency_objective,
    ),
    "ummkd": Method(lambda model: UmmkdNet, _ummkd_segmenter, _plain_joint, _ummkd_objective),
    "valindria": Method(
        lambda model: DualStream, _valindria_segmenter, _plain_joint, _valindria_objective
    ),
    "payer": Method(
        lambda model: LocateThenSegment, _payer_segmenter, _payer_joint, _payer_objective
    ),
}
"""Methods by `model.name`: the paper's, and the comparators (docs/comparators.md)."""
