"""`unpaired import` from the command line: what it says, its exit codes, and what comes after."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from toy_data import write_settings

from datasets import miniatures as mini
from datasets.chaos_files import write_chaos
from datasets.importing import tree
from unpaired.cli.app import run
from unpaired.datasets.sources import IMPORTS
from unpaired.phantom import write_phantom

Output = pytest.CaptureFixture[str]


def test_what_it_says(tmp_path: Path, capsys: Output) -> None:
    archive, out = mini.write_mmwhs(tmp_path / "in"), tmp_path / "out"
    (archive / "ct_train" / "ct_train_1003_image.nii.gz").unlink()
    assert run(["import", "mmwhs", str(archive), str(out), "--workers", "1"]) == 0
    said = capsys.readouterr()
    assert "Imported 3 of ct, 4 of mr." in said.out
    assert f"Use: --data ct={out / 'ct'} --data mr={out / 'mr'}" in said.out
    assert "not imported: ct_train_1003: a label without an image" in said.err
    assert "mr/mr_train_1001: 1 voxels of value 421 became 420" in said.err
    assert "import 7/7" in said.err
    assert run(["import", "mmwhs", str(archive), str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["cases"] == {"ct": 3, "mr": 4}
    assert told["kept"] == 7


def test_one_bad_case(tmp_path: Path, capsys: Output) -> None:
    archive = mini.write_btcv(tmp_path / "in")
    mini.spoil(archive / "RawData/Training/img/img0002.nii.gz")
    assert run(["import", "btcv", str(archive), str(tmp_path / "out"), "--workers", "1"]) == 3
    said = capsys.readouterr().out
    assert "ct/btcv_0002" in said
    assert "Imported 3 of ct; 1 could not be imported." in said


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["btvc", "in", "out"], 2, "Did you mean 'btcv'"),
        (["btcv", "in"], 2, "give the archive, then the folder"),
        (["btcv", "in", "out", "more"], 2, "3 paths were given"),
        (["btcv", "in", "out", "--cases", "ct=1"], 2, "btcv does not take --cases"),
        (["btcv", "in", "out", "--classes", "liver"], 2, "btcv has no --classes"),
        (["decathlon", "in", "out", "--modality", "../x"], 2, "--modality ../x"),
        (["phantom", "out", "--link"], 2, "phantom does not take --link"),
        (["phantom", "in", "out"], 2, "give the folder to write to"),
        (["phantom", "out", "--cases", "ct"], 2, "such as ct=12,mr=12"),
        (["phantom", "out", "--cases", "us=1"], 2, "no phantom modality 'us'"),
        (["phantom", "out", "--level", "hrad"], 2, "no phantom level"),
        (["btcv", "none", "out"], 3, "does not exist"),
        (["mmwhs", "in", "out"], 3, "It looks like btcv"),
    ],
)
def test_wrong_calls(
    tmp_path: Path,
    capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    mini.write_btcv(tmp_path / "in", (1,))
    assert run(["import", *arguments]) == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_phantom(tmp_path: Path, capsys: Output) -> None:
    arguments = ["--cases", "ct=1", "--level", "easy", "--seed", "3", "--workers", "1"]
    assert run(["import", "phantom", str(tmp_path / "a"), *arguments]) == 0
    assert "Made 1 of ct." in capsys.readouterr().out
    write_phantom(tmp_path / "b", {"ct": 1}, level="easy", seed=3, workers=1)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


WRITERS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "mmwhs": (mini.write_mmwhs, ("ct", "mr")),
    "btcv": (mini.write_btcv, ("ct",)),
    "chaos": (write_chaos, ("t1", "t2")),
    "amos": (mini.write_amos, ("ct", "mr")),
    "totalsegmentator": (mini.write_totalsegmentator, ("ct",)),
    "decathlon": (partial(mini.write_decathlon, channels=("T2", "ADC")), ("t2",)),
    "bids": (mini.write_bids, ("t1w",)),
    "manifest": (mini.write_manifest, ("mr",)),
    "nnunet": (mini.write_nnunet, ("t1",)),
}


def test_every_layout_is_there() -> None:
    assert set(WRITERS) == set(IMPORTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_from_the_archive_through_one_epoch(tmp_path: Path, name: str) -> None:
    """Import, check, prepare and train for one pass, as a user would type it."""
    write, keys = WRITERS[name]
    archive, cache, made = write(tmp_path / "in"), tmp_path / "cache", tmp_path / "sets"
    assert run(["import", name, str(archive), str(made), "--workers", "1"]) == 0
    data = [f"--data={key}={made / key}" for key in keys]
    assert run(["check", *data]) == 0
    settings = ["--config", str(write_settings(tmp_path / "toy.toml")), "data.split=[0.5,0,0.5]"]
    settings += ["train.batch_size=8", "train.steps=6", "train.steps_per_epoch=none"]
    assert run(["prepare", *data, *settings, "--out", str(cache)]) == 0
    assert all(any(key in file.parts for file in cache.rglob("*.npy")) for key in keys)
    assert run(["train", *data, *settings, f"--prepared={cache}", f"--out={tmp_path / 'run'}"]) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    epochs = [line["epoch"] for line in log if line["kind"] == "step"]
    assert epochs[0] < 1 <= epochs[-1]
    assert (tmp_path / "run" / "metrics.csv").is_file()
