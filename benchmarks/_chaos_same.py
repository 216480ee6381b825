"""Whether two outputs of a command hold the same, and what temporaries lie in one."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from unpaired.leftovers import is_temporary
from unpaired.run.log import read_log

TIMES = {"seconds"}


def temporaries(folder: Path) -> list[Path]:
    """Files and folders with a temporary's name, and markers of cases in work."""
    try:
        hidden = list(folder.rglob(".*"))
    except OSError:  # one went meanwhile
        return []
    return [p for p in hidden if is_temporary(p.name) or p.name.endswith((".working", ".part"))]


def differences(whole: Path, other: Path) -> list[str]:
    """Names of the files that differ in what they say, or are missing."""
    found = []
    for path in sorted(whole.rglob("*")):
        kind = next((end for end in READ if path.name.endswith(end)), None)
        if path.is_file() and kind is not None and not path.name.startswith("."):
            name = path.relative_to(whole)
            if not _same(READ[kind], path, other / name):
                found.append(name.as_posix())
    return found


def _same(read: Callable[[Path], Any], one: Path, two: Path) -> bool:
    try:
        return _equal(read(one), read(two))
    except Exception:  # missing, or not to be read
        return False


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, np.ndarray):
        return isinstance(two, np.ndarray) and np.array_equal(one, two, equal_nan=True)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_equal(one[k], two[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(_equal, one, two))
    return bool(one == two or (one != one and two != two))


def _state(path: Path) -> Any:
    state = torch.load(path, weights_only=True)
    return {name: value for name, value in state.items() if name not in TIMES}


def _log(path: Path) -> Any:
    """The last record of each step and kind; how long it took is no result."""
    records = {(r["kind"], r["step"]): r for r in read_log(path)}
    return {
        str(key): {name: value for name, value in one.items() if name not in TIMES}
        for key, one in records.items()
    }


def _arrays(path: Path) -> Any:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


READ: dict[str, Callable[[Path], Any]] = {
    "last.pt": _state,
    "kept.pt": _state,
    ".safetensors": load_file,
    ".npy": lambda path: np.load(path),
    ".npz": _arrays,
    ".nii.gz": lambda path: gzip.decompress(path.read_bytes()),
    ".nii": lambda path: path.read_bytes(),
    "log.jsonl": _log,
    "plan.json": lambda path: json.loads(path.read_text()),
    "splits_final.json": lambda path: json.loads(path.read_text()),
    "prepared.json": lambda path: json.loads(path.read_text()),
}
"""By the end of the name; files of paths, times and versions are not compared."""
