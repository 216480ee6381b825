"""UMMKD's objective against plain loops in float64, values and gradients."""

import pytest
import torch
from torch import Tensor

from oracles import softmax
from unpaired.losses import weigh
from unpaired.methods.ummkd import (
    class_sums,
    distillation,
    frequency_cross_entropy,
    plain_dice_loss,
    ummkd_terms,
)
from unpaired.models import Output

CLASSES = 4


def a_batch(
    images: int, seed: int, classes: tuple[int, ...], space: tuple[int, ...] = (4, 5)
) -> tuple[Tensor, Tensor]:
    """Logits [B Z *space] that keep their gradient, and labels that hold these classes only."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, CLASSES, *space, generator=generator, dtype=torch.float64)
    drawn = torch.randint(len(classes), (images, *space), generator=generator)
    return logits.requires_grad_(), torch.tensor(classes)[drawn]


def positions(logits: Tensor, label: Tensor) -> list[tuple[list[Tensor], int]]:
    """Every position of the batch: its Z logits and its class."""
    flat = logits.movedim(1, -1).reshape(-1, logits.shape[1])
    return [(list(row), int(z)) for row, z in zip(flat, label.flatten(), strict=True)]


def softened(logits: Tensor, label: Tensor, wanted: int, temperature: float) -> list[Tensor]:
    """softmax of the mean logits of a class over the whole batch, divided by the temperature."""
    rows = [row for row, z in positions(logits, label) if z == wanted]
    mean = [sum(row[j] for row in rows) / len(rows) for j in range(logits.shape[1])]
    return softmax([value / temperature for value in mean])


def kl(p: list[Tensor], q: list[Tensor]) -> Tensor:
    return sum(a * torch.log(a / b) for a, b in zip(p, q, strict=True))


def pair_by_loops(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], temperature: float) -> Tensor:
    found = []
    for z in range(CLASSES):
        if bool((a[1] == z).any()) and bool((b[1] == z).any()):
            p, q = softened(*a, z, temperature), softened(*b, z, temperature)
            found.append((kl(p, q) + kl(q, p)) / 2)
    return sum(found) / len(found) if found else torch.zeros((), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize(
    ("of_a", "of_b"),
    [((0, 1, 2, 3), (0, 1, 2, 3)), ((0, 1, 2), (0, 2, 3)), ((0, 1), (1,)), ((0, 1), (2, 3))],
)
def test_distillation_is_the_loop(
    temperature: float, of_a: tuple[int, ...], of_b: tuple[int, ...]
) -> None:
    """Unequal numbers of images, pictures and volumes, classes that one or both lack."""
    a, b = a_batch(2, 1, of_a), a_batch(3, 2, of_b, (3, 2, 4))
    found = distillation({"a": a[0], "b": b[0]}, {"a": a[1], "b": b[1]}, temperature)
    expected = pair_by_loops(a, b, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    if not set(of_a) & set(of_b):
        assert float(found.detach()) == 0
        return
    assert float(found.detach()) > 1e-3
    ours = torch.autograd.grad(found, (a[0], b[0]))
    theirs = torch.autograd.grad(expected, (a[0], b[0]))
    for one, two in zip(ours, theirs, strict=True):
        assert one.abs().max() > 1e-6
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-14)


def test_it_is_symmetric_and_three_modalities_are_the_mean_of_their_pairs() -> None:
    parts = {m: a_batch(2, s, (0, 1, 2)) for s, m in enumerate("abc")}

    def of(names: str) -> Tensor:
        return distillation({m: parts[m][0] for m in names}, {m: parts[m][1] for m in names})

    torch.testing.assert_close(of("ab"), of("ba"), rtol=1e-13, atol=0)
    assert float(of("a").detach()) == 0
    mean = (of("ab") + of("ac") + of("bc")) / 3
    torch.testing.assert_close(of("abc"), mean, rtol=1e-12, atol=0)


def test_images_are_not_paired() -> None:
    """The mean is over the whole batch: the order of a modality's images says nothing."""
    a, b = a_batch(3, 1, (0, 1, 2)), a_batch(3, 2, (0, 1, 2))
    turned = (a[0].roll(1, 0), a[1].roll(1, 0))
    one = distillation({"a": a[0], "b": b[0]}, {"a": a[1], "b": b[1]})
    two = distillation({"a": turned[0], "b": b[0]}, {"a": turned[1], "b": b[1]})
    torch.testing.assert_close(one, two, rtol=1e-12, atol=0)


