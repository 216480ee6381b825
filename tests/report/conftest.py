"""The run folder that the report's tests share."""

from pathlib import Path

import pytest
from made_run import make_run


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only; copy it to change it."""
    return make_run(tmp_path_factory.mktemp("report"))
