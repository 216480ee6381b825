"""Random changes of a batch, on its device, for any number of spatial axes.

Every sample draws from (seed, modality, position) alone, so the other samples of the batch, its
size and the number of ranks change nothing.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from unpaired.config import AugmentConfig
from unpaired.data.plan import Plan
from unpaired.data.sampling import Batch, modality_key
from unpaired.data.styles import GIN, change_some

_WORDS = (("left", "right"), ("lt", "rt"), ("l", "r"), ("sinistra", "dextra"), ("sin", "dex"))
# Random streams beside those of the sampler.
_PARAMETERS, _NOISE = 2, 3
MAX_ANISOTROPY = 3.0
"""No rotation in a plane whose spacings differ by this factor or more: it would make stairs."""


@dataclass(frozen=True)
class _Changes:
    """What one sample undergoes; `matrix` and `shift` map output voxels (from the centre) back."""

    matrix: np.ndarray
    shift: np.ndarray
    gain: float
    offset: float
    gamma: float
    noise: float
    blur: float


def augment(
    batch: Batch,
    options: AugmentConfig,
    mirror: Sequence[bool],
    seed: int,
    modality: str,
    spacing_mm: Sequence[float] | None = None,
) -> Batch:
    """A changed copy of the batch: moved (rotation, zoom, shift, mirror), then gain, offset,
    gamma, blur and noise, and where configured a random intensity network.

    Image linear, filled with the sample's minimum; label nearest, filled with background.

    Args:
        mirror: per spatial axis, whether mirroring is allowed; see `mirror_axes`.
        spacing_mm: per spatial axis, so that rotations are true; voxels are cubes by default.
    """
    key = (seed, modality_key(modality))
    space = batch.image.shape[2:]
    allowed = [flag and options.mirror == "auto" for flag in mirror]
    positions = batch.position.tolist()
    spacing = np.ones(len(space)) if spacing_mm is None else np.asarray(spacing_mm, float)
    changes = [
        _draw(np.random.default_rng([*key, _PARAMETERS, p]), options, allowed, space, spacing)
        for p in positions
    ]
    image, label = _move(batch.image, batch.label, changes)
    image = _gain(image, changes)
    image = _gamma(image, changes)
    image = _blur(image, changes)
    image = _noise(image, changes, [[*key, _NOISE, p] for p in positions])
    if options.gin:
        image = change_some(image, options.gin, [[*key, GIN, p] for p in positions])
    return replace(batch, image=image, label=label)


def mirror_axes(plan: Plan) -> tuple[tuple[bool, ...], str]:
    """Whether each axis of a patch may be mirrored, and why.

    Across left and right never, if a class name tells the sides apart.
    """
    sided = sided_names(plan.classes)
    names = {"S": "head-foot", "P": "front-back", "L": "left-right"}
    free = tuple(not (across and sided) for across in plan.sideways)
    allowed = [names[x] for x, ok in zip(plan.patch_axes, free, strict=True) if ok]
    reason = f"Training images are mirrored {' and '.join(allowed)}"
    if not any(plan.sideways):
        reason += "; left and right are not in the plane."
    elif sided:
        reason += f", never left-right, since {' and '.join(map(repr, sided))} would change sides."
    else:
        reason += ", since no class name tells left from right."
    return free, reason


def sided_names(classes: Iterable[str]) -> tuple[str, ...]:
    """The first pair of names that differ by side only, or a single name with a side; or ()."""
    known = list(classes)
    for name in known:
        twins = [other for other in known if other != name and other in _twins(name)]
        if twins:
            return name, twins[0]
    # "left kidney" alone: a mirrored right kidney must not be taught as a left one either.
    for name in known:
        if {"left", "right"} & set(re.split(r"[\W_]+", name.casefold())):
            return (name,)
    return ()


def _twins(name: str) -> set[str]:
    """The name with a side word replaced by its opposite, wherever one can be read."""
    variants = set()
    for pair in (*_WORDS, *((b, a) for a, b in _WORDS)):
        side, other = pair
        for old, new in (
            (side, other),
            (side.upper(), other.upper()),
            (side.title(), other.title()),
        ):
            variants.add(re.sub(rf"(?<![^\W_]){old}(?![^\W_])", new, name))
            if name.startswith(old):
                variants.add(new + name.removeprefix(old))
            if name.endswith(old):
                variants.add(name.removesuffix(old) + new)
    return variants - {name}


def _draw(
    rng: np.random.Generator,
    options: AugmentConfig,
    mirror: Sequence[bool],
    space: Sequence[int],
    spacing: np.ndarray,
) -> _Changes:
    """One sample's changes. The number of draws is fixed: an option moves no other's."""
    axes = len(space)
    planes = list(combinations(range(axes), 2))
    # Each change: a coin, then its size in [0, 1].
    coins = rng.random((len(planes) + 2 * axes + 6, 2))
    draws = iter([(coin < options.probability, u) for coin, u in coins])

    def number(low: float, high: float, rest: float) -> float:
        used, u = next(draws)
        return low + u * (high - low) if used else rest

    def factor(limits: tuple[float, float]) -> float:
        # Evenly in the logarithm: halving is as likely as doubling.
        return float(np.exp(number(np.log(limits[0]), np.log(limits[1]), 0.0)))

    turn = np.eye(axes)
    degrees = options.rotation_degrees
    for a, b in planes:
        angle = np.radians(number(-degrees, degrees, 0.0))
        if max(spacing[a], spacing[b]) >= MAX_ANISOTROPY * min(spacing[a], spacing[b]):
            continue
        plane = np.eye(axes)
        plane[[a, a, b, b], [a, b, a, b]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        turn = turn @ plane
    turn = turn * (spacing / spacing[:, None])  # in voxels: diag(1 / spacing) turn diag(spacing)
    shift = [n * number(-options.shift, options.shift, 0.0) for n in space]
    flips = [-1.0 if next(draws)[0] and allowed else 1.0 for allowed in mirror]
    zoom = factor(options.scale)
    return _Changes(
        matrix=np.diag(flips) @ turn / zoom,
        shift=np.array(shift),
        gain=factor(options.gain),
        gamma=factor(options.gamma),
        offset=number(-options.offset, options.offset, 0.0),
        noise=number(0.0, options.noise, 0.0),
        blur=number(0.0, options.blur_sigma, 0.0),
    )


def _move(
    image: Float[Tensor, "B K *space"], label: Int64[Tensor, "B *space"], changes: list[_Changes]
) -> tuple[Float[Tensor, "B K *space"], Int64[Tensor, "B *space"]]:
    """Image and label through one grid; samples that do not move are not touched."""
    still = np.eye(image.ndim - 2)
    rows = [i for i, c in enumerate(changes) if (c.matrix != still).any() or c.shift.any()]
    if not rows:
        return image, label
    grid = _grid([changes[i] for i in rows], image.shape[2:], image.device)
    moved, labels = image[rows], label[rows].float()[:, None]
    low = moved.flatten(2).amin(2).reshape(*moved.shape[:2], *[1] * (image.ndim - 2))
    # Outside counts as zero, so the minimum is made zero for the time being.
    moved = F.grid_sample(moved - low, grid, mode="bilinear", align_corners=False) + low
    labels = F.grid_sample(labels, grid, mode="nearest", align_corners=False)
    image, label = image.clone(), label.clone()
    image[rows], label[rows] = moved, labels[:, 0].to(label.dtype)
    return image, label


def _grid(
    changes: list[_Changes], space: Sequence[int], device: torch.device
) -> Float[Tensor, "B *space axes"]:
    """Where each output voxel reads, as `grid_sample` wants it: [B *space axes], last axis first.

    Sums of products by hand: a batched matrix product may round by the size of the batch.
    """
    axes = len(space)
    matrix = torch.tensor(np.stack([c.matrix for c in changes]), dtype=torch.float32, device=device)
    shift = torch.tensor(np.stack([c.shift for c in changes]), dtype=torch.float32, device=device)
    centred = [
        (torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2).reshape(
            [n if axis == other else 1 for other in range(axes)]
        )
        for axis, n in enumerate(space)
    ]
    ones = [1] * axes
    reads = [
        sum(
            (matrix[:, j, k].reshape(-1, *ones) * centred[k] for k in range(axes)),
            start=shift[:, j].reshape(-1, *ones),
        )
        * (2 / space[j])
        for j in reversed(range(axes))
    ]
    return torch.stack(torch.broadcast_tensors(*reads), dim=-1)


def _column(values: Iterable[float], like: Tensor) -> Tensor:
    """One number a sample, shaped to multiply `like` [B K *space]."""
    column = torch.tensor(list(values), dtype=like.dtype, device=like.device)
    return column.reshape(-1, *[1] * (like.ndim - 1))


def _gain(
    image: Float[Tensor, "B K *space"], changes: list[_Changes]
) -> Float[Tensor, "B K *space"]:
    gain = _column((c.gain for c in changes), image)
    return image * gain + _column((c.offset for c in changes), image)


def _gamma(
    image: Float[Tensor, "B K *space"], changes: list[_Changes]
) -> Float[Tensor, "B K *space"]:
    """x -> x^gamma on each sample's own range, which it keeps."""
    flat = image.flatten(1)
    low, high = (
        extreme.reshape(-1, *[1] * (image.ndim - 1)) for extreme in (flat.amin(1), flat.amax(1))
    )
    span = (high - low).clamp_min(1e-6)
    curved = ((image - low) / span) ** _column((c.gamma for c in changes), image) * span + low
    plain = _column((c.gamma == 1 for c in changes), image).bool()
    return torch.where(plain, image, curved)


