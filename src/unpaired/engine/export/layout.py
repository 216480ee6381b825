"""Names of what an export holds, and folders that appear under their name only when whole."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unpaired.data.paths import shown
from unpaired.errors import DataError, ResourceError, UsageError
from unpaired.files import read_json

ONNX, PT2, PREPROCESSING = "model.onnx", "model.pt2", "preprocessing.json"
RECORD, CARD = "export.json", "README.md"
RECORD_FORMAT = "unpaired-export"


def parts_of(folder: Path) -> dict[str, Path]:
    """Modality -> folder, of a folded export that has one a modality; empty for anything else.

    Raises:
        DataError: its record is damaged, or a part is missing.
    """
    path = folder / RECORD
    if not path.is_file():
        return {}
    parts = read_record(folder).get("parts", [])
    if not isinstance(parts, list) or not all(_is_plain(name) for name in parts):
        raise DataError(f"{shown(path)} is not what an export writes. Export again.")
    for name in parts:
        if not (folder / name).is_dir():
            raise DataError(
                f"{shown(folder)} should hold the folder {name}. Export again, or name one of its "
                "folders."
            )
    return {name: folder / name for name in parts}


def read_record(folder: Path) -> dict[str, Any]:
    """The content of export.json.

    Raises:
        DataError: missing, damaged, foreign, or newer.
    """
    found = read_json(folder / RECORD)
    if not isinstance(found, dict) or found.get("format") != RECORD_FORMAT:
        raise DataError(f"{shown(folder / RECORD)} is not what an export writes. Export again.")
    if found.get("schema") != 1:
        raise DataError(f"{shown(folder / RECORD)} is of a newer version. Update unpaired.")
    return found


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier()


@contextmanager
def whole_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `out`; on success it is flushed and takes that name.

    Whatever ends the block early, `out` is as it was.

    Args:
        overwrite: replace an earlier export.

    Raises:
        UsageError: `out` exists and may not be replaced.
        ResourceError: it cannot be written.
    """
    check_free(out, overwrite)
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("r+b") as file:  # Windows flushes only what may be written
                    os.fsync(file.fileno())
        _take_name(temporary, out)
    except OSError as error:
        raise ResourceError(
            f"cannot write {shown(out)}: {error.strerror or error}. "
            "Choose a folder that is yours to write and has space left."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(out: Path, overwrite: bool) -> None:
    """Raise UsageError where `out` holds something that this export may not replace."""
    if not out.exists() and not out.is_symlink():
        return
    if out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{shown(out)} exists. Choose another folder, or give --overwrite.")
    if out.is_symlink() or not (out / RECORD).is_file():
        raise UsageError(
            f"{shown(out)} was not written by an export, so it is not replaced. "
            "Choose another folder, or remove it yourself."
        )


def _take_name(temporary: Path, out: Path) -> None:
    """Move into place; an earlier export stands aside until that is done."""
    if not out.exists():
        temporary.rename(out)
        return
    aside = temporary.with_name(temporary.name + ".old")
    out.rename(aside)
    try:
        temporary.rename(out)
    except BaseException:
        aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)
