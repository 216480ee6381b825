"""Eq. 1-9 of one module against the loops: values and gradients, any number of axes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import oracles
from unpaired.models import Semantics
from unpaired.nn import ExternalAttention
from unpaired.nn.external_attention import ClassAttention

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def shake(module: nn.Module, seed: int, scale: float = 0.4) -> None:
    """Move every parameter away from its start, so that no zero hides an error."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def oracle_of(module: ExternalAttention, scaled: bool = False) -> oracles.Eam:
    def both(layer: nn.Module | None) -> tuple[Tensor, Tensor] | None:
        return None if layer is None else (layer.weight, layer.bias)

    a = module.attention
    return oracles.Eam(
        norm_q=both(module.norm_q),
        norm_f=both(module.norm_f),
        w_q=a.query.weight,
        w_k=a.key.weight,
        heads=a.heads,
        w_v=None if a.value is None else a.value.weight,
        w_o=both(a.out),
        norm_mlp=both(module.norm_mlp),
        mlp=None if module.mlp is None else (*both(module.mlp.widen), *both(module.mlp.project)),
        reduce=both(module.reduce),
        head=None if module.head is None else module.head.weight[0],
        kernel=module.kernel,
        scaled=scaled,
    )


def gradients(loss: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs, retain_graph=True))


def weigh(parts: dict[str, Tensor]) -> Tensor:
    """One scalar that reads every number of every part with its own weight."""
    total = torch.zeros((), dtype=torch.float64)
    for i, part in enumerate(parts.values()):
        generator = torch.Generator().manual_seed(i)
        total = total + (part * torch.randn(part.shape, generator=generator).double()).sum()
    return total


def compare(module: ExternalAttention, q: Tensor, features: Tensor, scaled: bool = False) -> None:
    q.requires_grad_()
    features.requires_grad_()
    found = {k: v for k, v in module(q, features)._asdict().items() if v is not None}
    per_image = [
        oracles.external_attention(oracle_of(module, scaled), a, f)
        for a, f in zip(q, features, strict=True)
    ]
    expected = {k: torch.stack([one[k] for one in per_image]) for k in per_image[0]}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **CLOSE, msg=lambda s, n=name: f"{n}: {s}")
    inputs = [q, features, *module.parameters()]
    pairs = zip(gradients(weigh(found), inputs), gradients(weigh(expected), inputs), strict=True)
    for ours, loops in pairs:
        torch.testing.assert_close(ours, loops, **CLOSE)


