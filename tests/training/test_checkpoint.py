"""Checkpoints: damaged, foreign, newer and malicious files are refused."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from unpaired.errors import DataError, ResourceError
from unpaired.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": {"w": torch.arange(4096.0)}, "step": 7})
    return path


def test_round_trip(saved: Path) -> None:
    state = load_checkpoint(saved)
    assert state["step"] == 7
    assert torch.equal(state["model"]["w"], torch.arange(4096.0))


def test_every_truncation_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        saved.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"last\.pt"):
            load_checkpoint(saved)


def test_a_flipped_bit_in_the_weights_is_refused(saved: Path) -> None:
    whole = bytearray(saved.read_bytes())
    at = whole.find(torch.tensor([1000.0, 1001.0]).numpy().tobytes())
    whole[at] ^= 1
    saved.write_bytes(whole)
    with pytest.raises(DataError, match="damaged"):
        load_checkpoint(saved)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    flag = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(flag),)

    path = tmp_path / "last.pt"
    for write in (lambda: torch.save(Bomb(), path), lambda: path.write_bytes(pickle.dumps(Bomb()))):
        write()
        with pytest.raises(DataError, match="cannot be read"):
            load_checkpoint(path)
    assert not flag.exists()


def test_newer_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"schema": 99})
    with pytest.raises(DataError, match="newer version"):
        load_checkpoint(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(DataError, match="not a checkpoint of this program"):
        load_checkpoint(path)
    for state in ({"schema": "x"}, {"schema": 1}, {"schema": 1, "model": {"w": 3}}):
        torch.save(state, path)
        with pytest.raises(DataError, match=r"not a checkpoint|not a whole checkpoint"):
            load_checkpoint(path)
    with pytest.raises(DataError, match="no checkpoint"):
        load_checkpoint(tmp_path / "nowhere.pt")


def test_a_failed_write_keeps_the_old_state(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(bytes(content)[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match="No space left"):
        save_checkpoint(saved, {"step": 8})
    monkeypatch.undo()
    assert load_checkpoint(saved)["step"] == 7
    assert list(saved.parent.iterdir()) == [saved]
