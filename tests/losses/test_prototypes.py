"""Class means, their contrast with a bank, and the tie of the embeddings, against loops."""

import pytest
import torch
from torch import Tensor

import oracles
from unpaired.losses.prototypes import (
    TEMPERATURE,
    Means,
    class_sums,
    contrast_means,
    contrast_pixels,
    means_of,
    tie,
)

CLASSES = 4
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def draw(seed: int = 0) -> tuple[list[Tensor], Tensor, list[Means]]:
    """Features of two scales, labels with a class that is absent and unknown voxels, a bank that
    knows three classes, one of them absent here."""
    generator = torch.Generator().manual_seed(seed)
    features = [
        torch.randn(2, c, n, n, generator=generator).double().requires_grad_()
        for c, n in ((6, 2), (3, 4))
    ]
    label = torch.randint(0, 3, (2, 8, 8), generator=generator)
    label[0, :3] = -100
    known = torch.tensor([True, False, True, True])
    bank = [
        Means(torch.randn(CLASSES, c, generator=generator).double() * known[:, None], known)
        for c in (6, 3)
    ]
    return features, label, bank


def vectors(features: Tensor, label: Tensor) -> dict[int, list[Tensor]]:
    small = oracles.label_at(label, features.shape[2:])
    found: dict[int, list[Tensor]] = {}
    for b in range(features.shape[0]):
        for y in range(features.shape[2]):
            for x in range(features.shape[3]):
                found.setdefault(int(small[b, y, x]), []).append(features[b, :, y, x])
    found.pop(-100, None)
    return found


def contrast(vector: Tensor, z: int, bank: Means) -> Tensor:
    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()

    known = [k for k in range(CLASSES) if bank.known[k]]
    scores = {k: (cosine(vector, bank.mean[k]) / TEMPERATURE).exp() for k in known}
    return -(scores[z] / sum(scores.values())).log()


def test_sums_and_means_equal_the_loops() -> None:
    features, label, _ = draw()
    for f in features:
        own, found = means_of(class_sums(f, label, CLASSES)), vectors(f, label)
        assert own.known.tolist() == [z in found for z in range(CLASSES)]
        for z, parts in found.items():
            torch.testing.assert_close(own.mean[z], sum(parts) / len(parts))
        assert not own.mean[3].any()


@pytest.mark.parametrize("seed", [0, 1])
def test_contrasts_equal_the_loops(seed: int) -> None:
    features, label, bank = draw(seed)
    means, pixels = [], []
    for f, known in zip(features, bank, strict=True):
        classes = {z: v for z, v in vectors(f, label).items() if known.known[z]}
        one = [contrast(sum(v) / len(v), z, known) for z, v in classes.items()]
        each = [sum(contrast(x, z, known) for x in v) / len(v) for z, v in classes.items()]
        means.append(sum(one) / len(one))
        pixels.append(sum(each) / len(each))
    for ours, loops in (
        (contrast_means(features, label, bank), sum(means) / 2),
        (contrast_pixels(features, label, bank), sum(pixels) / 2),
    ):
        torch.testing.assert_close(ours, loops, **CLOSE)
        for a, b in zip(*(torch.autograd.grad(x, features) for x in (ours, loops)), strict=True):
            torch.testing.assert_close(a, b, **CLOSE)


def test_the_tie_equals_the_loops_and_moves_both_sides() -> None:
    features, label, _ = draw()
    q = torch.randn(CLASSES, 6).double().requires_grad_()
    found = vectors(features[0], label)
    losses = []
    for z, parts in found.items():
        mean = sum(parts) / len(parts)
        losses.append(1 - (q[z] * mean).sum() / (q[z].norm() * mean.norm()))
    ours, loops = tie(q, features[0], label), sum(losses) / len(losses)
    torch.testing.assert_close(ours, loops, **CLOSE)
    given = torch.autograd.grad(ours, [q, features[0]])
    for a, b in zip(given, torch.autograd.grad(loops, [q, features[0]]), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    assert all(g.any() for g in given)


def test_an_empty_bank_or_batch_is_nothing() -> None:
    features, label, bank = draw()
    empty = [Means(torch.zeros_like(b.mean), torch.zeros(CLASSES, dtype=torch.bool)) for b in bank]
    nobody = torch.full_like(label, -100)
    absent = torch.full_like(label, 1)  # a class that the bank does not know
    for loss in (contrast_means, contrast_pixels):
        for given in ((label, empty), (nobody, bank), (absent, bank)):
            value = loss(features, *given)
            assert value == 0
            if value.requires_grad:
                gradients = torch.autograd.grad(value, features, allow_unused=True)
                assert all(g is None or not g.any() for g in gradients)
    q = torch.randn(CLASSES, 6).double().requires_grad_()
    assert tie(q, features[0], nobody) == 0


def test_what_is_already_right_costs_little_and_the_wrong_class_much() -> None:
    bank = [Means(torch.eye(CLASSES), torch.ones(CLASSES, dtype=torch.bool))]
    label = torch.arange(4).reshape(1, 2, 2)
    right = [torch.eye(4)[label.flatten()].T.reshape(1, 4, 2, 2)]
    wrong = [right[0].roll(1, 1)]
    assert contrast_pixels(right, label, bank) < 1e-3 < 5 < contrast_pixels(wrong, label, bank)


def test_in_half_precision_sums_are_exact_enough() -> None:
    features = torch.full((1, 2, 40, 40), 0.1).bfloat16()
    sums = class_sums(features, torch.zeros(1, 40, 40, dtype=torch.long), 1)
    assert sums.dtype == torch.float32
    torch.testing.assert_close(means_of(sums).mean[0], features[0, :, 0, 0].float())


def test_two_processes_share_their_sums() -> None:
    features, label, bank = draw()
    for loss in (contrast_means, contrast_pixels):
        sums: list[Tensor] = []
        for b in (0, 1):
            part = [f[b : b + 1] for f in features]
            loss(part, label[b : b + 1], bank, lambda x: (sums.append(x), x)[1])  # noqa: B023
        queue = [x + y for x, y in zip(sums[:2], sums[2:], strict=True)]
        half = [f[:1] for f in features]
        shared = loss(half, label[:1], bank, lambda x: queue.pop(0))  # noqa: B023
        torch.testing.assert_close(shared, loss(features, label, bank))
