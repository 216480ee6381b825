"""Shared fixtures: where real data and reference numbers lie, when they are there at all."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import typed  # noqa: F401  before anything of the package

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests run without the tracer of coverage, which takes them as long again."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker("no_cover")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what the system cannot do."""
    if item.get_closest_marker("unix") and os.name == "nt":
        pytest.skip("signals, special files or rights that Windows does not have")
    if item.get_closest_marker("linux") and not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The tensors are small: two threads wait for each other, far longer on busy cores."""
    torch.set_num_threads(1)


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """`shared("data/torso")` is that folder, or the test is skipped with the reason."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"shared/{name} is not beside this checkout")
        return path

    return find
