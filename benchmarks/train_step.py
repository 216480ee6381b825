"""One training step of Swin-Unet on the CPU, ours beside the plain form (performance goal 7).

Same weights, images, loss and optimiser, 2 threads. Goals: ours with bf16 autocast twice as fast
as the plain form in float32 (on a processor with bf16 instructions), and never slower in float32.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from _report import interleave, record
from peers.swin_unet_plain import PlainSwinUnet
from unpaired.backbones import SwinUnet
from unpaired.backbones.transfer.layouts import swin_unet_from_original
from unpaired.losses import SegmentationLoss

SIZES = {
    "224, C 96, batch 2": (224, 96, (3, 6, 12, 24), 7, 2),
    "128, C 32, batch 4": (128, 32, (2, 4, 8, 16), 8, 4),
}
CLASSES = 9


def logits_of(network: nn.Module, image: Tensor) -> Tensor:
    out = network(image)
    return out if isinstance(out, Tensor) else out.logits


def step(
    network: nn.Module, image: Tensor, label: Tensor, autocast: bool, move: bool = True
) -> Callable[[], Tensor]:
    """Forward, loss, backward and, with `move`, an update."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def run() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = logits_of(network, image)
        loss = SegmentationLoss()(logits, label)
        loss.backward()
        if move:
            optimizer.step()
        return logits.detach().float()

    return run


def check(plain: PlainSwinUnet, own: SwinUnet, image: Tensor, label: Tensor) -> None:
    """Logits agree, and the gradient of every parameter."""
    a, b = (step(n, image, label, False, move=False)() for n in (plain, own))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    gradients = swin_unet_from_original({n: p.grad for n, p in plain.named_parameters()})
    for name, parameter in own.named_parameters():
        error = (parameter.grad - gradients[name]).norm() / (gradients[name].norm() + 1e-8)
        assert error < 1e-3, (name, float(error))
    low = step(own, image, label, True, move=False)()
    assert (low - a).norm() / a.norm() < 0.05


def networks(size: int, dim: int, heads: tuple[int, ...], window: int) -> tuple[nn.Module, ...]:
    own = SwinUnet(
        (size, size), 3, CLASSES, embed_dim=dim, heads=heads, window=window, drop_path=0.0
    )
    plain = PlainSwinUnet(size, CLASSES, dim, heads=heads, window=window)
    own.load_state_dict(swin_unet_from_original(plain.state_dict()))
    return plain, own


def measure(name: str) -> list[dict[str, object]]:
    size, dim, heads, window, batch = SIZES[name]
    plain, own = networks(size, dim, heads, window)
    image = torch.randn(batch, 3, size, size)
    label = torch.randint(0, CLASSES, (batch, size, size))
    check(plain, own, image, label)
    jobs = {
        (form, kind): step(network, image, label, kind == "bf16")
        for kind in ("fp32", "bf16")
        for form, network in (("plain", plain), ("ours", own))
    }
    seconds = interleave({" ".join(key): job for key, job in jobs.items()})
    return [
        {
            "network": name,
            "form": form,
            "ms": 1e3 * seconds[form],
            "times plain fp32": seconds["plain fp32"] / seconds[form],
        }
        for form in seconds
    ]


def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    rows = [row for name in SIZES for row in measure(name)]
    for row in rows:
        print(row)
    record("train_step", rows, ("torch",))


if __name__ == "__main__":
    main()