def _blur(
    image: Float[Tensor, "B K *space"], changes: list[_Changes]
) -> Float[Tensor, "B K *space"]:
    """Gaussian, one axis after the other, edges repeated; a weighted sum of shifted copies."""
    rows = [i for i, c in enumerate(changes) if c.blur > 0]
    if not rows:
        return image
    out = image[rows]
    sigma = _column((changes[i].blur for i in rows), image)
    radius = int(np.ceil(3 * max(changes[i].blur for i in rows)))
    # Beyond three of its own deviations a kernel is cut, whoever else is in the batch.
    reach = torch.ceil(3 * sigma)
    for axis in range(2, image.ndim):
        total, weights = torch.zeros_like(out), torch.zeros_like(sigma)
        index = torch.arange(out.shape[axis], device=image.device)
        for offset in range(-radius, radius + 1):
            weight = torch.exp(-0.5 * (offset / sigma) ** 2) * (reach >= abs(offset))
            near = (index + offset).clamp(0, out.shape[axis] - 1)
            total += weight * out.index_select(axis, near)
            weights += weight
        out = total / weights
    image = image.clone()
    image[rows] = out
    return image


def _noise(
    image: Float[Tensor, "B K *space"], changes: list[_Changes], seeds: list[list[int]]
) -> Float[Tensor, "B K *space"]:
    rows = [i for i, c in enumerate(changes) if c.noise > 0]
    if not rows:
        return image
    image = image.clone()
    for i in rows:
        state = int(np.random.SeedSequence(seeds[i]).generate_state(1, np.uint64)[0] >> 1)
        generator = torch.Generator(image.device).manual_seed(state)
        normal = torch.randn(
            image.shape[1:], generator=generator, device=image.device, dtype=image.dtype
        )
        image[i] += changes[i].noise * normal
    return image
