"""External Attention Modules: ours beside the equations as written (performance goal 6).

Time of forward and backward alone, bytes kept for the backward pass, and the share of a training
step of Swin-Unet at 224. Goals: at most 40 % of the time, two thirds of the memory, 3 % of a step.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from _report import interleave, record
from peers import eam_plain
from unpaired.backbones import SwinUnet
from unpaired.losses import Objective
from unpaired.models import Joint, Scaling, Segmenter, Semantics

CLASSES, BATCH, WIDTHS = 5, 8, (384, 192, 96)
Pairs = list[tuple[Tensor, Tensor]]


def ours(semantics: Semantics, features: Sequence[Tensor]) -> Pairs:
    return [(i.logits.flatten(2), i.correlation) for i in semantics(features)]


def backward(pairs: Pairs, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of all leaves for a gradient of ones, so that no loss is timed."""
    outputs = [x for pair in pairs for x in pair]
    return torch.autograd.grad(outputs, leaves, [torch.ones_like(x) for x in outputs])


def decoder_maps() -> list[Tensor]:
    """Feature maps as the decoder yields them: channels last in memory."""
    shapes = zip(WIDTHS, (14, 28, 56), strict=True)
    return [torch.randn(BATCH, s, s, c).movedim(-1, 1).requires_grad_() for c, s in shapes]


def saved_bytes(run: Callable[[], Pairs], held: Sequence[Tensor]) -> int:
    """Bytes of distinct storages kept for the backward pass, beside parameters and inputs."""
    own = {t.untyped_storage().data_ptr() for t in held}
    found: dict[int, int] = {}
    kept: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        kept.append(t)
        if t.untyped_storage().data_ptr() not in own:
            found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        backward(run(), held)
    return sum(found.values())


def check(semantics: Semantics, features: Sequence[Tensor]) -> None:
    """Values and gradients agree in float64."""
    semantics.double()
    inputs = [f.detach().double().requires_grad_() for f in features]
    leaves = [*inputs, *semantics.parameters()]
    results = []
    for form in (ours, eam_plain.chain):
        pairs = form(semantics, inputs)
        loss = sum(a.square().sum() + e.square().sum() for a, e in pairs)
        results.append([*(x for p in pairs for x in p), *torch.autograd.grad(loss, leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    semantics.float()


def training_step() -> Callable[[], None]:
    """Forward, loss and backward of the whole network for two modalities."""
    backbone = SwinUnet((224, 224), classes=CLASSES, window=7)
    segmenter = Segmenter(backbone, {"a": 3, "b": 3})
    scaling = Scaling(CLASSES, WIDTHS[0], segmenter.branches)
    semantics = {m: Semantics(CLASSES, WIDTHS) for m in segmenter.modalities}
    joint, objective = Joint(segmenter, semantics, scaling), Objective()
    images = {m: torch.randn(BATCH, 3, 224, 224) for m in semantics}
    labels = {m: torch.randint(0, CLASSES, (BATCH, 224, 224)) for m in semantics}

    def step() -> None:
        joint.zero_grad()
        objective(joint(images), labels).total.backward()

    return step


def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    semantics = Semantics(CLASSES, WIDTHS)
    features = decoder_maps()
    check(semantics, features)
    forms = {"as written": eam_plain.chain, "ours": ours}
    held = [*semantics.parameters(), *features]
    memory = {n: saved_bytes(lambda f=f: f(semantics, features), held) for n, f in forms.items()}
    alone = {n: lambda f=f: backward(f(semantics, features), held) for n, f in forms.items()}
    seconds = interleave({**alone, "step": training_step()})
    rows = [
        {
            "form": name,
            "ms": 1e3 * seconds[name],
            "of as written": seconds[name] / seconds["as written"],
            "kept MiB": memory[name] / 2**20,
            "of as written, kept": memory[name] / memory["as written"],
            "% of a step": 200 * seconds[name] / seconds["step"],
        }
        for name in forms
    ]
    for row in rows:
        print(row)
    record("eam", rows, ("torch",))


if __name__ == "__main__":
    main()
