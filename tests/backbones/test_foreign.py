"""A foreign network through hooks, against the same network computed by hand."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foreign_toy import BRANCHES, INPUT_LAYERS, SCALES, SIZE, Toy, foreign, hooks, toy
from unpaired.backbones import Level, Scale
from unpaired.errors import UsageError
from unpaired.models import Segmenter, fold


def an_image(channels: int = 1, images: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(images, channels, *SIZE, generator=generator).double()


def some_gains(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"network.{path}": 1 + 0.5 * torch.randn(8, generator=generator).double()
        for path in BRANCHES
    }


def test_logits_and_features_are_the_networks_own_bit_for_bit() -> None:
    network = toy()
    logits, _, low, high = network.by_hand(an_image())
    found = foreign(network)(an_image())
    assert torch.equal(found.logits, logits)
    assert torch.equal(found.logits, network(an_image()))
    assert [torch.equal(a, b) for a, b in zip(found.features, (low, high), strict=True)] == [
        True
    ] * 2
    assert found.features[0].requires_grad


@pytest.mark.parametrize("layout", ["last", "tokens"])
def test_other_orders_of_axes_come_out_channels_first(layout: Any) -> None:
    network = toy()
    scale = {f"decode.{layout}": Scale(8, (2, 2), layout)}
    found = foreign(network, scales=scale)(an_image()).features[0]
    assert torch.equal(found, network.by_hand(an_image())[2])


def test_gains_multiply_the_branches() -> None:
    network, gains = toy(), some_gains()
    found = foreign(network)(an_image(), gains).logits
    plain = {path.removeprefix("network."): gain for path, gain in gains.items()}
    torch.testing.assert_close(found, network.by_hand(an_image(), plain)[0], rtol=0, atol=1e-14)
    assert (found - network(an_image())).abs().max() > 1e-2


def test_gains_fold_into_the_ends_of_branches() -> None:
    """And the stem into both layers that read the image, exact at the border too."""
    segmenter = Segmenter(foreign(toy(channels=2)), {"a": 2, "b": 1}).double()
    with torch.no_grad():
        for p in segmenter.stems.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    segmenter.store_gains({"a": some_gains(1), "b": some_gains(2)})
    for m, k in (("a", 2), ("b", 1)):
        live = segmenter(an_image(k), m).logits
        torch.testing.assert_close(fold(segmenter, m)(an_image(k)).logits, live, rtol=0, atol=1e-13)


def test_gains_of_one_pass_never_reach_the_next() -> None:
    backbone, image = foreign(toy()), an_image()
    plain, a, b = backbone(image), some_gains(1), some_gains(2)
    alone = [backbone(image, g).logits for g in (a, b)]
    both = [backbone(image, g).logits for g in (a, b, a)]
    assert torch.equal(both[0], alone[0])
    assert torch.equal(both[1], alone[1])
    assert torch.equal(both[2], alone[0])
    assert torch.equal(backbone(image).logits, plain.logits)
    assert not torch.equal(alone[0], alone[1])


def test_gradients_reach_the_gains() -> None:
    gains = {path: gain.requires_grad_() for path, gain in some_gains().items()}
    foreign(toy())(an_image(), gains).logits.square().sum().backward()
    assert all(g.grad is not None and g.grad.abs().max() > 0 for g in gains.values())


def test_no_hook_stays_behind() -> None:
    network = toy()
    backbone = foreign(network)
    for _ in range(5):
        backbone(an_image(), some_gains())
        assert hooks(network) == 0
    network.decode.head.weight = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(RuntimeError):
        backbone(an_image(), some_gains())
    assert hooks(network) == 0


def test_hooks_of_others_stay() -> None:
    network = toy()
    network.decode.low.register_forward_hook(lambda _, __, output: 2 * output)
    found = foreign(network)(an_image())
    assert hooks(network) == 1
    assert torch.equal(found.features[0], network.by_hand(an_image())[2])


class Twice(Toy):
    """Runs itself, through its backbone, in the middle of its own forward pass."""

    inner: Any = None

    def forward(self, image: Tensor) -> Any:
        backbone, self.inner = self.inner, None
        if backbone is None:
            return super().forward(image)
        fine, x = self.encode(image)
        self.other = backbone[0](-image).logits
        return self.decode(fine, x)[0]


def test_a_network_that_runs_inside_itself_is_read_and_multiplied_once() -> None:
    plain = toy()
    network = Twice().double()
    network.load_state_dict(plain.state_dict())
    backbone, gains = foreign(network), some_gains()
    network.inner = (backbone,)
    found = backbone(an_image(), gains)
    want = foreign(plain)
    assert torch.equal(found.logits, want(an_image(), gains).logits)
    assert torch.equal(found.features[0], want(an_image(), gains).features[0])
    assert torch.equal(network.other, want(-an_image()).logits)


@pytest.mark.parametrize(
    ("shape", "where", "deep"),
    [
        ("list", 0, 1),
        ("reversed", -1, 2),
        ("reversed", 2, 2),
        ("stacked", 0, 1),
        ("dict", "out", 1),
    ],
)
def test_logits_among_several_outputs(shape: str, where: int | str, deep: int) -> None:
    network = toy(shape=shape)
    backbone = foreign(network, logits=where)
    found, (logits, coarse, *_) = backbone(an_image()), network.by_hand(an_image())
    assert torch.equal(found.logits, logits)
    assert len(found.deep) == deep
    if shape != "stacked":
        assert torch.equal(found.deep[-1], coarse)  # fine to coarse
    assert backbone.eval()(an_image()).deep == ()


def test_private_encoders_are_the_encoders() -> None:
    """As a network whose encoder was replaced for good."""
    network = toy()
    whole, image = deepcopy(network), an_image()
    segmenter = Segmenter(foreign(network), {"a": 1, "b": 1}, private_encoders=True).double()
    start = segmenter(image, "a").logits
    assert torch.equal(start, whole(image))
    assert not any("encode." in name for name, _ in network.named_parameters())
    with torch.no_grad():
        for p in segmenter.encoders["b"].parameters():
            p.mul_(1.5)
    assert torch.equal(segmenter(image, "a").logits, start)
    other = deepcopy(whole)
    other.encode.load_state_dict(segmenter.encoders["b"][0].state_dict())
    assert torch.equal(segmenter(image, "b").logits, other(image))
    assert torch.equal(fold(segmenter, "b").eval().network(image), other(image))
    segmenter(image, "b").logits.sum().backward()
    assert all(p.grad is None for p in segmenter.encoders["a"].parameters())
    assert all(p.grad is not None for p in segmenter.encoders["b"].parameters())


class Alias(Toy):
    """Holds its encoder under a second name, and a part of it under a third; runs the second."""

    def __init__(self) -> None:
        super().__init__()
        self.path = nn.ModuleDict({"down": self.encode})
        self.fourth = self.encode.first

    def forward(self, image: Tensor) -> Any:
        assert self.fourth is self.path["down"].first
        return self.decode(*self.path["down"](image))[0]


def test_an_encoder_under_several_names_is_replaced_under_all() -> None:
    network = Alias().double()
    segmenter = Segmenter(foreign(network), {"a": 1, "b": 1}, private_encoders=True).double()
    before = segmenter(an_image(), "b").logits
    with torch.no_grad():
        segmenter.encoders["b"][0].first.weight.mul_(2)
    assert not torch.equal(segmenter(an_image(), "b").logits, before)
    assert torch.equal(segmenter(an_image(), "a").logits, before)


def test_a_failing_pass_puts_the_encoder_places_back() -> None:
    network = toy()
    segmenter = Segmenter(foreign(network), {"a": 1}, private_encoders=True).double()
    empty = network.encode
    with pytest.raises(RuntimeError):
        segmenter.backbone(an_image(channels=2), None, segmenter.encoders["a"])
    assert network.encode is empty
    assert hooks(segmenter) == 0


def test_tensors_under_two_names_are_stored_once() -> None:
    torch.manual_seed(0)
    backbone, other = foreign(Alias().double()), foreign(Alias().double())
    state = backbone.state_dict()
    assert len({t.data_ptr() for t in state.values()}) == len(state)
    assert "network.encode.first.weight" in state
    assert not torch.equal(other(an_image()).logits, backbone(an_image()).logits)
    assert other.load_state_dict(state) == ([], [])
    assert torch.equal(other(an_image()).logits, backbone(an_image()).logits)
    nested, copied = nn.ModuleDict({"x": backbone}), nn.ModuleDict({"x": foreign(Alias().double())})
    copied.load_state_dict(nested.state_dict())
    assert torch.equal(copied["x"](an_image()).logits, backbone(an_image()).logits)


class Keeps(Toy):
    """Keeps its maps of the last pass, with their history, as DynUNet does."""

    def forward(self, image: Tensor) -> Any:
        logits, coarse, low, high = self.by_hand(image)
        self.maps, self.one = [coarse, low], high
        return logits


def test_a_copy_is_a_network_of_its_own() -> None:
    backbone = foreign(Keeps().double())
    found = backbone(an_image())
    copied = deepcopy(backbone)
    assert torch.equal(
        copied(an_image(), some_gains()).logits, backbone(an_image(), some_gains()).logits
    )
    with torch.no_grad():
        for p in copied.parameters():
            p.zero_()
    assert torch.equal(backbone(an_image()).logits, found.logits)
    assert type(copied) is type(backbone)
    found.logits.sum().backward()  # the original keeps its history


class Odd(Toy):
    """Does what a declaration must find out."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.unused = what, nn.Conv2d(8, 8, 1)

    def forward(self, image: Tensor) -> Any:
        fine, x = self.encode(image)
        if self.what == "inplace":
            x.clamp_(max=1)
        if self.what == "again":
            x = self.decode.low(x)
        logits, coarse, *_ = self.decode(fine, x)
        return coarse if self.what == "smaller" else logits


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"scales": {"decode.lov": Level(8, (2, 2))}},
            r"no module 'decode\.lov'\. Did you mean 'd",
        ),
        ({"scales": {}}, "must name at least one module"),
        ({"scales": dict(reversed(SCALES.items()))}, "from coarse to fine"),
        ({"scales": {"decode.low": Level(8, (2, 2, 2))}}, "must be a Conv3d"),
        ({"input_layers": ()}, "must name every convolution that reads the image"),
        ({"input_layers": ("decode.mix.out",)}, "is a Linear; a layer that reads the image"),
        ({"input_layers": (*INPUT_LAYERS, "decode.low")}, r"all of one number of.*read \[1, 8\]"),
        ({"branches": ("decode.up",)}, "ConvTranspose2d without weights that a gain folds into"),
        ({"branches": ("decode.last",)}, "Identity without weights"),
        ({"branches": ("decode.low", "decode.low")}, "another path in branches names too"),
        ({"branches": ("encode.blok.norm2",)}, r"Did you mean 'encode\.block\.norm2'"),
        ({"encoder": "encoder"}, r"no module 'encoder'\. Did you mean 'encode'"),
        ({"encoder": ("encode", "encode.first")}, "overlap"),
    ],
)
def test_what_cannot_be_declared(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        foreign(toy(), **changes)


@pytest.mark.parametrize(
    ("what", "changes", "words"),
    [
        (
            "",
            {"scales": {"decode.low": Level(9, (2, 2))}},
            r"'decode\.low' was declared with 9 chan",
        ),
        (
            "",
            {"scales": {"decode.low": Level(8, (4, 4))}},
            r"give \(2, 8, 4, 3\), it gives \(2, 8, 8",
        ),
        ("", {"scales": {"decode.tokens": Level(8, (2, 2))}}, r"it gives \(2, 48, 8\)"),
        ("", {"scales": {"unused": Level(8, (2, 2))}}, "'unused' ran 0 times"),
        ("", {"scales": {"encode": Level(8, (2, 2))}}, "'encode' gives a tuple, not a tensor"),
        ("again", {}, r"'decode\.low' ran 2 times"),
        ("inplace", {"scales": {"encode.block": Level(8, (2, 2))}}, "changed in place"),
        ("smaller", {}, r"logits of \(2, 3, 16, 12\) .* gives \(2, 3, 8, 6\)"),
        ("", {"classes": 4}, r"expected for 4 classes, the network gives \(2, 3, 16, 12\)"),
        ("", {"input_layers": ("encode.first",)}, r"also read by 'encode\.short'"),
        ("", {"branches": ("unused",)}, "'unused' was not run"),
        ("", {"encoder": "unused"}, "encoder's module 'unused' was not run"),
    ],
)
def test_what_a_first_pass_finds(what: str, changes: dict[str, Any], words: str) -> None:
    network = Odd(what).double() if what else toy()
    if "unused" in str(changes):
        network.unused = nn.Conv2d(8, 8, 1)
    backbone = foreign(network, **changes)
    with pytest.raises(UsageError, match=words):
        backbone(an_image())
    assert hooks(network) == 0


def test_logits_that_are_not_there() -> None:
    with pytest.raises(UsageError, match=r"gives a dict with out, aux, loss; logits=0 is not"):
        foreign(toy(shape="dict"))(an_image())
    with pytest.raises(UsageError, match=r"a list with 0, 1; logits=5"):
        foreign(toy(shape="list"), logits=5)(an_image())


def test_an_illegal_size_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"\(15, 12\) does not fit .* multiple of \(2, 2\)"):
        foreign(toy())(an_image()[:, :, 1:])


def test_private_encoders_need_a_name() -> None:
    with pytest.raises(UsageError, match=r"private encoders \(V1\) need to know"):
        Segmenter(foreign(toy(), encoder=()), {"a": 1}, private_encoders=True)
