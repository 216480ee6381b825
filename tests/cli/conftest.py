"""Small data sets for the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest
from toy_data import VALUES

from toy import write_toy


@pytest.fixture
def toy(tmp_path: Path) -> Callable[[str], Path]:
    """`toy("aa")` writes four scans of that modality and returns their folder."""

    def write(modality: str) -> Path:
        bright, values = VALUES[modality]
        return write_toy(tmp_path / "data", modality, 4, bright, values)

    return write
