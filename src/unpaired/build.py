"""Names and numbers -> objects: the one assembly file."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from unpaired.backbones import Backbone
from unpaired.config import Config
from unpaired.data.plan import CropRule, Plan
from unpaired.errors import UsageError
from unpaired.losses.segmentation import Sync, identity
from unpaired.methods import Criterion, method_of
from unpaired.models import Joint, LocateThenSegment, Segmenter, whole
from unpaired.names import did_you_mean

DECIDED = {"self", "image_size", "in_channels", "classes"}
"""Constructor arguments that the plan decides, not the configuration."""


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


def check_modality_names(names: Mapping[str, Any]) -> None:
    """Raise UsageError for a name that cannot be a module's."""
    for name in names:
        if not name.isidentifier() or hasattr(nn.ModuleDict(), name):
            raise UsageError(
                f"the modality name {name!r} cannot be used; choose letters, digits and "
                "underscores that do not form a reserved word, for example t1 or cbct"
            )


def _check_options(kind: type[Backbone], options: Mapping[str, Any]) -> None:
    known = set(inspect.signature(kind).parameters) - DECIDED
    for name in options:
        if name not in known:
            hint = did_you_mean(name, known, most=1)
            raise UsageError(
                f"model.options.{name} is unknown.{hint} Known: {', '.join(sorted(known))}."
            )
