"""`unpaired train model.pretrained=FILE` says what the file filled, before the first step."""

from pathlib import Path

import pytest
import torch
from toy_data import write_settings

from swin_files import swin_classifier
from toy import write_toy
from unpaired.cli.app import run
from unpaired.files import read_json

Output = pytest.CaptureFixture[str]


@pytest.fixture
def call(tmp_path: Path) -> list[str]:
    folder = write_toy(tmp_path / "data", "aa", 4, True, (1, 2))
    settings = ["--config", str(write_settings(tmp_path / "toy.toml"))]
    return ["train", "--data", f"aa={folder}", *settings, "--out", str(tmp_path / "run")]


def test_the_table_is_printed_before_the_first_step(
    call: list[str], tmp_path: Path, capsys: Output
) -> None:
    file = tmp_path / "swin.pth"
    torch.save({"model": swin_classifier(8, (1, 1, 2), (1, 2, 2), 7)}, file)
    more = [f"model.pretrained={file}", "max_minutes=1e-9", "prefetch=0"]
    assert run([*call, *more]) == 0
    text = capsys.readouterr().out
    record = read_json(tmp_path / "run/pretrained.json")
    rows = {line.split("  ")[0].strip(): line.split() for line in text.splitlines() if line}
    for part in record["parts"]:
        assert {part["parameters"], part["filled"], part["random"]} <= set(rows[part["part"]])
    assert f"{record['percent']:.1f} % of encoder and decoder start from {file}" in text
    assert text.index("of encoder and decoder start") < text.index("Stopped at step 1")
    file.unlink()
    assert run([*call, more[0]]) == 0
    assert "encoder and decoder start from" not in capsys.readouterr().out


def test_a_bad_file_is_refused_before_anything_is_prepared(
    call: list[str], tmp_path: Path, capsys: Output
) -> None:
    assert run([*call, f"model.pretrained={tmp_path / 'none.pth'}"]) == 2
    assert "there is no file" in capsys.readouterr().err
    (tmp_path / "half.pth").write_bytes(b"PK\3\4")
    assert run([*call, f"model.pretrained={tmp_path / 'half.pth'}"]) == 3
    assert "not a whole" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_width_names_the_layers(call: list[str], tmp_path: Path, capsys: Output) -> None:
    torch.save(swin_classifier(16, (1, 1, 2), (1, 2, 2), 7), tmp_path / "wide.pth")
    assert run([*call, f"model.pretrained={tmp_path / 'wide.pth'}"]) == 2
    error = capsys.readouterr().err
    assert "wide.pth" in error and "the file's is 16 wide, this one 8" in error
    assert "encoder.embed.conv.weight ((16, 3, 4, 4) there, (8, 3, 4, 4) here)" in error
    assert not (tmp_path / "run/checkpoints").exists()
