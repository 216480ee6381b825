"""A small encoder-decoder that knows nothing of ours, and its declaration."""

from typing import Any

import torch
from torch import Tensor, nn

from unpaired.backbones import Foreign, Level

CLASSES, SIZE = 3, (16, 12)
SCALES = {"decode.low": Level(8, (2, 2)), "decode.high": Level(4, (1, 1))}
INPUT_LAYERS = ("encode.first", "encode.short")
BRANCHES = ("encode.block.norm2", "decode.mix.out")


class Residual(nn.Module):
    """x + norm2(conv2(relu(norm1(conv1(x))))), then a rectifier."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm1, self.norm2 = (nn.InstanceNorm2d(channels, affine=True) for _ in range(2))

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        if gain is not None:
            y = y * gain[:, None, None]
        return torch.relu(x + y)


class Mix(nn.Module):
    """A residual linear branch on channels-last maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen, self.out = nn.Linear(channels, 16), nn.Linear(16, channels)

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        y = self.out(torch.tanh(self.widen(x.movedim(1, -1))))
        return x + (y if gain is None else y * gain).movedim(-1, 1)


class Encode(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.short = nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(channels, 4, 1)
        self.down, self.block = nn.Conv2d(4, 8, 2, 2), Residual(8)

    def forward(self, image: Tensor, gain: Tensor | None = None) -> tuple[Tensor, Tensor]:
        fine = torch.relu(self.first(image)) + self.short(image)
        return fine, self.block(self.down(fine), gain)


class Decode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low, self.mix = nn.Conv2d(8, 8, 3, padding=1), Mix(8)
        self.last, self.tokens = nn.Identity(), nn.Identity()
        self.up, self.high = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 4, 3, padding=1)
        self.head, self.coarse = nn.Conv2d(4, CLASSES, 1), nn.Conv2d(8, CLASSES, 1)

    def forward(
        self, fine: Tensor, x: Tensor, gain: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        low = self.low(x)
        self.last(low.movedim(1, -1))
        self.tokens(low.flatten(2).transpose(1, 2))
        high = self.high(torch.cat([self.up(self.mix(low, gain)), fine], 1))
        return self.head(torch.relu(high)), self.coarse(low), low, high


class Toy(nn.Module):
    """`shape` says how it hands its logits out: plain, list, reversed, stacked or dict."""

    def __init__(self, channels: int = 1, shape: str = "plain") -> None:
        super().__init__()
        self.shape = shape
        self.encode, self.decode = Encode(channels), Decode()

    def by_hand(self, image: Tensor, gains: dict[str, Tensor] | None = None) -> tuple[Tensor, ...]:
        """Logits, coarse logits, low and high maps; gains as plain products."""
        first, second = (None, None) if gains is None else (gains[path] for path in BRANCHES)
        return self.decode(*self.encode(image, first), second)

    def forward(self, image: Tensor) -> Any:
        logits, coarse, *_ = self.decode(*self.encode(image))
        whole = nn.functional.interpolate(coarse, logits.shape[2:])
        return {
            "plain": logits,
            "list": [logits, coarse],
            "reversed": (coarse, whole, logits),
            "stacked": torch.stack([logits, whole], 1),
            "dict": {"out": logits, "aux": coarse, "loss": logits.mean()},
        }[self.shape]


def toy(channels: int = 1, shape: str = "plain", seed: int = 0) -> Toy:
    torch.manual_seed(seed)
    network = Toy(channels, shape).double()
    with torch.no_grad():
        for p in network.parameters():  # no norm's weight is left at one
            p.add_(0.1 * torch.randn_like(p))
    return network


def foreign(network: nn.Module, **changes: Any) -> Foreign:
    """The toy declared, with changes."""
    declared: dict[str, Any] = {
        "scales": SCALES,
        "classes": CLASSES,
        "input_layers": INPUT_LAYERS,
        "multiple": 2,
        "encoder": "encode",
        "branches": BRANCHES,
    }
    return Foreign(network, **{**declared, **changes})


def hooks(network: nn.Module) -> int:
    """How many hooks hang in the network."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())
