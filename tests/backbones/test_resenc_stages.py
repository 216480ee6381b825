"""From options and sizes to stages: published plans, rules, and what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from unpaired.backbones.resenc_stages import (
    Layout,
    choose_kernels,
    choose_strides,
    lay_out,
    levels_read,
    size_step,
    total_strides,
)


def stages(size: tuple[int, ...], **options: object) -> list:
    names = ("max_width", "stages", "blocks", "strides", "kernels")
    given = {**dict.fromkeys(names), "base_width": 32, "anisotropic": False, **options}
    return lay_out(size, Layout(**given))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((128, 128, 128), [(2, 2, 2)] * 5),  # as nnU-Net plans it
        ((40, 56, 40), [(2, 2, 2)] * 3),  # as nnU-Net plans it (Hippocampus)
        ((512, 512), [(2, 2)] * 7),
        ((80, 160, 160), [(2, 2, 2)] * 4 + [(1, 2, 2)]),
        ((16, 64, 128), [(1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 2)]),
        ((1, 32, 32), [(1, 2, 2)] * 3),
        ((34, 64), [(2, 2), (1, 2), (1, 2), (1, 2)]),  # 17 is odd
        ((36, 32), [(2, 2), (2, 2), (1, 2)]),  # what cannot be halved holds nobody up
        ((20,), [(2,), (2,)]),
    ],
)
def test_axes_are_halved_together_and_shorter_ones_wait(
    size: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    assert choose_strides(size, None) == [(1,) * len(size), *expected]


def test_stages_stop_the_halving() -> None:
    assert choose_strides((128, 128), 3) == [(1, 1), (2, 2), (2, 2)]
    with pytest.raises(ValueError, match=r"\(64, 64\) can be halved 4 times.*6 stages need 5"):
        choose_strides((64, 64), 6)
    with pytest.raises(ValueError, match="2 stages need 1"):
        choose_strides((7, 6), None)


def test_blocks_and_widths_as_published() -> None:
    plan = stages((128, 128, 128))
    assert [s.blocks for s in plan] == [1, 3, 4, 6, 6, 6]
    assert [s.channels for s in plan] == [32, 64, 128, 256, 320, 320]
    plan = stages((512, 512))
    assert [s.blocks for s in plan] == [1, 3, 4, 6, 6, 6, 6, 6]
    assert [s.channels for s in plan] == [32, 64, 128, 256, 512, 512, 512, 512]
    assert [s.channels for s in stages((64, 64), base_width=8, max_width=24)] == [8, 16, 24, 24, 24]


def test_kernels_grow_where_a_coarse_axis_joins() -> None:
    """As nnU-Net: 1 along the coarse axis until the others have come down to it, then 3."""
    strides = choose_strides((16, 64, 64), None)
    assert strides == [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)]
    found = choose_kernels(strides, (16, 64, 64), True)
    assert found == [(1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)]
    assert choose_kernels(strides, (16, 64, 64), False) == [(3, 3, 3)] * 5
    flat = choose_strides((5, 32, 32), None)  # never strided along depth: 3 at the bottom only
    assert choose_kernels(flat, (5, 32, 32), True) == [(1, 3, 3)] * 3 + [(3, 3, 3)]
    assert choose_kernels(flat, (1, 32, 32), False) == [(1, 3, 3)] * 4


@pytest.mark.parametrize(
    ("strides", "scales", "expected"),
    [
        ([32, 16, 8, 4, 2, 1], 3, [16, 8, 4]),
        ([16, 8, 4, 2, 1], 3, [16, 8, 4]),
        ([16, 8, 4, 2, 1], 2, [8, 4]),
        ([8, 4, 2, 1], 3, [8, 4, 2]),  # too few coarse ones: the coarsest
        ([2, 1], 3, [2, 1]),
        ([4, 1], 1, [4]),
    ],
)
def test_levels_are_the_finest_of_stride_4_or_more(
    strides: list[int], scales: int, expected: list[int]
) -> None:
    found = levels_read([(1, s) for s in strides], scales)
    assert [strides[i] for i in found] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": 3, "blocks": (1, 1)}, "different numbers of stages"),
        ({"strides": (1, 2, 2), "kernels": (3, 3)}, "different numbers of stages"),
        ({"stages": 1}, "at least 2 stages"),
        ({"strides": (2, 2)}, "the first must be 1"),
        ({"strides": (1, 0)}, "none less than 1"),
        ({"strides": (1, 3)}, "must be a multiple"),
        ({"strides": (1, 8, 4)}, "single voxel"),
        ({"strides": (1, (2, 2, 2))}, "3 values, but there are 2"),
        ({"kernels": (3, 2)}, "must be odd"),
        ({"blocks": (1, 0)}, "at least one block"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stages((32, 32), **options)


def test_no_level_is_refused() -> None:
    with pytest.raises(ValueError, match="scales=0"):
        levels_read([(2, 2)], 0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (8, 32, 32)),
        ({"blocks": 2, "anisotropic": True}, (8, 32, 32)),
        ({"stages": 6}, (8, 32, 32)),
        ({"blocks": (1, 1, 1)}, (4, 4, 4)),
        ({"kernels": (3,) * 8}, (8, 128, 128)),
        ({"strides": (1, (1, 2, 2), 2, (1, 2, 3))}, (2, 8, 12)),
    ],
)
def test_the_step_is_coarse_in_the_plane_and_fine_along_the_stack(
    options: dict[str, object], expected: tuple[int, ...]
) -> None:
    assert size_step(options, 3) == expected
    if "strides" not in options:
        assert size_step(options, 2) == expected[1:]


@some.composite
def options_and_factors(draw: some.DrawFn) -> tuple[dict[str, object], list[int]]:
    """Options of every kind, and per axis the size in steps."""
    dims = draw(some.integers(1, 3))
    count = draw(some.integers(2, 4))
    number = some.integers(1, 3)
    row = some.one_of(number, some.tuples(*[number] * dims))
    options: dict[str, object] = {}
    if draw(some.booleans()):
        first = draw(some.sampled_from([1, (1,) * dims]))
        options["strides"] = (first, *draw(some.tuples(*[row] * (count - 1))))
    for name, value in {
        "stages": some.just(count),
        "blocks": some.one_of(number, some.tuples(*[number] * count)),
        "kernels": some.tuples(*[some.sampled_from([1, 3, 5])] * count),
        "anisotropic": some.booleans(),
    }.items():
        if draw(some.booleans()):
            options[name] = draw(value)
    return options, draw(some.lists(some.integers(1, 12), min_size=dims, max_size=dims))


@settings(max_examples=400, deadline=None)
@given(options_and_factors())
def test_every_size_of_the_step_can_be_built(
    drawn: tuple[dict[str, object], list[int]],
) -> None:
    """Save those that are declared too small; and the network then takes that very size."""
    options, factors = drawn
    step = size_step(options, len(factors))
    size = tuple(s * f for s, f in zip(step, factors, strict=True))
    known = [options[k] for k in ("stages", "strides", "kernels") if k in options]
    known += [b for b in [options.get("blocks")] if isinstance(b, tuple)]
    count = next((v if isinstance(v, int) else len(v) for v in known), None)
    try:
        plan = stages(size, **options)
    except ValueError as error:
        if "strides" in options:
            assert "single voxel" in str(error) and size == step
        else:
            assert count is not None and "can be halved" in str(error)
            assert max(size[-2:]) < 4 * 2 ** (count - 1)
        return
    total = total_strides([s.stride for s in plan])[-1]
    assert all(n % t == 0 for n, t in zip(size, total, strict=True))
    assert count in (None, len(plan))
    if "strides" in options:
        assert total == step
