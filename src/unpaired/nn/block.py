"""The transformer block with modality-aware channel scaling (paper, Eq. 13-15)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unpaired.nn.attention import SkipAttention, Window, WindowAttention

Gains = Mapping[str, Tensor]
"""Per branch, named by the module path of its last layer, the diagonal of Phi."""


class DropPath(nn.Module):
    """Drop a whole residual branch per image with probability `rate`, in training only."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "B *rest"]) -> Float[Tensor, "B *rest"]:
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep.to(x.dtype) / (1.0 - self.rate)


class FeedForward(nn.Module):
    """Linear to `ratio` C -> GELU -> Linear back; `project` is the last layer of the branch."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.widen = nn.Linear(channels, ratio * channels)
        self.act = nn.GELU()
        self.project = nn.Linear(ratio * channels, channels)

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        return self.project(self.act(self.widen(x)))


class ScaledBlock(nn.Module):
    """A block with residual branches that gains multiply; its backbone finds it by this class.

    A gain is named by the module path of the last layer of its branch: the layer whose weight
    (first axis) and bias it folds into.
    """

    path: str = ""
    """The block's module path in its backbone, set by `Backbone.name_branches`."""

    def branch_ends(self) -> dict[str, int]:
        """Module path of each branch's last layer -> its width D."""
        raise AssertionError(f"{type(self).__name__} must declare its branches")


class TransformerBlock(ScaledBlock):
    """Norms, attention, feed-forward, gains and drop path; what is added to what, subclasses say.

    Its two gains are `<path>.attention.project` and `<path>.feed_forward.project`. Without gains
    Phi = 1.
    """

    def __init__(self, channels: int, attention: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = attention
        self.norm2 = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels)
        self.drop_path = DropPath(drop_path)

    def _branch(self, y: Tensor, name: str, gains: Gains | None) -> Tensor:
        if gains is not None:
            y = y * gains[f"{self.path}.{name}.project"].to(y.dtype)
        return self.drop_path(y)

    def branch_ends(self) -> dict[str, int]:
        width = self.norm1.normalized_shape[0]
        return {f"{self.path}.{name}.project": width for name in ("attention", "feed_forward")}


class Block(TransformerBlock):
    """X' = X + Phi1 * MSA(Norm X);  X = X' + Phi2 * FFN(Norm X')  (Eq. 14-15), pre-norm."""

    def __init__(self, channels: int, heads: int, window: Window, drop_path: float = 0.0) -> None:
        super().__init__(channels, WindowAttention(channels, heads, window), drop_path)

    def forward(
        self, x: Float[Tensor, "B *space C"], gains: Gains | None = None
    ) -> Float[Tensor, "B *space C"]:
        x = x + self._branch(self.attention(self.norm1(x)), "attention", gains)
        return x + self._branch(self.feed_forward(self.norm2(x)), "feed_forward", gains)


class SkipBlock(TransformerBlock):
    """X' = X + S + Phi1 * SkipAttention(Norm X, Norm S); then the feed-forward of Eq. 15.

    S is the skip of the encoder; one norm serves both (nnFormer, in its published code).
    """

    def __init__(self, channels: int, heads: int, window: Window, drop_path: float = 0.0) -> None:
        super().__init__(channels, SkipAttention(channels, heads, window), drop_path)

    def forward(
        self,
        x: Float[Tensor, "B *space C"],
        skip: Float[Tensor, "B *space C"],
        gains: Gains | None = None,
    ) -> Float[Tensor, "B *space C"]:
        attended = self.attention(self.norm1(x), self.norm1(skip))
        x = x + skip + self._branch(attended, "attention", gains)
        return x + self._branch(self.feed_forward(self.norm2(x)), "feed_forward", gains)
