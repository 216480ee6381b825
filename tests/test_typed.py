"""The checks of types and shapes that every other test runs under."""

from collections.abc import Iterator
from dataclasses import dataclass

import jaxtyping
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from typed import jaxtyped
from unpaired.backbones.base import Level
from unpaired.losses import mcr
from unpaired.names import printable

WRONG = jaxtyping.TypeCheckError


@jaxtyped
def product(a: Float[Tensor, "m k"], b: Float[Tensor, "k n"]) -> Float[Tensor, "m n"]:
    return a[: len(b)] @ b


@jaxtyped
def slices(a: Float[Tensor, "m k"]) -> Iterator[Float[Tensor, " k"]]:
    yield from a


@jaxtyped
def rows(a: Float[Tensor, "m n"], b: Float[Tensor, " k"]) -> list[int]:
    return [len(row) for row in slices(a)]


@jaxtyped
@dataclass
class Pair:
    a: Float[Tensor, " n"]
    b: Float[Tensor, " n"]

    @property
    @jaxtyped
    def both(self) -> Float[Tensor, "2 n"]:
        return torch.stack([self.a, self.b])

    @jaxtyped
    @classmethod
    def named(cls, name: str) -> "Pair":
        return cls(torch.zeros(len(name)), torch.zeros(len(name)))


def test_sizes_of_one_name_are_one_size_within_a_call() -> None:
    assert product(torch.ones(2, 3), torch.ones(3, 4)).shape == (2, 4)
    assert product(torch.ones(3, 4), torch.ones(4, 5)).shape == (3, 5), "the next call is free"
    with pytest.raises(WRONG):
        product(torch.ones(2, 3), torch.ones(4, 2))
    with pytest.raises(WRONG):
        product(torch.ones(2, 3), torch.ones(3, 4, dtype=torch.int64))
    with pytest.raises(WRONG, match="return"):
        jaxtyped(turned)(torch.ones(2, 3))
    assert rows(torch.ones(2, 3), torch.ones(7)) == [3, 3], "a generator has a scope of its own"
    with pytest.raises(Exception, match="slices"):
        slices(torch.ones(2))


def turned(a: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
    return a.T


def test_dataclasses_properties_and_class_methods_are_checked() -> None:
    pair = Pair(torch.ones(2), torch.ones(2))
    assert pair.both.shape == (2, 2)
    with pytest.raises(WRONG):
        Pair(torch.ones(2), torch.ones(3))
    assert len(Pair.named("abc").a) == 3
    with pytest.raises(WRONG):
        Pair.named(7)


@jaxtyped
def later(given: "list[Unknown]", name: "str") -> "int | None":
    return len(name) if given else None


def test_names_that_only_mypy_knows_are_not_checked() -> None:
    assert later([1], "ab") == 2
    assert later.__annotations__["name"] == "str"
    with pytest.raises(WRONG):
        later([1], 2)


def test_the_package_is_under_it() -> None:
    """With shapes and without, functions and dataclasses."""
    for deed in (
        lambda: mcr({"a": torch.ones(3)}),
        lambda: printable("a", 3),
        lambda: Level("wide", (1, 1)),
    ):
        with pytest.raises(WRONG):
            deed()


def test_a_trace_can_leave_it_out() -> None:
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        assert jaxtyped(turned)(torch.ones(2, 3)).shape == (3, 2)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
