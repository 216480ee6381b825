"""What a step needs beside forward and backward: second views, terms that are eased, images shared.

Terms that are eased (`Terms.eased`) rise over the first steps, and their gradient has a limit.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unpaired.config import Config
from unpaired.data.cache import PreparedCase
from unpaired.data.plan import Plan
from unpaired.data.sampling import Batch
from unpaired.data.styles import SecondViews, case_styles, seen_as
from unpaired.errors import UsageError
from unpaired.losses import Terms, ease
from unpaired.models import Joint, View
from unpaired.training.distributed import Group


def second_views(
    config: Config, plan: Plan, cases: Mapping[str, Sequence[PreparedCase]]
) -> SecondViews | None:
    """What makes second views, where they are configured."""
    kind = config.augment.second_view
    if kind == "none":
        return None
    styles = {}
    if kind == "classes":
        styles = {m: case_styles(members, len(plan.classes)) for m, members in cases.items()}
    return SecondViews(kind, config.train.seed, styles)


def views_of(
    views: SecondViews | None, batches: Mapping[str, Batch], step: int
) -> dict[str, View] | None:
    """The second views of a step's batches, where there are any."""
    if views is None:
        return None
    others = seen_as(list(batches), step)
    return {m: View(others[m], views.image(batch, m, others[m])) for m, batch in batches.items()}


def risen(terms: Terms, config: Config, step: int) -> Terms:
    """The terms at this step (from 0): those that are eased rise over `loss.ramp` of all steps."""
    length = config.loss.ramp * config.train.steps
    return ease(terms, 1.0 if step + 1 >= length else (step + 1) / length)


def backward(
    terms: Terms, joint: Joint, cap: float | None, scaler: torch.amp.GradScaler, group: Group
) -> float:
    """The gradients of all parameters, of the (scaled) loss.

    Where the gradient of the terms that are eased is on the segmenter, over all processes, larger
    than `cap` times that of the others, theirs is made smaller everywhere by what it is too large.
    That costs a second backward pass.

    Returns:
        what is left of the eased terms' gradient: 1 for all of it.
    """
    parts = [terms.weighted[name] for name in terms.eased]
    eased = torch.stack(parts).sum() if parts and cap is not None else None
    if eased is None or cap is None or not eased.requires_grad:
        scaler.scale(terms.total).backward()
        return 1.0
    parameters = [p for p in joint.parameters() if p.requires_grad]
    own = torch.autograd.grad(
        scaler.scale(eased), parameters, retain_graph=True, allow_unused=True,
        materialize_grads=True,
    )  # fmt: skip
    scaler.scale(terms.total).backward()
    flat = torch.cat([g.flatten() for g in own])
    pulls = (group.total(flat) / group.world).split([g.numel() for g in own])
    kept = {id(p) for p in joint.segmenter.parameters()}
    there = [
        (p.grad, pull.reshape(p.shape), id(p) in kept)
        for p, pull in zip(parameters, pulls, strict=True)
        if p.grad is not None
    ]
    pull = _norm([g for _, g, inside in there if inside])
    rest = _norm([whole - g for whole, g, inside in there if inside])
    if not pull > cap * rest:
        return 1.0
    share = cap * rest / pull
    for whole, g, _ in there:
        whole.add_(g, alpha=share - 1)
    return share


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(tensors)) if tensors else 0.0


def share_of(images: int, world: int, run: Path) -> int:
    """Images of a step, per modality, that each of `world` processes takes.

    Raises:
        UsageError: the run's steps have so many images that they cannot be shared equally.
    """
    if images % world:
        able = ", ".join(str(n) for n in range(1, images + 1) if images % n == 0)
        raise UsageError(
            f"{run} takes {images} images of each modality a step, which {world} processes cannot "
            f"share equally. Go on with {able} processes."
        )
    return images // world


def shared_anew(images: int, world: int, config: Config) -> str:
    """That the run goes on with another number of processes."""
    own = config.train.batch_size
    before = f"{images // own} process{'es' * (images > own)}"
    return (
        f"the run began in {before} and goes on in {world}: each takes {images // world} images of "
        f"each modality a step, not {own}, so that a step has {images} as before."
    )


@torch.no_grad()
def gain_distance(joint: Joint) -> float | None:
    """||Phi^a - Phi^b|| over all branches, mean over the pairs of modalities; None without V3."""
    if joint.scaling is None or len(joint.segmenter.modalities) < 2:
        return None
    gains = [joint.gains(m) or {} for m in joint.segmenter.modalities]
    flat = [torch.cat(list(table.values())) for table in gains]
    return float(np.mean([float((a - b).norm()) for a, b in combinations(flat, 2)]))
