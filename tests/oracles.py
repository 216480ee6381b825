"""The paper's equations as plain loops, one image, one position, one pair at a time.

Written from the equations, not from the code, and slow on purpose: no batching, no identity, no
reordering of sums. Give float64 tensors; everything stays differentiable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import torch
from torch import Tensor


def softmax(values: Sequence[Tensor]) -> list[Tensor]:
    """exp(v) / sum exp(v)."""
    top = max(float(v.detach()) for v in values)
    powers = [torch.exp(v - top) for v in values]
    total = sum(powers)
    return [p / total for p in powers]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm of one vector [C]."""
    mean = x.sum() / len(x)
    variance = ((x - mean) ** 2).sum() / len(x)
    return (x - mean) / torch.sqrt(variance + eps) * weight + bias


def gelu(x: Tensor) -> Tensor:
    """x Phi(x), with the exact normal distribution function."""
    return x * (1 + torch.erf(x / 2**0.5)) / 2


# --- External Attention Module -------------------------------------------------------------


@dataclass
class Eam:
    """The weights of one module, all as matrices that multiply from the left."""

    norm_q: tuple[Tensor, Tensor]
    norm_f: tuple[Tensor, Tensor]
    w_q: Tensor  # [C C], rows n d .. (n + 1) d are head n
    w_k: Tensor
    heads: int
    w_v: Tensor | None = None
    w_o: tuple[Tensor, Tensor] | None = None
    norm_mlp: tuple[Tensor, Tensor] | None = None
    mlp: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    reduce: tuple[Tensor, Tensor] | None = None
    head: Tensor | None = None  # [N]
    kernel: Tensor | None = None  # [Z C N]
    scaled: bool = False


def attention_maps(q: Tensor, f: Tensor, w_q: Tensor, w_k: Tensor, heads: int) -> Tensor:
    """A = q k' before the softmax, of normalised q [Z C] and f [S C]: [Z N S]."""
    d = q.shape[1] // heads
    rows = []
    for z in range(len(q)):
        for n in range(heads):
            part = slice(n * d, (n + 1) * d)
            query = w_q[part] @ q[z]
            rows.append(torch.stack([(query * (w_k[part] @ f[x])).sum() for x in range(len(f))]))
    return torch.stack(rows).reshape(len(q), heads, len(f))


def class_attention(
    q: Tensor,
    f: Tensor,
    w_q: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    w_o: Tensor,
    b_o: Tensor,
    heads: int,
) -> Tensor:
    """Eq. 1-3: per head softmax over the positions of q k' / sqrt(d), times v; then W_O."""
    d = q.shape[1] // heads
    maps = attention_maps(q, f, w_q, w_k, heads)
    out = []
    for z in range(len(q)):
        parts = []
        for n in range(heads):
            weights = softmax([maps[z, n, x] / d**0.5 for x in range(len(f))])
            value = w_v[n * d : (n + 1) * d]
            parts.append(sum(weights[x] * (value @ f[x]) for x in range(len(f))))
        out.append(w_o @ torch.cat(parts) + b_o)
    return torch.stack(out)


def correlation(kernels: Tensor, maps: Tensor) -> Tensor:
    """Eq. 6-8 of one image, with every gated map B^{ij}_n(x) formed: [Z N], [Z N S] -> [Z Z]."""
    classes, heads, positions = maps.shape
    gate = [[[None] * positions for _ in range(classes)] for _ in range(classes)]
    for i, x in product(range(classes), range(positions)):
        similarity = [
            sum(kernels[i, n] * maps[j, n, x] for n in range(heads)) for j in range(classes)
        ]
        for j, w in enumerate(softmax(similarity)):
            gate[i][j][x] = w
    rows = []
    for i, j in product(range(classes), repeat=2):
        gated = [maps[j, n, x] * gate[i][j][x] for n in range(heads) for x in range(positions)]
        rows.append(sum(gated) / sum(gate[i][j]))
    return torch.stack(rows).reshape(classes, classes)


