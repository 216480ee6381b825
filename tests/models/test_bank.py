"""The bank of class prototypes: a moving mean as in a plain loop, and a part of the network."""

import torch

from unpaired.losses.prototypes import class_sums, means_of
from unpaired.models import PrototypeBank
from unpaired.models.bank import MOMENTUM


def test_it_is_the_moving_mean_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    bank = PrototypeBank(("a", "b"), 3, (4, 2)).double()
    expected: dict[tuple[str, int, int], torch.Tensor] = {}
    for step in range(4):
        features = {m: [torch.randn(2, c, 4, 4).double() for c in (4, 2)] for m in "ab"}
        labels = {m: torch.randint(0, 2 + step // 2, (2, 4, 4)) for m in "ab"}
        labels["b"][:] = 1 if step else -100  # nobody annotated, then a single class
        bank.update(features, labels)
        for m in "ab":
            for k, f in enumerate(features[m]):
                for z in range(3):
                    inside = labels[m] == z
                    if inside.any():
                        mean = f.movedim(1, -1)[inside].mean(0)
                        old = expected.get((m, k, z))
                        new = mean if old is None else MOMENTUM * old + (1 - MOMENTUM) * mean
                        expected[m, k, z] = new
    for m in "ab":
        for k, scale in enumerate(bank.means(m)):
            assert scale.known.tolist() == [(m, k, z) in expected for z in range(3)]
            for z in range(3):
                if scale.known[z]:
                    torch.testing.assert_close(scale.mean[z], expected[m, k, z])
    assert bank.means("a")[0].known.all() and bank.means("b")[0].known.tolist() == [
        False,
        True,
        False,
    ]


def test_it_is_saved_and_no_gradient_reaches_it() -> None:
    bank = PrototypeBank(("a",), 2, (3,))
    features = torch.randn(1, 3, 2, 2, requires_grad=True)
    label = torch.zeros(1, 2, 2, dtype=torch.long)
    bank.update({"a": [features]}, {"a": label})
    assert not list(bank.parameters()) and not bank.means("a")[0].mean.requires_grad
    other = PrototypeBank(("a",), 2, (3,))
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.means("a")[0].mean, means_of(class_sums(features, label, 2)).mean)
    assert set(bank.state_dict()) == {"of.a.0.mean", "of.a.0.known"}
