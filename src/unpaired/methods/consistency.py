"""The paper's method: any backbone, class embeddings beside it, structured consistency."""

from dataclasses import dataclass

from unpaired.backbones import BACKBONES, Backbone
from unpaired.config import Config
from unpaired.config.schema import LossConfig, ModelConfig
from unpaired.data.plan import Plan
from unpaired.errors import UsageError
from unpaired.losses import Objective, Term
from unpaired.losses.segmentation import Sync, identity
from unpaired.methods.base import Method, entry, input_channels
from unpaired.models import VARIANTS, Joint, Scaling, Segmenter, Semantics, share_embeddings


@dataclass(frozen=True)
class Consistency(Method):
    """Eq. 1-15; only what the loss weights and the variant use is built."""

    name = "consistency"
    from_scratch = False

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
        return Joint(segmenter, semantics, scaling)

    def terms(self, config: Config, plan: Plan, sync: Sync = identity) -> dict[str, Term]:
        return paper_objective(config.loss, sync).terms()


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
    return loss.alpha > 0 or (modalities > 1 and (loss.beta > 0 or loss.gamma > 0))


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
    predict, correlate = loss.alpha > 0, loss.gamma > 0 and len(plan.modalities) > 1
    return {
        m: Semantics(len(plan.classes), widths, heads, predict, correlate, config.model.maps)
        for m in plan.modalities
    }
