"""Cross-entropy, Dice and Eq. 9 against loops over positions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracles
from unpaired.losses import SegmentationLoss, auxiliary_loss, dice_loss
from unpaired.losses.segmentation import cross_entropy, label_at

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
AT_SCALES = [((8,), [(2,), (4,)]), ((4, 6), [(2, 3), (1, 2)]), ((2, 2, 4), [(1, 1, 2)])]
SPACES = st.sampled_from([(5,), (2, 3), (2, 1, 2)])


def draw(images: int, classes: int, space: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, *space, generator=generator).double()
    label = torch.randint(0, classes, (images, *space), generator=generator)
    return logits.requires_grad_(), label


def same(ours: Tensor, loops: Tensor, logits: Tensor) -> None:
    torch.testing.assert_close(ours, loops, **CLOSE)
    a, b = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, loops))
    torch.testing.assert_close(a, b, **CLOSE)


@settings(max_examples=10, deadline=None)
@given(
    images=st.integers(1, 2),
    classes=st.integers(2, 4),
    space=SPACES,
    background=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_dice_and_cross_entropy_equal_the_loops(
    images: int, classes: int, space: tuple[int, ...], background: bool, seed: int
) -> None:
    logits, label = draw(images, classes, space, seed)
    same(dice_loss(logits, label, background), oracles.dice(logits, label, background), logits)
    same(cross_entropy(logits, label), oracles.cross_entropy(logits, label), logits)
    weights = [0.5 + z for z in range(classes)]
    weighted = cross_entropy(logits, label, torch.tensor(weights).double())
    same(weighted, oracles.cross_entropy(logits, label, weights), logits)
    both = SegmentationLoss(0.4, 0.6, background=background)(logits, label)
    expected = oracles.dice(logits, label, background)
    same(both, 0.4 * oracles.cross_entropy(logits, label) + 0.6 * expected, logits)


def test_dice_sums_over_the_batch_not_per_image() -> None:
    logits, label = draw(2, 3, (4, 4), 0)
    per_image = [dice_loss(logits[i : i + 1], label[i : i + 1]) for i in range(2)]
    assert (dice_loss(logits, label) - sum(per_image) / 2).detach().abs() > 1e-4


def test_a_class_that_is_absent_and_never_predicted_costs_nothing() -> None:
    logits = torch.full((1, 3, 4), -60.0).double()
    logits[:, 0] = 60.0
    assert float(dice_loss(logits, torch.zeros(1, 4, dtype=torch.long))) < 1e-9


def test_half_precision_logits_are_judged_in_float32() -> None:
    logits, label = draw(2, 3, (16, 16), 1)
    low = logits.detach().bfloat16()
    loss = SegmentationLoss()(low, label)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss.double(), SegmentationLoss()(low.double(), label), rtol=1e-5, atol=0
    )


@settings(max_examples=8, deadline=None)
@given(
    case=st.sampled_from(
        [((8,), [(2,), (4,)]), ((4, 6), [(2, 3), (1, 2)]), ((2, 2, 4), [(1, 1, 2)])]
    ),
    classes=st.integers(2, 3),
    seed=st.integers(0, 10**6),
)
def test_auxiliary_loss_equals_the_loops(
    case: tuple[tuple[int, ...], list[tuple[int, ...]]], classes: int, seed: int
) -> None:
    space, sizes = case
    _, label = draw(2, classes, space, seed)
    scales = [draw(2, classes, size, seed + 1 + k)[0] for k, size in enumerate(sizes)]
    ours, loops = auxiliary_loss(scales, label), oracles.auxiliary(scales, label)
    for logits in scales:
        same(ours, loops, logits)
    for size in sizes:
        assert torch.equal(label_at(label, size), oracles.label_at(label, size))


def test_label_at_takes_the_centre_of_each_cell() -> None:
    label = torch.arange(8)[None]
    assert label_at(label, (2,)).tolist() == [[2, 6]]
    assert label_at(label, (8,)).tolist() == label.tolist()


def test_auxiliary_logits_may_be_brought_up_to_the_label_instead() -> None:
    """On a constant map interpolation changes nothing, so the loss is that of the full size."""
    _, label = draw(1, 3, (8, 8), 3)
    coarse = torch.randn(1, 3, 1, 1).double().expand(-1, -1, 2, 2)
    full = coarse[..., :1, :1].expand(-1, -1, 8, 8)
    up = auxiliary_loss([coarse], label, "logits")
    torch.testing.assert_close(up, SegmentationLoss()(full, label))
    scale = torch.randn(1, 3, 4, 4).double()
    half = auxiliary_loss([scale, scale], label, "logits")
    torch.testing.assert_close(half, 2 * auxiliary_loss([scale], label, "logits"))


@pytest.mark.parametrize("background", [True, False])
def test_losses_do_not_depend_on_the_order_of_the_classes(background: bool) -> None:
    """Class 0 stays first where the background is left out."""
    logits, label = draw(2, 4, (5, 5), 4)
    order = torch.tensor([0, 3, 1, 2]) if not background else torch.tensor([2, 3, 1, 0])
    new_name = torch.argsort(order)
    before = SegmentationLoss(background=background)(logits, label)
    after = SegmentationLoss(background=background)(logits[:, order], new_name[label])
    torch.testing.assert_close(before, after)


def test_two_processes_that_share_sums_equal_one() -> None:
    """`sync` sums over processes: with it each half of a batch yields the whole batch's loss."""
    logits, label = draw(4, 3, (6,), 5)
    sums: list[Tensor] = []
    for part in (slice(0, 2), slice(2, 4)):
        SegmentationLoss(sync=lambda x: (sums.append(x), x)[1])(logits[part], label[part])
    queue = [a + b for a, b in zip(sums[: len(sums) // 2], sums[len(sums) // 2 :], strict=True)]
    shared = SegmentationLoss(sync=lambda x: queue.pop(0).reshape(x.shape))(logits[:2], label[:2])
    torch.testing.assert_close(shared, SegmentationLoss()(logits, label))
