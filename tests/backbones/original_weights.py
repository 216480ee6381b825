"""The rule that fills the fixtures' networks, and their reference numbers."""

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor


def fill(key: str, shape: tuple[int, ...]) -> Tensor:
    """The weights of `key`: a normal draw seeded by the key, scaled by what the key is."""
    x = np.random.RandomState(crc32(key.encode())).standard_normal(shape)
    if key.endswith("relative_position_bias_table"):
        x = 0.5 * x
    elif key.endswith("bias"):
        x = 0.1 * x
    elif "norm" in key.split(".")[-2]:
        x = 1 + 0.2 * x
    else:
        x = x / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(x.astype(np.float32))


def original_state(description: dict[str, Any]) -> dict[str, Tensor]:
    """The whole state dict of the original network, its buffers included."""
    trained = set(description["params"])
    return {
        key: fill(key, tuple(entry["shape"])) if key in trained else torch.zeros(1)
        for key, entry in description["state_dict"].items()
    }


def load_fixture(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and arrays."""
    description = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as arrays:
        return description, {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def fixture_loss(name: str, outputs: list[Tensor]) -> Tensor:
    """sum_i mean(output_i W_i), as the gradient norms were taken."""
    total = torch.zeros(())
    for i, output in enumerate(outputs):
        w = np.random.RandomState(crc32(f"{name}/w{i}".encode())).standard_normal(output.shape)
        total = total + (output * torch.from_numpy(w.astype(np.float32))).mean()
    return total
