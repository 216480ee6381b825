"""What benchmarks/consistency.py measures on a network and its modules."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unpaired.config import Config
from unpaired.data.plan import Plan
from unpaired.data.sampling import Draws, PatchSampler
from unpaired.errors import UsageError
from unpaired.losses import Objective, icr
from unpaired.losses.objective import Labels, Outputs
from unpaired.losses.segmentation import deep_weights
from unpaired.methods import Method
from unpaired.metrics.correlations import Described, describe
from unpaired.models import Joint
from unpaired.run import RunFolder
from unpaired.training.checkpoint import load_checkpoint, load_matching

Tensors = dict[str, Tensor]
PAPER = {"alpha": 0.4, "beta": 0.1, "gamma": 0.1, "tau": 4.0, "mask_absent": False}
"""Weights of the losses in what is measured: the schema's, with the paper's temperature."""


def load_joint(run: RunFolder, method: Method) -> Joint:
    """The run's network with its modules, as they were kept.

    Raises:
        UsageError: it has no correlations.
    """
    joint = method.joint(run.config, run.plan)
    load_matching(joint, load_checkpoint(run.files.kept)["model"], run.files.kept)
    if not any(name.endswith("kernel") for name, _ in joint.semantics.named_parameters()):
        raise UsageError(
            f"{run.root} was trained without correlations between classes; there is nothing to "
            "describe. They are built where loss.gamma is above 0 and there are two modalities."
        )
    return joint.eval()


def slices(run: RunFolder, config: Config, plan: Plan, count: int = 20) -> tuple[Tensors, Labels]:
    """The same `count` training slices of each modality, whenever it is called."""
    images, labels = {}, {}
    for m, cases in run.prepared_cases("train").items():
        draws = Draws(count, seed=0)
        foreground = config.train.foreground
        batch = PatchSampler(cases, m, plan.patch, plan.context, foreground, draws).batch(0)
        images[m], labels[m] = batch.image, batch.label
    return images, labels


@torch.no_grad()
def interactions(joint: Joint, images: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Maps A, correlations E and the rest, by modality and scale, in evaluation mode."""
    was, found = joint.training, {}
    joint.eval()
    for m, image in images.items():
        features = joint.segmenter(image, m, joint.gains(m)).features
        found[m] = joint.semantics[m](features)
    joint.train(was)
    return found


def describe_scales(joint: Joint, images: Mapping[str, Tensor], tau: float) -> list[Described]:
    """One description a scale, coarse to fine."""
    found = interactions(joint, images)
    arrays = {m: [one.correlation.numpy() for one in parts] for m, parts in found.items()}
    return [
        describe(dict(zip(arrays, e, strict=True)), tau) for e in zip(*arrays.values(), strict=True)
    ]


def _norm(tensors: Iterable[Tensor]) -> float:
    return float(torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt())


