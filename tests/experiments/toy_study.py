"""A study of toy scans and a network of a few thousand parameters."""

from pathlib import Path

from toy import toy_config, write_toy
from unpaired.config import to_toml
from unpaired.experiments.study import Study, open_study

VALUES = {"a": (True, (1, 2)), "b": (False, (7, 3))}


def toy_settings(path: Path, *overrides: str) -> Path:
    """A TOML file with the toy's recipe."""
    few = ("train.steps=2", "train.steps_per_epoch=1", "train.threads=1", "data.context=1")
    path.write_text(to_toml(toy_config(*few, *overrides)))
    return path


def toy_data(root: Path, cases: int = 5) -> dict[str, Path]:
    """Two modalities, each with its own values for the same two organs."""
    return {m: write_toy(root, m, cases, *how) for m, how in VALUES.items()}


def toy_study(root: Path, *overrides: str, redraw: bool = True) -> Study:
    """Scans, recipe and an empty folder."""
    data = toy_data(root / "data")
    file = toy_settings(root / "toy.toml")
    return open_study(Study(data, root / "out", None, file, overrides, redraw))
