"""Files that reach the disk whole, or one sentence that says why not."""

import errno
import json
import os
import re
from pathlib import Path

import pytest

from unpaired import files
from unpaired.errors import DataError, ResourceError
from unpaired.files import atomic, atomic_folder, read_json, write_json, write_text


def test_a_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "scan_\udce9 é\n")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "scan_\\udce9 é\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), r"the disk is full .*MiB are free in"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), r"your quota is used up .*MiB are free"),
        (OSError("67068 requested and 30656 written"), r"the disk is full .*MiB are free in"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), r"a limit on the size of files"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), "Permission denied. Choose a folder"),
        (ValueError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (
            RuntimeError("PytorchStreamWriter failed writing file data/2: file write failed"),
            "the disk is full",
        ),
    ],
)
def test_a_failed_write_is_told_with_path_and_free_space(
    tmp_path: Path, error: Exception, words: str
) -> None:
    for write in (atomic, atomic_folder):
        with pytest.raises(ResourceError) as told, write(tmp_path / "a.npy"):
            raise error
        text = str(told.value)
        assert re.search(words, text) and str(tmp_path / "a.npy") in text
        assert "requested" not in text or "disk is full" in text
    assert list(tmp_path.iterdir()) == []


def test_other_faults_stay_what_they_are(tmp_path: Path) -> None:
    for write in (atomic, atomic_folder):
        with pytest.raises(ValueError, match="odd"), write(tmp_path / "a"):
            raise ValueError("odd")


@pytest.mark.unix
def test_the_folder_is_flushed_after_the_file_and_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    flush, rename, mkdir = os.fsync, os.replace, Path.mkdir

    def flushed(number: int) -> None:
        what = Path(f"/proc/self/fd/{number}").resolve() if Path("/proc").is_dir() else None
        name = what.name if what else "?"
        done.append("flush " + ("file" if name.startswith(".a") or name == "b.txt" else name))
        flush(number)

    def made(self: Path, *args: object, **more: object) -> None:
        mkdir(self, *args, **more)  # type: ignore[arg-type]
        done.append(f"mkdir {self.name}")

    real = Path.replace
    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "mkdir", made)
    monkeypatch.setattr(Path, "replace", lambda a, b: (done.append("rename"), real(a, b))[1])
    (tmp_path / "top").mkdir()
    done.clear()
    write_text(tmp_path / "top" / "new" / "a.txt", "x")
    assert done == ["mkdir new", "flush top", "flush file", "rename", "flush new"]
    assert rename is os.replace


@pytest.mark.unix
def test_a_folder_is_flushed_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real = Path.rename
    monkeypatch.setattr(files, "_flush", lambda path: done.append(path.name))
    monkeypatch.setattr(files, "_flush_folder", lambda path: done.append(path.name))
    monkeypatch.setattr(Path, "rename", lambda a, b: (done.append("rename"), real(a, b))[1])
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "in").mkdir()
        (folder / "in" / "b.txt").write_text("x")
    assert set(done[:3]) == {"in", "b.txt", done[2]} and done[2].startswith(".out.")
    assert done[3:] == ["rename", tmp_path.name]


def test_a_sealed_file_that_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"scale": [0.1, 1 / 3, float("nan")], "slices": {3: [1, 2]}, "name": "é\udce9"}
    write_json(path, value, seal=True)
    back = {"scale": [0.1, 1 / 3, None], "slices": {"3": [1, 2]}, "name": "é\udce9"}
    assert read_json(path) == back
    write_json(path, value)
    assert read_json(path) == back, "a file without a checksum is read as ever"
    write_json(path, value, seal=True)
    text = path.read_text()
    for old, new in (("0.1", "0.2"), ('"3"', '"4"'), ("null", "0.0"), ("é".encode("unicode_escape")
                     .decode().replace("x", "u00"), "e")):  # fmt: skip
        path.write_text(text.replace(old, new, 1))
        assert path.read_text() != text, old
        with pytest.raises(DataError, match=r"a\.json changed since it was written"):
            read_json(path)


def test_a_foreign_checksum_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"checksum": "md5:1234", "x": 1}))
    assert read_json(tmp_path / "a.json") == {"checksum": "md5:1234", "x": 1}