def test_sums_of_two_processes_are_those_of_the_whole_batch() -> None:
    whole = {m: a_batch(4, s, (0, 1, 3)) for s, m in enumerate("ab")}
    rest = torch.stack([class_sums(x[2:], y[2:]) for x, y in whole.values()])

    def add(sums: Tensor) -> Tensor:
        return sums + rest

    found = distillation(
        {m: x[:2] for m, (x, _) in whole.items()}, {m: y[:2] for m, (_, y) in whole.items()},
        sync=add,
    )  # fmt: skip
    expected = pair_by_loops(whole["a"], whole["b"], 2.0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_cross_entropy_is_the_loop() -> None:
    logits, label = a_batch(3, 5, (0, 0, 0, 1, 2))
    rows, total = positions(logits, label), []
    share = [sum(z == c for _, z in rows) / len(rows) for c in range(CLASSES)]
    for row, z in rows:
        p = softmax(row)[z]
        total.append(-(1 - share[z]) * torch.log(torch.clamp(p, min=0.005)))
    assert any(float(softmax(row)[z].detach()) < 0.005 for row, z in rows)
    expected = sum(total) / len(total)
    found = frequency_cross_entropy(logits, label)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(x, logits)[0] for x in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-14)


def test_dice_is_the_loop_and_an_absent_class_pulls_at_nothing() -> None:
    logits, label = a_batch(2, 6, (0, 1, 2))
    rows, scores = positions(logits, label), []
    for c in range(CLASSES):
        p = [softmax(row)[c] for row, _ in rows]
        hit = sum(x for x, (_, z) in zip(p, rows, strict=True) if z == c)
        below = sum(x * x for x in p) + sum(z == c for _, z in rows) + 1e-7
        scores.append(2 * hit / below)
    expected = 1 - sum(scores) / CLASSES
    found = plain_dice_loss(logits, label)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(x, logits)[0] for x in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-14)
    assert float(scores[3].detach()) == 0


def test_the_objective_names_its_terms_and_weights_them() -> None:
    parts = {m: a_batch(2, s, (0, 1, 2)) for s, m in enumerate("ab")}
    outputs = {m: Output(x) for m, (x, _) in parts.items()}
    labels = {m: y for m, (_, y) in parts.items()}
    terms = weigh(ummkd_terms(ce=2.0, dice=3.0, weight=0.7, temperature=4.0), outputs, labels)
    assert list(terms.terms) == ["seg/a", "seg/b", "kd"]
    expected = 0.7 * pair_by_loops(parts["a"], parts["b"], 4.0)
    torch.testing.assert_close(terms.weighted["kd"], expected, rtol=1e-12, atol=0)
    for x, y in parts.values():
        expected = expected + 2 * frequency_cross_entropy(x, y) + 3 * plain_dice_loss(x, y)
    torch.testing.assert_close(terms.total, expected, rtol=1e-12, atol=0)
    assert list(weigh(ummkd_terms(weight=0.0), outputs, labels).terms) == ["seg/a", "seg/b"]
    alone = weigh(ummkd_terms(), {"a": outputs["a"]}, {"a": labels["a"]})
    assert list(alone.terms) == ["seg/a"]


def test_half_precision_is_summed_in_single() -> None:
    logits, label = a_batch(2, 7, (0, 1, 2))
    rough = {m: Output(logits.detach().bfloat16()) for m in "ab"}
    terms = weigh(ummkd_terms(), rough, dict.fromkeys("ab", label))
    assert terms.total.dtype == torch.float32
    exact = weigh(
        ummkd_terms(),
        {m: Output(x.logits.double()) for m, x in rough.items()},
        dict.fromkeys("ab", label),
    )
    torch.testing.assert_close(terms.total.double(), exact.total, rtol=1e-5, atol=0)
