"""Weights of somebody else's file: both formats, what wraps them, and what is refused."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from unpaired.errors import DataError, UsageError
from unpaired.training.pretrained import read_weights

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("inside", [None, "model", "state_dict", "network_weights"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path: Path, inside: str | None, zipped: bool) -> None:
    path = tmp_path / "any.name"
    wrapped: Any = STATE if inside is None else {inside: STATE, "epoch": 3, "optimizer": {"a": 1}}
    torch.save(wrapped, path, _use_new_zipfile_serialization=zipped)
    found = read_weights(path)
    assert found.keys() == STATE.keys()
    assert all(found[name].equal(STATE[name]) for name in STATE)


def test_safetensors_told_by_content(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    save_file(STATE, path)
    assert read_weights(path)["a.weight"].equal(STATE["a.weight"])


@pytest.mark.parametrize("inside", ["model", None])
def test_code_is_refused_and_never_run(tmp_path: Path, inside: str | None) -> None:
    mark, path = tmp_path / "ran", tmp_path / "weights.pth"
    torch.save({**STATE, "extra": Trap(mark)} if inside is None else {"model": Trap(mark)}, path)
    with pytest.raises(DataError, match=r"only be read by running code .* not done\. Where you"):
        read_weights(path)
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(DataError, match="running code"):
        read_weights(plain)
    assert not mark.exists()


@pytest.mark.parametrize("keep", [0, 5, 100, -1, -40])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_cut_short(tmp_path: Path, kind: str, keep: int) -> None:
    path = tmp_path / "weights"
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"is not a whole .* file"):
        read_weights(path)


def test_damaged_inside(tmp_path: Path) -> None:
    """A flipped bit in the numbers of a zipped file; its checksum tells."""
    path = tmp_path / "weights.pth"
    torch.save(STATE, path)
    raw = bytearray(path.read_bytes())
    at = raw.index(STATE["a.weight"].numpy().tobytes())
    raw[at + 5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"not a whole .*weights/data/0"):
        read_weights(path)


@pytest.mark.parametrize("value", [{}, [1, 2], torch.ones(2), {"model": {"epoch": 1}}, {1: 2}])
def test_no_weights_by_name(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "x.pth")
    with pytest.raises(DataError, match="holds no weights by name"):
        read_weights(tmp_path / "x.pth")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no file .*x\.pth .*never downloaded"):
        read_weights(tmp_path / "x.pth")
    with pytest.raises(UsageError, match="It is a folder"):
        read_weights(tmp_path)
    (tmp_path / "text").write_text("<html>not found</html>")
    with pytest.raises(DataError, match="not a whole"):
        read_weights(tmp_path / "text")