def pulls(
    joint: Joint, objective: Objective, images: Mapping[str, Tensor], labels: Labels
) -> dict[str, tuple[float, float, float]]:
    """Per term of the objective the norm of its weighted gradient on the segmenter, on what is
    thrown away, and on the class embeddings Q among that."""
    copy = deepcopy(joint).train()
    terms = objective(copy(images), labels)
    kept = [p for p in copy.segmenter.parameters() if p.requires_grad]
    inside = {id(p) for p in kept}
    dropped = [p for p in copy.parameters() if p.requires_grad and id(p) not in inside]
    embedded = {id(part.embeddings) for part in copy.semantics.values()}
    found = {}
    for part in dict.fromkeys(name.split("/")[0] for name in terms.weighted):
        value = sum(v for name, v in terms.weighted.items() if name.split("/")[0] == part)
        assert isinstance(value, Tensor)
        gradient = torch.autograd.grad(
            value, [*kept, *dropped], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        found[part] = (
            _norm(gradient[: len(kept)]),
            _norm(gradient[len(kept) :]),
            _norm(g for p, g in zip([*kept, *dropped], gradient, strict=True) if id(p) in embedded),
        )
    return found


def modules_alone(
    joint: Joint, images: Mapping[str, Tensor], tau: float, at: Sequence[int], rate: float = 3e-3
) -> list[float]:
    """L_icr after so many steps of Adam on copies of the modules, everything else frozen."""
    copy = deepcopy(joint).eval().requires_grad_(False)
    with torch.no_grad():
        features = {m: copy.segmenter(x, m, copy.gains(m)).features for m, x in images.items()}
    trained = dict.fromkeys(
        p for part in copy.semantics.values() for p in part.modules_per_scale.parameters()
    )
    for p in trained:
        p.requires_grad_(True)
    optimizer, values = torch.optim.Adam(trained, lr=rate), []
    for step in range(max(at) + 1):
        scales = zip(*([i.correlation for i in copy.semantics[m](f)] for m, f in features.items()),
                     strict=True)  # fmt: skip
        loss = torch.stack([icr(dict(zip(features, e, strict=True)), tau) for e in scales]).sum()
        if step in at:
            values.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return values


def offset_shares(joint: Joint, images: Mapping[str, Tensor], tau: float) -> list[float]:
    """Per scale, how much of the divergence across modalities their mean E alone have."""
    found, shares = interactions(joint, images), []
    for parts in zip(*found.values(), strict=True):
        e = {m: part.correlation for m, part in zip(found, parts, strict=True)}
        between = icr({m: x.mean(0, keepdim=True) for m, x in e.items()}, tau)
        shares.append(float(between / icr(e, tau)))
    return shares


def flipped_head(joint: Joint, images: Mapping[str, Tensor]) -> tuple[float, float]:
    """What changes where a head of the finest scale is turned round and F_1x1 weighs it so, too:
    the largest change of the auxiliary logits, and that of E, against their largest values."""
    m = next(iter(images))
    copy, one = deepcopy(joint), {m: images[m]}
    before = interactions(copy, one)[m][-1]
    module = copy.semantics[m].modules_per_scale[-1]
    width = module.attention.query.weight.shape[0] // module.attention.heads
    with torch.no_grad():
        module.attention.query.weight[:width] *= -1
        module.head.weight[:, 0] *= -1
    after = interactions(copy, one)[m][-1]

    def change(a: Tensor, b: Tensor) -> float:
        return float((a - b).abs().max() / a.abs().max())

    return (
        change(before.logits, after.logits),
        change(before.correlation, after.correlation),
    )


@torch.no_grad()
def absorbed(joint: Joint) -> float:
    """Align one modality's Q wholly with another's: how much of its queries a private W_Q cannot
    give back, relative (least squares)."""
    a, b = list(joint.semantics.values())[:2]
    module = b.modules_per_scale[0]
    queries = module.attention.query(module.norm_q(b.embeddings)).double()
    aligned = module.norm_q(a.embeddings).double()
    weight = torch.linalg.lstsq(aligned, queries).solution
    return float((aligned @ weight - queries).norm() / queries.norm())


@torch.no_grad()
def gains_apart(joint: Joint) -> tuple[float, float, float]:
    """Root mean square of the gains' distance from 1, of their difference between two modalities,
    and of that difference where L_mcr is 0: the second Q along the first, at its own lengths."""
    assert joint.scaling is not None
    copy = deepcopy(joint)
    a, b = list(copy.segmenter.modalities)[:2]

    def flat(m: str) -> Tensor:
        return torch.cat(list((copy.gains(m) or {}).values()))

    def rms(x: Tensor) -> float:
        return float(x.square().mean().sqrt())

    size, apart = rms(flat(a) - 1), rms(flat(a) - flat(b))
    first, second = (copy.semantics[m].embeddings for m in (a, b))
    second.copy_(nn.functional.normalize(first, dim=-1) * second.norm(dim=-1, keepdim=True))
    return size, apart, rms(flat(a) - flat(b))


def pooled_shares(
    joint: Joint, images: Mapping[str, Tensor]
) -> list[dict[str, tuple[float, float]]]:
    """Per scale and modality: the share of the row-centred E that is the same for every i, and its
    correlation with the plain mean of the maps over the positions."""
    found, scales = interactions(joint, images), []
    for parts in zip(*found.values(), strict=True):
        row = {}
        for m, part in zip(found, parts, strict=True):
            e = part.correlation - part.correlation.mean(-1, keepdim=True)
            common = e.mean(1, keepdim=True).expand_as(e)
            plain = part.maps.flatten(3).sum(2).mean(-1)  # [B Z]
            plain = (plain - plain.mean(-1, keepdim=True))[:, None].expand_as(e)
            together = np.corrcoef(e.flatten().numpy(), plain.flatten().numpy())[0, 1]
            row[m] = float(common.square().sum() / e.square().sum()), float(together)
        scales.append(row)
    return scales


def likeness(joint: Joint, images: Mapping[str, Tensor], labels: Labels) -> tuple[float, float]:
    """Cosine of L_aux's gradient on the segmenter with that of deep supervision, and with that of
    the full-size segmentation loss."""
    copy = deepcopy(joint).train()
    outputs: Outputs = copy(images)
    objective = Objective(**{**PAPER, "beta": 0.0, "gamma": 0.0})
    whole, without = (
        objective(o, labels).weighted
        for o in (outputs, {m: replace(out, deep=()) for m, out in outputs.items()})  # type: ignore[type-var]
    )
    kept = [p for p in copy.segmenter.parameters() if p.requires_grad]

    def gradient(value: Any) -> Tensor:
        parts = torch.autograd.grad(value, kept, retain_graph=True, materialize_grads=True,
                                    allow_unused=True)  # fmt: skip
        return torch.cat([part.flatten() for part in parts])

    first = deep_weights(1 + len(next(iter(outputs.values())).deep))[0]
    full = gradient(sum(without[f"seg/{m}"] for m in outputs))
    deep = gradient(sum(whole[f"seg/{m}"] for m in outputs)) - first * full
    aux = gradient(sum(whole[f"aux/{m}"] for m in outputs))
    cosine = nn.functional.cosine_similarity
    return float(cosine(aux, deep, dim=0)), float(cosine(aux, full, dim=0))
