"""How large semantic correlations E are, how flat, and how far modalities lie apart in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np


@dataclass(frozen=True)
class Described:
    """The correlations of one scale; p = softmax_j(E^i / tau).

    Attributes:
        norm: per modality, the root of the mean square of all entries of E.
        entropy: per modality, the mean over images and rows of the entropy of p, in nats; at most
            ln Z, where a row is flat, and 0 where it is saturated.
        within: per modality, the mean over pairs of its images of the symmetric KL divergence of
            p, summed over the classes i as in L_icr; nan for fewer than two images.
        across: the same over the pairs of images of different modalities, which is L_icr with
            every class counted; nan for one modality.
    """

    norm: dict[str, float]
    entropy: dict[str, float]
    within: dict[str, float]
    across: float

    @property
    def ratio(self) -> float:
        """Across over the mean within: 1 where a modality makes no difference."""
        inside = [value for value in self.within.values() if np.isfinite(value)]
        mean = float(np.mean(inside)) if inside else float("nan")
        return self.across / mean if mean > 0 else float("nan")


def describe(correlations: Mapping[str, np.ndarray], tau: float) -> Described:
    """Describe the correlations [n Z Z] of one scale, by modality.

    KL(p|q) over all ordered pairs of n images is n sum p log p - (sum p)(sum log p), so that the
    cost is that of the images and not of their pairs.

    Args:
        tau: temperature of L_icr.

    Raises:
        ValueError: a modality has no image.
    """
    if empty := [m for m, e in correlations.items() if not len(e)]:
        raise ValueError(f"{empty[0]} has no image to describe")
    exact = {m: np.asarray(e, np.float64) for m, e in correlations.items()}
    logs = {m: _log_softmax(e / tau) for m, e in exact.items()}
    inside = {m: _ordered_pairs(log_p) for m, log_p in logs.items()}
    count = {m: len(log_p) for m, log_p in logs.items()}
    across = sum(count[a] * count[b] for a, b in combinations(count, 2))
    total = _ordered_pairs(np.concatenate(list(logs.values()))) - sum(inside.values())
    return Described(
        norm={m: float(np.sqrt(np.square(e).mean())) for m, e in exact.items()},
        entropy={m: float(-(np.exp(x) * x).sum(-1).mean()) for m, x in logs.items()},
        within={
            m: inside[m] / (n * (n - 1) / 2) if n > 1 else float("nan") for m, n in count.items()
        },
        across=total / across if across else float("nan"),
    )


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(-1, keepdims=True)))


def _ordered_pairs(log_p: np.ndarray) -> float:
    """Sum of KL(p|q) over all ordered pairs of images [n Z Z], over their rows."""
    p = np.exp(log_p)
    return float(len(p) * (p * log_p).sum() - (p.sum(0) * log_p.sum(0)).sum())
