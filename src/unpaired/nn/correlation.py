"""Semantic correlations between classes (paper, Eq. 6-8)."""

from jaxtyping import Float
from torch import Tensor


def correlation(
    kernels: Float[Tensor, "B Z N"], maps: Float[Tensor, "B Z N *space"]
) -> Float[Tensor, "B Z Z"]:
    """Class-by-class correlation matrix E of each image.

    Args:
        kernels: K^i = Q^i W^i, one row per class.
        maps: the semantic-aware maps A.

    Returns:
        E with E[i, j] = sum_{n,x} A^j_n(x) w^ij(x) / sum_x w^ij(x), where the gate
        w^ij = softmax_j(S^ij) and S^ij(x) = sum_n K^i_n A^j_n(x). Its rows are i.

    The gate does not depend on n, so the sum over n moves inside, and the quotient is an
    expectation under softmax_x(log w): no Z x Z x N x S tensor, and never 0 / 0.
    """
    maps = maps.flatten(3)
    similarity = kernels[:, None] @ maps  # Eq. 6, as [B j i S]: the maps stay where they are
    log_gate = similarity.log_softmax(1)  # Eq. 7, over the classes j
    activation = maps.sum(2)  # a^j(x) = sum_n A^j_n(x)
    found = log_gate.softmax(-1) @ activation[..., None]  # Eq. 8, as [B j i 1]
    return found.squeeze(-1).transpose(1, 2)
