"""Every way the program may end: one message, and an exit code that says whose turn it is."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from unpaired import __version__
from unpaired.cli import app as program
from unpaired.cli.app import code_of, run
from unpaired.errors import DataError, Interrupted, ResourceError, UsageError

Output = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (UsageError("say how"), 2, "say how"),
        (DataError("bad file"), 3, "bad file"),
        (ResourceError("no disk"), 4, "no disk"),
        (Interrupted("saved"), 5, "saved"),
        (KeyboardInterrupt(), 5, "The same command goes on"),
        (typer.Abort(), 5, "The same command goes on"),
        (MemoryError(), 4, "memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 4, "memory ran out"),
        (RuntimeError("CUDA error: out of memory"), 4, "memory ran out"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.nii"),
            4,
            "cannot use a.nii: No space",
        ),
        (PermissionError(errno.EACCES, "Permission denied"), 4, "Permission denied"),
        (typer.BadParameter("not a number"), 2, "not a number"),
        (ZeroDivisionError("by zero"), 1, "fault of the program: ZeroDivisionError: by zero"),
        (AssertionError(), 1, "AssertionError\nAdd --debug"),
        (RuntimeError("odd"), 1, "RuntimeError: odd"),
        (OSError(errno.ENOENT, "No such file"), 1, "No such file"),
    ],
)
def test_exit_codes(error: BaseException, code: int, part: str, capsys: Output) -> None:
    assert code_of(error) == code
    out, err = capsys.readouterr()
    assert part in err
    assert out == ""
    assert "Traceback" not in err


def test_a_gpu_without_memory_is_known_by_name(capsys: Output) -> None:
    torch = pytest.importorskip("torch")
    assert code_of(torch.OutOfMemoryError("17 GiB")) == 4
    assert "batch_size" in capsys.readouterr().err


def test_leaving_keeps_its_code(capsys: Output) -> None:
    assert [code_of(SystemExit(3)), code_of(SystemExit("odd"))] == [3, 1]
    assert capsys.readouterr().err == ""


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("deep inside")

    monkeypatch.setattr(program, "app", broken)
    assert run(["report", "x"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert run(["report", "x", "--debug"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "deep inside" in err


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["trian"], 2, ["No such command", "train"]),
        (["train"], 2, ["--out", "unpaired train --help"]),
        (["train", "--out", "r"], 2, ["no data", "--data NAME=FOLDER"]),
        (["train", "--out", "r", "--data", "ct"], 2, ["write NAME=FOLDER"]),
        (["train", "--out", "r", "--data", "ct="], 2, ["write NAME=FOLDER"]),
        (["train", "--out", "r", "--data", "1 a=x"], 2, ["'1 a'", "letters, digits"]),
        (["train", "--out", "r", "--data", "a=x", "--data", "a=y"], 2, ["a is given twice"]),
        (["train", "--out", "r", "--data", "a=x", "stepz=1"], 2, ["Did you mean steps?"]),
        (["train", "--out", "r", "--data", "a=x", "--preset", "dmo"], 2, ["Did you mean demo?"]),
        (["train", "--out", "r", "--data", "a=x", "--config", "n.toml"], 2, ["n.toml", "exist"]),
        (["train", "--out", "r", "--data", "a=x", "--folds", "1"], 2, ["--folds"]),
        (["train", "--out", "r", "--data", "a=nowhere"], 3, ["nowhere does not exist"]),
        (["prepare", "--out", "c", "--data", "a=nowhere"], 3, ["nowhere does not exist"]),
        (["check"], 2, ["--data NAME=FOLDER", "PATH"]),
        (["check", "x", "--data", "a=x"], 2, ["either"]),
        (["check", "nowhere"], 3, ["nowhere does not exist"]),
        (["check", "--data", "a=nowhere"], 3, ["nowhere does not exist"]),
        (["predict", "nowhere.nii", "--model", "m", "--out", "o.nii"], 3, ["nowhere.nii does not"]),
        (["predict", "x.nii"], 2, ["--model"]),
        (["evaluate"], 2, ["either a RUN"]),
        (["evaluate", "--labels", "x"], 2, ["together"]),
        (["evaluate", "r", "--labels", "x"], 2, ["either a RUN"]),
        (["evaluate", "nowhere"], 2, ["nowhere is not a run folder"]),
        (["report", "nowhere"], 2, ["nowhere is not a run folder"]),
        (["demo", "train.steps=none"], 2, ["train.steps"]),
        (["demo", "--cases", "1"], 2, ["--cases"]),
    ],
)
def test_wrong_calls(
    arguments: list[str],
    code: int,
    parts: list[str],
    capsys: Output,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == code
    err = capsys.readouterr().err
    for text in parts:
        assert text in err
    assert "Traceback" not in err
    left = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"]
    assert not left, "a call that failed at once must leave nothing behind"


def test_version_and_help(capsys: Output) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"unpaired {__version__}"
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in ("demo", "check", "prepare", "train", "predict", "evaluate", "report"):
        assert f"\n  {verb}" in text
        assert run([verb, "--help"]) == 0
        assert f"unpaired {verb}" in capsys.readouterr().out


def test_main_leaves_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["unpaired", "report", "nowhere"])
    with pytest.raises(SystemExit) as left:
        program.main()
    assert left.value.code == 2


def test_ctrl_c_is_interrupted_and_resumable(
    monkeypatch: pytest.MonkeyPatch, capsys: Output, tmp_path: Path
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unpaired.report.write_report", stop)
    assert run(["report", str(tmp_path)]) == 5
    assert "The same command goes on" in capsys.readouterr().err


@pytest.mark.unix
@pytest.mark.skipif(os.access("/", os.W_OK), reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(
    tmp_path: Path, capsys: Output, toy: Callable[[str], Path]
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert run(["prepare", "--out", str(closed / "c"), "--data", f"aa={toy('aa')}"]) == 4
    assert "closed" in capsys.readouterr().err


def test_a_file_where_the_folder_should_be(
    tmp_path: Path, capsys: Output, toy: Callable[[str], Path]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert run(["prepare", "--out", str(file / "c"), "--data", f"aa={toy('aa')}"]) == 4
    assert str(file) in capsys.readouterr().err


HEAVY = {"torch", "monai", "matplotlib", "scipy", "nibabel", "numpy", "joblib"}


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"], ["trian"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom unpaired.cli.app import run\n"
        f"run({arguments!r})\nprint('LOADED', *sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert "unpaired.cli.app" in loaded
    assert not loaded & HEAVY
    assert "unpaired.files" not in loaded  # and what it takes: a fifth of the time of help
