"""Weights from a file of somebody else's: safetensors, or a torch file that needs no code."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unpaired.data.paths import shown
from unpaired.errors import DataError, UsageError

_INSIDE = ("model", "state_dict", "model_state_dict", "network_weights")
"""Entries of a checkpoint that hold the weights."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Names and tensors, on the CPU. No code of the file is ever run.

    Raises:
        UsageError: there is no such file.
        DataError: damaged, no weights in it, or it would have to run code to be read.
    """
    if not path.is_file():
        hint = " It is a folder; name the file in it." if path.is_dir() else ""
        raise UsageError(
            f"there is no file {shown(path)} (model.pretrained).{hint} Weights are never "
            "downloaded: fetch the file yourself (docs/pretrained.md)."
        )
    try:
        with path.open("rb") as file:
            head = file.read(9)
        loaded = load_file(path) if head[8:] == b"{" else _torch_file(path, head)
    except DataError:
        raise
    except Exception as error:  # any failure of a parser of untrusted bytes is the file's fault
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        kind = "safetensors" if isinstance(error, SafetensorError) else "torch or safetensors"
        raise DataError(
            f"{shown(path)} is not a whole {kind} file ({reason}). Copy or fetch it again."
        ) from error
    state = _unpack(loaded)
    if not state:
        raise DataError(
            f"{shown(path)} holds no weights by name. Give a state dict, or a checkpoint with one "
            f"under {', '.join(map(repr, _INSIDE))}."
        )
    return state


def _torch_file(path: Path, head: bytes) -> Any:
    if head[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"damaged part {damaged}")
    elif head[:1] != b"\x80" or head[1:2] not in (b"\2", b"\3", b"\4", b"\5"):  # pickle, protocol
        raise ValueError(f"it begins with {head!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on pickles of other protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "nsupported" not in str(error) and "global" not in str(error).casefold():
            raise
        raise DataError(
            f"{shown(path)} can only be read by running code that it names, which was not done. "
            "Where you trust it, save its state dict alone as safetensors, and give that file."
        ) from error


def _unpack(loaded: Any) -> dict[str, Tensor]:
    """The innermost table of tensors."""
    if not isinstance(loaded, Mapping):
        return {}
    for name in _INSIDE:
        if isinstance(loaded.get(name), Mapping) and (found := _unpack(loaded[name])):
            return found
    return {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)}
