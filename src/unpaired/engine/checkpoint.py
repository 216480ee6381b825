"""Training state on disk: whole or not at all, checked, and never an unsafe loader."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from unpaired.errors import DataError
from unpaired.files import atomic

SCHEMA = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) atomically."""
    buffer = io.BytesIO()  # writing through Python: a full disk is then an OSError
    torch.save({"schema": SCHEMA, **state}, buffer)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; checksums are verified, no code is ever run.

    Raises:
        DataError: missing, damaged, foreign or newer.
    """
    mend = "Restore it from a copy, or train anew in another --out."
    if not path.is_file():
        raise DataError(f"there is no checkpoint at {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise DataError(f"the checkpoint {path} is damaged (part {damaged}). {mend}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except Exception as error:  # any failure of a parser of untrusted bytes is the file's fault
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"the checkpoint {path} cannot be read: {reason} {mend}") from error
    if not isinstance(state, dict) or not isinstance(state.get("schema"), int):
        raise DataError(f"{path} is not a checkpoint of this program.")
    if state["schema"] > SCHEMA:
        raise DataError(
            f"{path} was written by a newer version of this program (schema {state['schema']}, "
            f"this one reads up to {SCHEMA}). Update the program."
        )
    model = state.get("model")
    if not isinstance(model, dict) or not all(isinstance(v, torch.Tensor) for v in model.values()):
        raise DataError(f"{path} holds no weights; it is not a whole checkpoint. {mend}")
    return state
