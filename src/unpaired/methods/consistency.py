"""The paper's method: any backbone, class embeddings beside it, structured consistency."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from unpaired.backbones import BACKBONES, Backbone
from unpaired.config import Config
from unpaired.config.schema import LossConfig, ModelConfig
from unpaired.data.plan import Plan
from unpaired.errors import UsageError
from unpaired.losses import Objective, Term
from unpaired.losses.segmentation import Sync, identity
from unpaired.methods.base import Method, entry, input_channels
from unpaired.methods.forms import check_form, correlates, form_remarks, form_terms, with_rich
from unpaired.models import (
    VARIANTS,
    Joint,
    PrototypeBank,
    Scaling,
    Segmenter,
    Semantics,
    share_embeddings,
    share_modules,
)


@dataclass(frozen=True)
class Consistency(Method):
    """Eq. 1-15; only what the loss weights and the variant use is built."""

    name = "consistency"
    from_scratch = False
    sees_views = True

    def network(self, model: ModelConfig) -> type[Backbone]:
        return entry(BACKBONES, model.backbone, "model.backbone")

    def segmenter(self, config: Config, plan: Plan) -> Segmenter:
        private = VARIANTS[config.model.variant].private_encoders
        norms = config.model.norms == "private"
        return Segmenter(self.backbone(config, plan), input_channels(plan), private, norms)

    def joint(self, config: Config, plan: Plan) -> Joint:
        segmenter, model = self.segmenter(config, plan), config.model
        scaling = None
        if VARIANTS[model.variant].scaling:
            width = segmenter.backbone.levels[0].channels
            scaling = Scaling(len(plan.classes), width, segmenter.branches)
        semantics = {}
        if _needs_semantics(config.loss, len(plan.modalities)) or scaling is not None:
            semantics = _semantics(config, plan, segmenter)
        if model.shared_embeddings:
            share_embeddings(list(semantics.values()))
        if model.modules == "shared":
            share_modules(list(semantics.values()))
        return Joint(segmenter, semantics, scaling, _bank(config, plan, segmenter))

    def terms(self, config: Config, plan: Plan, sync: Sync = identity) -> dict[str, Term]:
        check_form(config, plan)
        objective = paper_objective(config.loss, sync)
        if config.loss.consistency != "paper":
            objective = replace(objective, gamma=0.0)
        views = config.augment.second_view != "none"
        view = objective.segmentation if views else None
        return objective.terms() | form_terms(config.loss, view, sync)

    def remarks(self, config: Config, modalities: Sequence[str]) -> list[str]:
        return form_remarks(config, modalities)

    def settled(self, config: Config, cases: Mapping[str, int]) -> Config:
        return with_rich(config, cases)


def paper_objective(loss: LossConfig, sync: Sync) -> Objective:
    """Eq. 12 with the configured weights."""
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


def _needs_semantics(loss: LossConfig, modalities: int) -> bool:
    between = modalities > 1 and loss.beta > 0
    return loss.alpha > 0 or between or correlates(loss, modalities)


def _bank(config: Config, plan: Plan, segmenter: Segmenter) -> PrototypeBank | None:
    """Where prototypes are compared, and there is something to compare them with."""
    loss = config.loss
    if loss.consistency != "prototypes" or len(plan.modalities) < 2:
        return None
    if not (loss.gamma or loss.beta):
        return None
    widths = [level.channels for level in segmenter.backbone.levels]
    return PrototypeBank(plan.modalities, len(plan.classes), widths)


def _semantics(config: Config, plan: Plan, segmenter: Segmenter) -> dict[str, Semantics]:
    """Embeddings and modules of every modality.

    Raises:
        UsageError: the number of heads does not divide a scale's width.
    """
    widths = [level.channels for level in segmenter.backbone.levels]
    heads, loss = config.model.heads, config.loss
    if bad := [width for width in widths if width % heads]:
        raise UsageError(
            f"model.heads={heads} does not divide the decoder widths {bad}; "
            "choose a number of heads that divides every one of them"
        )
    predict, correlate = loss.alpha > 0, correlates(loss, len(plan.modalities))
    return {
        m: Semantics(len(plan.classes), widths, heads, predict, correlate, config.model.maps)
        for m in plan.modalities
    }
