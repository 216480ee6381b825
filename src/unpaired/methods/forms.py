"""The forms of the consistency between modalities (`loss.consistency`), as terms of the loss.

"paper" is Eq. 10-11 and lies in `unpaired.losses`; what the others are for: docs/consistency.md.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations

import torch
from torch import Tensor

from unpaired.config import Config
from unpaired.config.schema import LossConfig
from unpaired.data.plan import Plan
from unpaired.errors import UsageError
from unpaired.losses import SegmentationLoss, Term
from unpaired.losses.objective import Labels, Outputs
from unpaired.losses.pairs import guided_icr, view_correlations, view_logits
from unpaired.losses.prototypes import contrast_means, contrast_pixels, tie
from unpaired.losses.segmentation import Sync, present
from unpaired.methods.ummkd import distillation
from unpaired.models import Output
from unpaired.names import did_you_mean

BETWEEN = ("guided", "prototypes", "distill")
"""Forms that compare modalities: with a single one they are nothing."""


def correlates(loss: LossConfig, modalities: int) -> bool:
    """Whether the form reads E, so that its kernels must be built."""
    if loss.gamma == 0:
        return False
    if loss.consistency == "views":
        return loss.alpha > 0
    return loss.consistency in ("paper", "guided") and modalities > 1


def form_terms(loss: LossConfig, view: SegmentationLoss | None, sync: Sync) -> dict[str, Term]:
    """The terms of the configured form, but for the paper's; without those of weight 0.

    Args:
        view: the segmentation loss of second views, where there are any.
    """
    form = _Form(loss, view, sync)
    found = {
        "guided": {"icr": Term(loss.gamma, form.guided, eased=True)},
        "views": {"view": Term(loss.gamma, form.views, eased=True)},
        "prototypes": {
            "prototypes": Term(loss.gamma, form.prototypes, eased=True),
            "tie": Term(loss.beta, form.tied, eased=True),
        },
        "distill": {"kd": Term(loss.distill, form.distilled)},
        "paper": {},
    }[loss.consistency]
    if view is not None:
        found["seg_view"] = Term(loss.view_weight, form.segmented)
    return {name: term for name, term in found.items() if term.weight}


class _Form:
    """Values of terms, from the outputs of `unpaired.models.Joint`."""

    def __init__(self, loss: LossConfig, view: SegmentationLoss | None, sync: Sync) -> None:
        self.loss, self.view, self.sync = loss, view, sync

    def guided(self, outputs: Outputs, labels: Labels) -> Tensor | dict[str, Tensor]:
        """L_icr towards the rich modality, of the classes that both images hold; sum over the
        scales."""
        if len(outputs) < 2:
            return {}
        held = {m: present(labels[m], o.logits.shape[1]) for m, o in outputs.items()}
        scales = zip(*(output.correlations for output in outputs.values()), strict=True)
        losses = [
            guided_icr(
                dict(zip(outputs, e, strict=True)), held, self.loss.tau, self.loss.rich, self.sync
            )
            for e in scales
        ]
        return torch.stack(losses).sum()

    def views(self, outputs: Outputs, labels: Labels) -> dict[str, Tensor]:
        """Each image and its second view: of E, and of the auxiliary logits (without these of the
        segmentation's); mean over the modalities."""
        correlations, logits = [], []
        for m, (plain, view) in _viewed(outputs).items():
            if plain.correlations:
                held = present(labels[m], plain.logits.shape[1])
                pair = plain.correlations, view.correlations
                correlations.append(view_correlations(*pair, held, self.loss.tau, self.sync))
            both = (plain.auxiliary, view.auxiliary)
            if not plain.auxiliary:
                both = ((plain.logits,), (view.logits,))
            logits.append(view_logits(*both, self.sync))
        parts = {"correlations": correlations, "logits": logits}
        return {name: torch.stack(values).mean() for name, values in parts.items() if values}

    def prototypes(self, outputs: Outputs, labels: Labels) -> dict[str, Tensor]:
        """Class means and positions of a modality against the bank of another one: every modality
        against the rich one or, where none is, against every other; mean over these pairs."""
        seen = _outputs(outputs)
        pairs = [(a, b) for a, b in permutations(seen, 2) if self.loss.rich in (None, b)]
        found: dict[str, list[Tensor]] = {"means": [], "positions": []}
        for a, b in pairs:
            given = seen[a].features, labels[a], seen[b].prototypes, self.sync
            found["means"].append(contrast_means(*given))
            found["positions"].append(contrast_pixels(*given))
        return {name: torch.stack(values).mean() for name, values in found.items() if values}

    def tied(self, outputs: Outputs, labels: Labels) -> dict[str, Tensor]:
        """Q and the class means of the coarsest scale, by modality, where there are embeddings."""
        if len(outputs) < 2:
            return {}
        return {
            m: tie(o.embeddings, o.features[0], labels[m], self.sync)
            for m, o in _outputs(outputs).items()
            if o.embeddings is not None
        }

    def distilled(self, outputs: Outputs, labels: Labels) -> Tensor | dict[str, Tensor]:
        """UMMKD's distillation (Dou et al. 2020) of this network's own logits."""
        if len(outputs) < 2:
            return {}
        exact = {
            m: o.logits.to(torch.promote_types(o.logits.dtype, torch.float32))
            for m, o in outputs.items()
        }
        return distillation(exact, labels, self.loss.distill_tau, self.sync)

    def segmented(self, outputs: Outputs, labels: Labels) -> dict[str, Tensor]:
        """The segmentation loss of second views, by the modality of the image."""
        assert self.view is not None
        return {m: self.view(v.logits, labels[m]) for m, (_, v) in _viewed(outputs).items()}


def _outputs(outputs: Outputs) -> dict[str, Output]:
    found = {m: output for m, output in outputs.items() if isinstance(output, Output)}
    assert len(found) == len(outputs)
    return found


def _viewed(outputs: Outputs) -> dict[str, tuple[Output, Output]]:
    """By modality what its images and their second views gave."""
    return {m: (o, o.view) for m, o in _outputs(outputs).items() if o.view is not None}


def check_form(config: Config, plan: Plan) -> None:
    """Raise UsageError where the settings of the form contradict each other or the data."""
    loss, views = config.loss, config.augment.second_view
    if loss.consistency == "views" and views == "none":
        raise UsageError(
            "loss.consistency=views compares two views of an image, and augment.second_view=none "
            "makes none. Set augment.second_view=gin."
        )
    read = loss.view_weight > 0 or (loss.consistency == "views" and loss.gamma > 0)
    if views != "none" and not read:
        raise UsageError(
            f"augment.second_view={views} makes second views that no loss reads: "
            "loss.view_weight is 0. Give it a weight, or set augment.second_view=none."
        )
    channels = {m: len(part.channel_names) for m, part in plan.modalities.items()}
    if views != "none" and len(set(channels.values())) > 1:
        each = ", ".join(f"{m} {n}" for m, n in channels.items())
        raise UsageError(
            f"augment.second_view={views} shows the images of one modality as another, which needs "
            f"as many channels; there are {each}. Set augment.second_view=none."
        )
    if len(channels) > 1:
        _check_guided(config, list(channels))


def _check_guided(config: Config, modalities: Sequence[str]) -> None:
    loss = config.loss
    if loss.rich is not None and loss.rich not in modalities:
        hint = did_you_mean(loss.rich, modalities)
        raise UsageError(
            f"loss.rich={loss.rich} is no modality of these data.{hint} They are "
            f"{', '.join(modalities)}; none takes the one of most training cases."
        )
    if loss.consistency != "guided" or loss.gamma == 0:
        return
    if config.model.modules == "private":
        raise UsageError(
            "loss.consistency=guided compares what one chain of modules sees in all modalities. "
            "Set model.modules=shared."
        )
    if loss.alpha == 0:
        raise UsageError(
            "loss.consistency=guided compares maps that only the auxiliary loss trains, and "
            "loss.alpha is 0. Give it a weight, such as 0.4."
        )


def form_remarks(config: Config, modalities: Sequence[str]) -> list[str]:
    """What deserves a look before a training begins."""
    form = config.loss.consistency
    if form in BETWEEN and len(modalities) == 1:
        return [
            f"loss.consistency={form} compares modalities, and {modalities[0]} is the only one: "
            "it is left out."
        ]
    return []


def with_rich(config: Config, cases: Mapping[str, int]) -> Config:
    """With the modality named that has most training cases, where `loss.rich` is none and one has.

    Args:
        cases: number of training cases by modality.
    """
    first = [m for m, n in cases.items() if n == max(cases.values())]
    if config.loss.rich is not None or len(first) != 1:
        return config
    return config.replace(loss={"rich": first[0]})
