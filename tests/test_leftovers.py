"""Temporaries of killed processes go with the next command; those of living ones stay."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unpaired import leftovers
from unpaired.files import atomic, atomic_folder
from unpaired.leftovers import is_running, sweep, temporary_beside, temporary_folder_beside

WRITE = """
import os, sys, time
from pathlib import Path
from unpaired.files import atomic, atomic_folder
write = atomic_folder if sys.argv[2] == "folder" else atomic
with write(Path(sys.argv[1])) as half:
    (half / "b.txt" if half.is_dir() else half).write_text("half")
    print("half", flush=True)
    time.sleep(60)
"""


def writing(path: Path, kind: str) -> "subprocess.Popen[str]":
    """A process that is half through writing `path`."""
    call = [sys.executable, "-c", WRITE, str(path), kind]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    return process


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_of_a_living_process_it_stays_of_a_killed_one_it_goes(tmp_path: Path, kind: str) -> None:
    inside = tmp_path / "run" / "checkpoints"
    process = writing(inside / "last.pt", kind)
    try:
        assert len(list(inside.iterdir())) == 1
        assert sweep(tmp_path, deep=True) == 0 and len(list(inside.iterdir())) == 1
    finally:
        process.kill()
        process.wait()
    assert sweep(tmp_path) == 0, "not deep"
    assert sweep(tmp_path, deep=True) == 1 and not list(inside.iterdir())


def test_a_zombie_writes_no_more(tmp_path: Path) -> None:
    process = writing(tmp_path / "a.txt", "file")
    process.kill()
    time.sleep(0.2)  # nobody has waited for it yet
    assert sweep(tmp_path) == 1
    process.wait()


def test_hidden_files_of_others_are_never_swept(tmp_path: Path) -> None:
    """Such as a copy with a date, which looks like the random part of a name."""
    long_ago = time.time() - leftovers.OTHER_MACHINE_SECONDS - 60
    names = [".scan.20240101.nii.gz", ".notes.deadbeef.txt", ".a.1f-66f3a1b2.npy", ".lock"]
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (long_ago, long_ago))
    assert sweep(tmp_path, deep=True) == 0
    assert {p.name for p in tmp_path.iterdir()} == set(names)


def test_own_temporaries_and_other_files_stay(tmp_path: Path) -> None:
    names = [".lock", ".hidden.nii.gz", "a.1f-66f3a1b2-0123ab-0123ab", ".a.0123abcd.npy", ".git"]
    for name in names:
        (tmp_path / name).touch()
    with atomic(tmp_path / "a.txt") as half:
        half.write_text("x")
        assert sweep(tmp_path, deep=True) == 0 and half.is_file()
    assert {p.name for p in tmp_path.iterdir()} == {*names, "a.txt"}


def test_a_number_that_was_given_out_again_is_another_process(tmp_path: Path) -> None:
    now = temporary_beside(tmp_path / "a.nii.gz").name
    assert now.startswith(".a.") and now.endswith(".nii.gz")
    pid, start, machine, _ = now.split(".")[2].split("-")
    assert int(pid, 16) == os.getpid() and is_running(os.getpid(), int(start, 16))
    assert not is_running(os.getpid(), int(start, 16) - 100)
    earlier = tmp_path / f".a.{pid}-{int(start, 16) - 100:x}-{machine}-0123ab.nii.gz"
    earlier.touch()
    assert sweep(tmp_path) == 1 and not earlier.exists()


def test_of_another_machine_only_old_ones_go(tmp_path: Path) -> None:
    for name in (".a.1-66f3a1b2-ffffff-0123ab.pt", ".b.1-66f3a1b2-ffffff-0123ab"):
        (tmp_path / name).touch()
    assert sweep(tmp_path) == 0
    long_ago = time.time() - leftovers.OTHER_MACHINE_SECONDS - 60
    for path in tmp_path.iterdir():
        os.utime(path, (long_ago, long_ago))
    assert sweep(tmp_path) == 2 and not list(tmp_path.iterdir())


def test_a_folder_that_stood_aside_takes_its_name_again(tmp_path: Path) -> None:
    """Killed between the two renames: the old export is there under another name only."""
    out = tmp_path / "my.export"
    dead = temporary_folder_beside(out).name.replace(f"{os.getpid():x}-", "ffffff-")
    aside = tmp_path / (dead + leftovers.OLD)
    aside.mkdir()
    (aside / "model.txt").write_text("good")
    assert sweep(tmp_path) == 1
    assert (out / "model.txt").read_text() == "good"
    aside.mkdir()
    assert sweep(tmp_path) == 1 and not aside.exists()
    assert (out / "model.txt").read_text() == "good"


def test_an_export_sweeps_beside_itself(tmp_path: Path) -> None:
    process = writing(tmp_path / "out", "folder")
    process.kill()
    process.wait()
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_long_name_has_a_temporary_too(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 240 + ".nii.gz")
    with atomic(path) as half:
        half.write_text("x")
    assert path.read_text() == "x"
