"""Whether a model is one of a training that goes on."""

import logging
from functools import lru_cache
from pathlib import Path

from unpaired.artifact.safetensors import DESCRIPTION
from unpaired.errors import DataError
from unpaired.files import read_json
from unpaired.names import printable

log = logging.getLogger(__name__)


def unfinished(folder: Path) -> str:
    """That the training of this model goes on, and how far it was; empty where it has ended."""
    try:
        about = read_json(folder / DESCRIPTION)["extra"]["unfinished"]
        step, steps = int(about["step"]), int(about["steps"])
    except (DataError, KeyError, TypeError, ValueError):  # weights without a description are whole
        return ""
    return f"{printable(folder)} is unfinished: step {step:,} of {steps:,}; its training goes on."


def warn_unfinished(folder: Path) -> None:
    """Say it, once, however often the model is loaded."""
    if sentence := unfinished(folder):
        warn(sentence)


@lru_cache
def warn(sentence: str) -> None:
    """Once a process."""
    log.warning("%s", sentence)