def external_attention(p: Eam, q: Tensor, features: Tensor) -> dict[str, Tensor]:
    """Eq. 1-9 of one image: embeddings [Z C] and map [C *space]."""
    space = features.shape[1:]
    flat = features.reshape(features.shape[0], -1)
    f = torch.stack([layer_norm(flat[:, x], *p.norm_f) for x in range(flat.shape[1])])
    normed = torch.stack([layer_norm(row, *p.norm_q) for row in q])
    maps = attention_maps(normed, f, p.w_q, p.w_k, p.heads)
    if p.scaled:
        maps = maps / (q.shape[1] // p.heads) ** 0.5
    found = {"maps": maps.reshape(*maps.shape[:2], *space)}
    if p.head is not None:
        logits = sum(p.head[n] * maps[:, n] for n in range(p.heads))
        found["logits"] = logits.reshape(len(q), *space)
    if p.kernel is not None:
        kernels = torch.stack([q[z] @ p.kernel[z] for z in range(len(q))])
        found["correlation"] = correlation(kernels, maps)
    if p.w_v is not None:
        attended = class_attention(normed, f, p.w_q, p.w_k, p.w_v, *p.w_o, p.heads)
        found["embeddings"] = torch.stack(
            [_update(p, a, b) for a, b in zip(attended, q, strict=True)]
        )
    return found


def _update(p: Eam, attended: Tensor, q: Tensor) -> Tensor:
    q = attended + q  # Eq. 4
    w1, b1, w2, b2 = p.mlp
    q = w2 @ gelu(w1 @ layer_norm(q, *p.norm_mlp) + b1) + b2 + q  # Eq. 5
    return p.reduce[0] @ q + p.reduce[1]


# --- Losses --------------------------------------------------------------------------------


def _positions(label: Tensor) -> list[tuple[int, ...]]:
    return list(product(*(range(n) for n in label.shape)))


def _probabilities(logits: Tensor, label: Tensor) -> dict[tuple[int, ...], list[Tensor]]:
    """Position (image first) -> softmax over the classes."""
    return {x: softmax(list(logits[(x[0], slice(None), *x[1:])])) for x in _positions(label)}


def cross_entropy(logits: Tensor, label: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """(Weighted) mean of -log p of the true class."""
    total, mass = 0.0, 0.0
    for x, p in _probabilities(logits, label).items():
        truth = int(label[x])
        weight = 1.0 if weights is None else weights[truth]
        total, mass = total - weight * torch.log(p[truth]), mass + weight
    return total / mass


def dice(logits: Tensor, label: Tensor, background: bool = True) -> Tensor:
    """Mean over the classes of 1 - (2 sum p y + e) / (sum p^2 + sum y^2 + e), e = 1e-5."""
    found = _probabilities(logits, label)
    losses = []
    for z in range(0 if background else 1, logits.shape[1]):
        overlap, square, truth = 0.0, 0.0, 0.0
        for x, p in found.items():
            y = float(label[x] == z)
            overlap, square, truth = overlap + p[z] * y, square + p[z] ** 2, truth + y**2
        losses.append(1 - (2 * overlap + 1e-5) / (square + truth + 1e-5))
    return sum(losses) / len(losses)


def label_at(label: Tensor, size: Sequence[int]) -> Tensor:
    """Per coarse cell the label of the position that holds the cell's centre."""
    out = torch.empty(label.shape[0], *size, dtype=label.dtype)
    for b, *cell in _positions(out):
        where = [
            int((c + 0.5) * n / m) for c, n, m in zip(cell, label.shape[1:], size, strict=True)
        ]
        out[(b, *cell)] = label[(b, *where)]
    return out


def auxiliary(scales: Sequence[Tensor], label: Tensor) -> Tensor:
    """Eq. 9: CE + Dice of every scale against the label at that scale, summed."""
    total = 0.0
    for logits in scales:
        truth = label_at(label, logits.shape[2:])
        total = total + cross_entropy(logits, truth) + dice(logits, truth)
    return total


def mcr(embeddings: Mapping[str, Tensor]) -> Tensor:
    """Eq. 10: sum over classes of 1 - cos, mean over the pairs of modalities."""
    losses = []
    for a, b in combinations(embeddings.values(), 2):
        for p, q in zip(a, b, strict=True):
            losses.append(1 - (p * q).sum() / torch.sqrt((p * p).sum() * (q * q).sum()))
    pairs = len(embeddings) * (len(embeddings) - 1) // 2
    return sum(losses) / pairs


def icr(
    correlations: Mapping[str, Tensor], tau: float, present: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Eq. 11 at one scale: symmetric KL per class, mean over pairs of images across modalities.

    With `present`, a class of a pair counts only where both images hold it.
    """
    losses = []
    for (m, a), (n, b) in combinations(correlations.items(), 2):
        for s, t in product(range(len(a)), range(len(b))):
            pair = a.new_zeros(())
            for i in range(a.shape[1]):
                if present is None or (present[m][s, i] and present[n][t, i]):
                    p, q = softmax(list(a[s, i] / tau)), softmax(list(b[t, i] / tau))
                    for x, y in zip(p, q, strict=True):
                        pair = pair + x * (x / y).log() + y * (y / x).log()
            losses.append(pair)
    return sum(losses) / len(losses)


# --- Blocks and scaling --------------------------------------------------------------------


def gains(mix: Tensor, q: Tensor, w: Tensor) -> Tensor:
    """Eq. 13, one branch: diagonal of Phi = 1 + (w1 Q) W, of mix [Z], q [Z C], w [C D]."""
    omega = sum(mix[z] * q[z] for z in range(len(q)))
    return 1 + sum(omega[c] * w[c] for c in range(len(omega)))


def neighbours(
    space: Sequence[int], window: Sequence[int], shift: Sequence[int]
) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """Which positions each position attends to: those of its window, laid from `shift` on.

    Windows do not wrap: at the ends of a shifted axis there are narrower ones.
    """
    everywhere = list(product(*(range(n) for n in space)))

    def cell(x: tuple[int, ...]) -> tuple[int, ...]:
        return tuple((i - s) // w for i, s, w in zip(x, shift, window, strict=True))

    return {x: [y for y in everywhere if cell(y) == cell(x)] for x in everywhere}


@dataclass
class Attention:
    """Weights of one window self-attention."""

    qkv: tuple[Tensor, Tensor]
    project: tuple[Tensor, Tensor]
    table: Tensor  # [(2 w - 1 per axis) heads]
    heads: int
    window: tuple[int, ...]
    shift: tuple[int, ...]


def window_attention(p: Attention, x: Tensor) -> Tensor:
    """One token at a time over one image [*space C]; the bias belongs to the offset."""
    channels, d = x.shape[-1], x.shape[-1] // p.heads
    table = p.table.reshape(*(2 * w - 1 for w in p.window), p.heads)
    qkv = {a: p.qkv[0] @ x[a] + p.qkv[1] for a in product(*(range(n) for n in x.shape[:-1]))}
    out = []
    for a, others in neighbours(x.shape[:-1], p.window, p.shift).items():
        parts = []
        for n in range(p.heads):
            q, k, v = (slice(i * channels + n * d, i * channels + (n + 1) * d) for i in range(3))
            logits = []
            for b in others:
                offset = [i - j + w - 1 for i, j, w in zip(a, b, p.window, strict=True)]
                logits.append((qkv[a][q] * qkv[b][k]).sum() / d**0.5 + table[(*offset, n)])
            weights = softmax(logits)
            parts.append(sum(w * qkv[b][v] for w, b in zip(weights, others, strict=True)))
        out.append(p.project[0] @ torch.cat(parts) + p.project[1])
    return torch.stack(out).reshape(x.shape)


@dataclass
class Block:
    """Weights of one block; the gains are diagonals of Phi."""

    norm1: tuple[Tensor, Tensor]
    attention: Attention
    norm2: tuple[Tensor, Tensor]
    mlp: tuple[Tensor, Tensor, Tensor, Tensor]
    phi1: Tensor
    phi2: Tensor


def block(p: Block, x: Tensor) -> Tensor:
    """Eq. 14-15 of one image [*space C], without drop path."""
    where = list(product(*(range(n) for n in x.shape[:-1])))
    normed = torch.stack([layer_norm(x[a], *p.norm1) for a in where]).reshape(x.shape)
    x = x + p.phi1 * window_attention(p.attention, normed)
    w1, b1, w2, b2 = p.mlp
    rows = [w2 @ gelu(w1 @ layer_norm(x[a], *p.norm2) + b1) + b2 for a in where]
    return x + p.phi2 * torch.stack(rows).reshape(x.shape)
