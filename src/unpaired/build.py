"""Names and numbers -> objects: the one assembly file."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from unpaired.backbones import BACKBONES, Backbone
from unpaired.config import Config
from unpaired.config.schema import LossConfig, ModelConfig
from unpaired.data.plan import CropRule, Plan
from unpaired.errors import UsageError
from unpaired.losses import Distillation, LocateAndSegment, Objective, Prediction, Terms
from unpaired.losses.segmentation import Sync, identity
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

DECIDED = {"self", "image_size", "in_channels", "classes"}
"""Constructor arguments that the plan decides, not the configuration."""
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


def size_step(config: Config, dims: int = 2) -> tuple[int, ...]:
    """Per axis, the step of legal image sizes of the configured backbone."""
    kind = method_of(config).backbone(config.model)
    _check_options(kind, config.model.options)
    with _told(config):
        return kind.size_step(config.model.options, dims)


def crop_rule(config: Config) -> CropRule | None:
    """How the crop and the coarse view are planned for a network that localises; None for others.

    Raises:
        UsageError: it is to see pictures, or an option is out of range.
    """
    kind = method_of(config).backbone(config.model)
    if not issubclass(kind, LocateThenSegment):
        return None
    if config.data.dims != 3:
        raise UsageError(
            f"model.name={config.model.name} looks for the structures in volumes: set data.dims=3."
        )
    with _told(config):
        step = kind.coarse_step(config.model.options)
    return CropRule(config.locate.margin_mm, config.locate.coarse_mm, step)


def input_shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Channels and sizes of the training images by the name of their batches."""
    shapes = {m: (channels, *plan.patch) for m, channels in input_channels(plan).items()}
    if plan.coarse is None:
        return shapes
    return {**shapes, **{whole(m): (k[0], *plan.coarse.shape) for m, k in shapes.items()}}


def input_channels(plan: Plan) -> dict[str, int]:
    """K_m of every modality: neighbouring slices times its channels."""
    return {m: plan.context * len(part.channel_names) for m, part in plan.modalities.items()}


def build_backbone(config: Config, plan: Plan) -> Backbone:
    """The backbone, untrained.

    Raises:
        UsageError: an option is unknown or does not fit the plan.
    """
    kind = method_of(config).backbone(config.model)
    options = dict(config.model.options)
    _check_options(kind, options)
    channels = max(input_channels(plan).values())
    with _told(config):
        return kind(
            image_size=plan.patch, in_channels=channels, classes=len(plan.classes), **options
        )


@contextmanager
def _told(config: Config) -> Iterator[None]:
    """What a constructor says of its arguments is the configuration's fault."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UsageError(f"the network {config.model.network} cannot be built: {error}") from error


def build_segmenter(config: Config, plan: Plan) -> Segmenter:
    """What is kept at test time, untrained."""
    check_modality_names(plan.modalities)
    backbone = build_backbone(config, plan)
    return method_of(config).segmenter(backbone, input_channels(plan), config.model)


def build_joint(config: Config, plan: Plan) -> Joint:
    """Training's network: only what the loss weights and the variant use is built.

    Raises:
        UsageError: the number of heads does not divide a scale's width.
    """
    return method_of(config).joint(build_segmenter(config, plan), config, plan)


def build_objective(config: Config, plan: Plan, sync: Sync = identity) -> Criterion:
    """The objective with the configured weights.

    Raises:
        UsageError: the class weights do not match the classes.
    """
    loss = config.loss
    if loss.class_weights is not None and len(loss.class_weights) != len(plan.classes):
        raise UsageError(
            f"loss.class_weights has {len(loss.class_weights)} values, but there are "
            f"{len(plan.classes)} classes: {', '.join(plan.classes)}"
        )
    return method_of(config).objective(config, plan, sync)


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


def check_modality_names(names: Mapping[str, Any]) -> None:
    """Raise UsageError for a name that cannot be a module's."""
    for name in names:
        if not name.isidentifier() or hasattr(nn.ModuleDict(), name):
            raise UsageError(
                f"the modality name {name!r} cannot be used; choose letters, digits and "
                "underscores that do not form a reserved word, for example t1 or cbct"
            )


def _named(table: Mapping[str, Entry], name: str, key: str) -> Entry:
    if name not in table:
        close = get_close_matches(name, table, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"{key}={name!r} is unknown.{hint} Known: {', '.join(table)}.")
    return table[name]


def _check_options(kind: type[Backbone], options: Mapping[str, Any]) -> None:
    known = set(inspect.signature(kind).parameters) - DECIDED
    for name in options:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UsageError(
                f"model.options.{name} is unknown.{hint} Known: {', '.join(sorted(known))}."
            )
