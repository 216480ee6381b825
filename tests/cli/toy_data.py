"""Settings and sizes of the toy that the tests of the command line use."""

from pathlib import Path

from toy import toy_config
from unpaired.config import to_toml

VALUES = {"aa": (True, (1, 2)), "bb": (False, (7, 3))}


def write_settings(path: Path) -> Path:
    """A TOML file of a tiny network and six steps."""
    path.write_text(to_toml(toy_config()))
    return path
