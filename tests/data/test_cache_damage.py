"""Prepared cases that are not what was written are prepared anew, and one line says so."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from small_sets import plan, write_set
from unpaired import files
from unpaired.data.cache import open_prepared
from unpaired.data.prepare import prepare
from unpaired.datasets.dataset import Dataset
from unpaired.datasets.sources import open_dataset
from unpaired.errors import DataError, ResourceError


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Dataset]:
    return {"ct": open_dataset("ct", write_set(tmp_path / "raw", [(30, 32, 8)] * 2))}


@pytest.fixture
def cache(data: dict[str, Dataset], tmp_path: Path) -> Path:
    prepare(data, plan(), tmp_path / "out")
    return tmp_path / "out"


def invert(path: Path, count: int = 4000) -> None:
    """As many bytes in the middle, the size as it was."""
    content = bytearray(path.read_bytes())
    start = max(128, (len(content) - count) // 2)
    part = content[start : start + count]
    content[start : start + count] = bytes(b ^ 255 for b in part)
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def one_digit(path: Path) -> None:
    """Still JSON, another scale of the intensities."""
    text = path.read_text()
    at = text.index('"scale"') + text[text.index('"scale"') :].index(".") + 1
    path.write_text(text[:at] + ("1" if text[at] != "1" else "2") + text[at + 1 :])
    json.loads(path.read_text())


DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "image inverted": ("ct/a0.npy", invert),
    "label inverted": ("ct/a0.label.npy", invert),
    "one byte of the label": ("ct/a0.label.npy", lambda path: invert(path, 1)),
    "image cut short": ("ct/a0.npy", shorten),
    "image empty": ("ct/a0.npy", lambda path: path.write_bytes(b"")),
    "image missing": ("ct/a0.npy", Path.unlink),
    "label missing": ("ct/a0.label.npy", Path.unlink),
    "record cut short": ("ct/a0.json", shorten),
    "record with another number": ("ct/a0.json", one_digit),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_case_is_prepared_anew_and_said(
    cache: Path, data: dict[str, Dataset], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = {p.name: p.read_bytes() for p in (cache / "ct").iterdir()}
    prepare(data, plan(), cache)
    assert caplog.text == ""
    name, damage = DAMAGE[what]
    damage(cache / name)
    prepare(data, plan(), cache)
    assert {p.name: p.read_bytes() for p in (cache / "ct").iterdir()} == good
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith("prepared anew: ct/a0 (") and "\n" not in said and "ct/a1" not in said
    assert Path(name).name.split(".")[0] in said


def test_all_that_is_wrong_stands_in_one_line(
    cache: Path, data: dict[str, Dataset], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a0", "a1"):
        invert(cache / f"ct/{name}.npy")
    prepare(data, plan(), cache)
    assert len(caplog.records) == 1
    assert "ct/a0 (" in caplog.text and "ct/a1 (" in caplog.text


def test_a_cache_of_an_earlier_version_is_prepared_anew(
    cache: Path, data: dict[str, Dataset], caplog: pytest.LogCaptureFixture
) -> None:
    path = cache / "ct/a0.json"
    record = json.loads(path.read_text())
    del record["sha256"], record["checksum"]
    path.write_text(json.dumps(record))
    prepare(data, plan(), cache)
    assert "has no checksums (an earlier version wrote it)" in caplog.text
    assert "sha256" in json.loads(path.read_text())


def test_a_damaged_index_or_plan_is_written_anew(cache: Path, data: dict[str, Dataset]) -> None:
    for name, old, new in (("prepared.json", '"a1"', '"a0"'), ("plan.json", "1.0", "2.0")):
        path = cache / name
        text = path.read_text()
        path.write_text(text.replace(old, new, 1))
        assert path.read_text() != text
        with pytest.raises(DataError, match=f"{name.split('.')[0]}.json changed since"):
            open_prepared(cache)
        prepare(data, plan(), cache)
        assert path.read_text() == text


def test_who_reads_the_arrays_later_can_ask(cache: Path) -> None:
    case = open_prepared(cache).cases["ct"][0]
    case.verify()
    invert(cache / "ct/a0.label.npy")
    with pytest.raises(DataError, match=r"a0\.label\.npy is damaged"):
        case.verify()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As a disk that is full after so many bytes of a file."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.unix
@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_full_disk_is_said_as_one(data: dict[str, Dataset], tmp_path: Path, size: int) -> None:
    with files_of_at_most(size), pytest.raises(ResourceError) as told:
        prepare(data, plan(), tmp_path / "out")
    text = str(told.value)
    assert "a0.npy" in text and "requested" not in text
    assert "File too large" in text and "ulimit -f" in text
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    prepare(data, plan(), tmp_path / "out")


def test_no_space_names_the_path_and_what_is_free(
    data: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "put", full)
    with pytest.raises(ResourceError, match=r"a0\.npy: the disk is full .* MiB are free in"):
        prepare(data, plan(), tmp_path / "out")


def test_arrays_are_as_numpy_writes_them(cache: Path, tmp_path: Path) -> None:
    for case in open_prepared(cache).cases["ct"]:
        for array, name in ((case.image(), "i"), (case.label(), "l")):
            assert array is not None
            np.save(tmp_path / f"{name}.npy", np.asarray(array), allow_pickle=False)
            stored = Path(str(array.filename)).read_bytes()  # type: ignore[attr-defined]
            assert stored == (tmp_path / f"{name}.npy").read_bytes()
