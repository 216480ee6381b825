"""Payer et al. 2017 as a method: localise on a coarse view, segment one crop; nothing is shared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from unpaired.backbones import Backbone
from unpaired.config import Config
from unpaired.config.schema import ModelConfig
from unpaired.data.cache import PreparedCase
from unpaired.data.plan import Plan
from unpaired.data.sampling import Draws
from unpaired.errors import UsageError
from unpaired.losses import Term
from unpaired.losses.segmentation import Sync, identity
from unpaired.methods.base import Method, Scores, Stream, input_channels, of_the_options
from unpaired.methods.payer.crops import CaseSampler, CentredCrop, WholeView
from unpaired.methods.payer.inference import Located
from unpaired.methods.payer.losses import LocateAndSegment
from unpaired.methods.payer.network import (
    LocateThenSegment,
    LocatingJoint,
    LocatingSegmenter,
    view_of,
)
from unpaired.methods.payer.plan import CropRule
from unpaired.models.fold import Folded


@dataclass(frozen=True)
class Payer(Method):
    """A step sees batches of crops, named as the modality, and of coarse views (`view_of`)."""

    name = "payer"
    one_pass = False

    def network(self, model: ModelConfig) -> type[Backbone]:
        return LocateThenSegment

    def plan_rule(self, config: Config) -> CropRule:
        if config.data.dims != 3:
            raise UsageError(
                f"model.name={config.model.name} looks for the structures in volumes: set "
                "data.dims=3."
            )
        with of_the_options(config):
            step = LocateThenSegment.coarse_step(config.model.options)
        return CropRule(config.locate.margin_mm, config.locate.coarse_mm, step)

    def grid_of(self, source: Plan) -> dict[str, Any]:
        view = {} if source.coarse is None else {"coarse": source.coarse}
        return super().grid_of(source) | view

    def input_shapes(self, plan: Plan) -> dict[str, tuple[int, ...]]:
        crops = super().input_shapes(plan)
        assert plan.coarse is not None
        views = {view_of(m): (shape[0], *plan.coarse.shape) for m, shape in crops.items()}
        return crops | views

    def streams(
        self,
        config: Config,
        plan: Plan,
        cases: Mapping[str, Sequence[PreparedCase]],
        draws: Draws,
    ) -> dict[str, Stream]:
        """Centred crops and coarse views."""
        assert plan.coarse is not None
        jitter = tuple(config.locate.jitter_mm / mm for mm in plan.spacing_mm)
        crop, view = CentredCrop(plan.patch, jitter), WholeView(plan.coarse)
        crops = {
            m: Stream(CaseSampler(members, m, crop, draws), plan.spacing_mm)
            for m, members in cases.items()
        }
        views = {
            view_of(m): Stream(CaseSampler(members, view_of(m), view, draws), view_mm(plan))
            for m, members in cases.items()
        }
        return crops | views

    def segmenter(self, config: Config, plan: Plan) -> LocatingSegmenter:
        backbone = self.backbone(config, plan)
        assert isinstance(backbone, LocateThenSegment)
        return LocatingSegmenter(backbone, input_channels(plan))

    def joint(self, config: Config, plan: Plan) -> LocatingJoint:
        return LocatingJoint(self.segmenter(config, plan))

    def terms(self, config: Config, plan: Plan, sync: Sync = identity) -> dict[str, Term]:
        locate, weights = config.locate, config.loss.class_weights
        views = {view_of(m): m for m in plan.modalities}
        return LocateAndSegment(
            views, view_mm(plan), locate.sigma_mm, locate.weight, weights, sync
        ).terms()

    def looking(self, scores: Scores, network: nn.Module, modality: str, plan: Plan) -> Located:
        """One crop around the maximum of the heat map; the background elsewhere."""
        assert plan.coarse is not None
        if isinstance(network, Folded):
            backbone = network.networks[modality]
            assert isinstance(backbone, LocateThenSegment)
            return Located(scores, backbone.locate, plan.coarse)
        assert isinstance(network, LocatingSegmenter)
        return Located(scores, partial(network.locate, modality=modality), plan.coarse)


def view_mm(plan: Plan) -> tuple[float, ...]:
    """The spacing of the coarse view, per axis."""
    assert plan.coarse is not None
    return tuple(n * mm for n, mm in zip(plan.coarse.stride, plan.spacing_mm, strict=True))
