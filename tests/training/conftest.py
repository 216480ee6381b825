"""The toy of two modalities, prepared once, and one finished run on it, for all these tests."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from toy import toy_config, train_toy, write_toy


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Not to be changed."""
    root = tmp_path_factory.mktemp("toy")
    return {
        "a": write_toy(root, "a", 4, True, (1, 2)),
        "b": write_toy(root, "b", 4, False, (7, 3)),
    }


@pytest.fixture(scope="session")
def whole(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run of `toy_config()`: six steps. Not to be changed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_toy(toy_config(), data, folder)
    return folder


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Callable[[], Path]:
    """`finished()` is a copy of that run, to go on with."""
    return lambda: shutil.copytree(whole, tmp_path / "finished")