@settings(max_examples=8, deadline=None)
@given(
    classes=st.integers(1, 3),
    heads=st.sampled_from([1, 2, 3]),
    width=st.integers(1, 2),
    space=st.sampled_from([(4,), (2, 3), (1, 2, 2)]),
    images=st.integers(1, 2),
    scaled=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_module_equals_the_loops(
    classes: int,
    heads: int,
    width: int,
    space: tuple[int, ...],
    images: int,
    scaled: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    channels = heads * width * 2
    module = ExternalAttention(
        channels, classes, heads, next_channels=3, maps="scaled" if scaled else "raw"
    ).double()
    shake(module, seed)
    q = torch.randn(images, classes, channels).double()
    compare(module, q, torch.randn(images, channels, *space).double(), scaled)


@pytest.mark.parametrize("predict", [True, False])
@pytest.mark.parametrize("correlate", [True, False])
@pytest.mark.parametrize("next_channels", [None, 2])
def test_each_part_alone_equals_the_loops(
    predict: bool, correlate: bool, next_channels: int | None
) -> None:
    torch.manual_seed(1)
    module = ExternalAttention(4, 3, 2, next_channels, predict, correlate).double()
    shake(module, 1)
    q, features = torch.randn(2, 3, 4).double(), torch.randn(2, 4, 2, 2).double()
    if predict or correlate or next_channels:
        found = module(q, features)
        names = {"logits": predict, "correlation": correlate, "embeddings": next_channels}
        assert all((getattr(found, n) is not None) == bool(v) for n, v in names.items())
    if next_channels is not None and predict and correlate:
        return  # the property above
    q.requires_grad_()
    expected = [
        oracles.external_attention(oracle_of(module), a, f)
        for a, f in zip(q, features, strict=True)
    ]
    for name in expected[0]:
        stacked = torch.stack([e[name] for e in expected])
        torch.testing.assert_close(getattr(module(q, features), name), stacked, **CLOSE)


@pytest.mark.parametrize(("classes", "absorbs"), [(2, True), (6, False)])
def test_absorbed_and_direct_paths_equal_the_loops(classes: int, absorbs: bool) -> None:
    """Z N <= C + Z absorbs the key's and value's matrices; above it they are applied directly."""
    torch.manual_seed(2)
    channels, heads = 8, 4
    assert (classes * heads <= channels + classes) == absorbs
    module = ClassAttention(channels, heads).double()
    called: list[str] = []
    module.key.register_forward_hook(lambda *_: called.append("key"))
    shake(module, 2)
    q = torch.randn(1, classes, channels).double().requires_grad_()
    f = torch.randn(1, 5, channels).double().requires_grad_()
    maps, attended = module(q, f)
    assert (called == []) == absorbs
    weights = module.query.weight, module.key.weight
    out = module.value.weight, module.out.weight, module.out.bias
    expected = (
        oracles.attention_maps(q[0], f[0], *weights, heads),
        oracles.class_attention(q[0], f[0], *weights, *out, heads),
    )
    torch.testing.assert_close(maps[0], expected[0], **CLOSE)
    torch.testing.assert_close(attended[0], expected[1], **CLOSE)
    inputs = [q, f, *module.parameters()]
    ours = gradients(weigh({"a": maps[0], "b": attended[0]}), inputs)
    loops = gradients(weigh({"a": expected[0], "b": expected[1]}), inputs)
    for a, b in zip(ours, loops, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_maps_are_before_the_softmax() -> None:
    """Doubling the query doubles A; after a softmax every row of A would sum to 1."""
    torch.manual_seed(3)
    module = ClassAttention(8, 2).double()
    q, f = torch.randn(1, 3, 8).double(), torch.randn(1, 7, 8).double()
    maps, _ = module(q, f)
    torch.testing.assert_close(module(2 * q, f)[0], 2 * maps)
    scaled = ClassAttention(8, 2, maps="scaled").double()
    scaled.load_state_dict(module.state_dict())
    torch.testing.assert_close(scaled(q, f)[0], maps / 2)  # sqrt(8 / 2) = 2
    torch.testing.assert_close(scaled(q, f)[1], module(q, f)[1])  # the attention is the same


def test_permuting_classes_permutes_every_output() -> None:
    torch.manual_seed(4)
    module = ExternalAttention(8, 4, 2, next_channels=4).double()
    shake(module, 4)
    q, f = torch.randn(2, 4, 8).double(), torch.randn(2, 8, 3, 2).double()
    before = module(q, f)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        module.kernel.copy_(module.kernel[order].clone())
    after = module(q[:, order], f)
    torch.testing.assert_close(after.maps, before.maps[:, order])
    torch.testing.assert_close(after.logits, before.logits[:, order])
    torch.testing.assert_close(after.embeddings, before.embeddings[:, order])
    torch.testing.assert_close(after.correlation, before.correlation[:, order][:, :, order])


def test_order_of_positions_does_not_matter() -> None:
    torch.manual_seed(5)
    module = ExternalAttention(8, 3, 2, next_channels=4).double()
    shake(module, 5)
    q, f = torch.randn(1, 3, 8).double(), torch.randn(1, 8, 6).double()
    order = torch.randperm(6)
    before, after = module(q, f), module(q, f[..., order])
    torch.testing.assert_close(after.correlation, before.correlation)
    torch.testing.assert_close(after.embeddings, before.embeddings)
    torch.testing.assert_close(after.logits, before.logits[..., order])


def test_correlation_is_float32_under_autocast() -> None:
    torch.manual_seed(6)
    module = ExternalAttention(16, 3, 4, next_channels=8)
    shake(module, 6, 0.1)
    q, f = torch.randn(2, 3, 16), torch.randn(2, 16, 4, 4)
    exact = module(q, f)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(q, f)
    assert found.maps.dtype == torch.bfloat16
    assert found.correlation.dtype == torch.float32
    torch.testing.assert_close(found.correlation, exact.correlation, rtol=0.05, atol=0.05)
    # Of the maps as they came, E is exact to float32: nothing inside it ran in bfloat16.
    kernels = torch.einsum("bzc,zcn->bzn", q, module.kernel)
    loops = [
        oracles.correlation(k.double(), a.double().flatten(2))
        for k, a in zip(kernels, found.maps, strict=True)
    ]
    torch.testing.assert_close(found.correlation.double(), torch.stack(loops), rtol=1e-5, atol=1e-5)


def test_channels_that_heads_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="10 channels cannot be split into 4 heads"):
        ClassAttention(10, 4)


def test_raw_maps_start_at_the_stated_width() -> None:
    """method.md states a standard deviation of 1.05, 0.40 and 0.14 (C = 96, N = 8, Z = 5)."""
    torch.manual_seed(7)
    features = [torch.randn(2, c, s, s) for c, s in ((384, 14), (192, 28), (96, 56))]
    with torch.no_grad():
        found = [Semantics(5, (384, 192, 96))(features) for _ in range(4)]
    for scale, stated in enumerate((1.05, 0.40, 0.14)):
        width = torch.stack([f[scale].maps.std() for f in found]).mean()
        assert float(width) == pytest.approx(stated, rel=0.12)


def test_maps_averaged_over_the_heads_are_the_scaled_ones_and_e_their_mean() -> None:
    torch.manual_seed(0)
    modules = {}
    for maps in ("scaled", "mean"):
        modules[maps] = ExternalAttention(12, 3, heads=4, maps=maps).double()
    modules["mean"].load_state_dict(modules["scaled"].state_dict())
    q, features = torch.randn(2, 3, 12).double(), torch.randn(2, 12, 5, 4).double()
    for module in modules.values():
        shake(module, 1)
    scaled, mean = (modules[name](q, features) for name in ("scaled", "mean"))
    torch.testing.assert_close(mean.maps, scaled.maps, rtol=0, atol=0)
    torch.testing.assert_close(mean.correlation, scaled.correlation / 4)
    gate = oracles.correlation  # loops, with the sum over the heads of Eq. 8
    kernels = torch.einsum("bzc,zcn->bzn", q, modules["mean"].kernel)
    loops = torch.stack(
        [gate(k, a.flatten(2)) / 4 for k, a in zip(kernels, mean.maps, strict=True)]
    )
    torch.testing.assert_close(mean.correlation, loops)
