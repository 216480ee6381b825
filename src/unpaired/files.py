"""Files that appear under their final name only when whole; JSON that is read strictly."""

import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unpaired.errors import DataError, ResourceError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and move it into place.

    The suffixes are kept (`a.nii.gz` -> `.a.<random>.nii.gz`), since writers look at them.

    Raises:
        ResourceError: the folder cannot be written or the disk is full.
    """
    stem, *suffixes = path.name.split(".", 1)
    temporary = path.with_name(
        f".{stem}.{secrets.token_hex(4)}" + "".join(f".{s}" for s in suffixes)
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ResourceError(
            f"cannot write {path}: {error.strerror or error}. "
            "Choose a folder that exists, is yours to write, and has space left."
        ) from error
    finally:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`; on success it is flushed and takes that name, and what
    was there is removed. Whatever ends the block early, `out` is as it was.

    Raises:
        ResourceError: it cannot be written.
    """
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
            f"cannot write {printable(out)}: {error.strerror or error}. "
            "Choose a folder that is yours to write and has space left."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_name(temporary: Path, out: Path) -> None:
    """Move into place; what is there stands aside until that is done."""
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


def write_text(path: Path, text: str) -> None:
    """Write `text` whole or not at all; undecodable bytes of file names are escaped."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as strict JSON (not-a-number becomes null), whole or not at all."""
    write_text(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_json(path: Path) -> Any:
    """Read JSON strictly: no duplicate keys, no NaN; a byte-order mark is skipped.

    Raises:
        DataError: the file is missing, unreadable or not strict JSON.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in items:
            if key in found:
                raise ValueError(f"the key {key!r} appears twice")
            found[key] = item
        return found

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not valid JSON: {error}. Mend the file and try again."
        ) from error


# Reading whole files with one clear error, and file names that are safe to print.


def printable(path: Path | str) -> str:
    """The name as one printable line: newlines, control and undecodable bytes are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))


def is_file(path: Path) -> bool:
    """Whether an ordinary file is there; False for a name that no file can have."""
    try:
        return path.is_file()
    except OSError:  # such as a name of 300 characters
        return False


def read_bytes(path: Path, limit: int) -> bytes:
    """The whole file, or a `DataError` naming it and what to do.

    Refused: missing, a dangling link or a loop of links, a folder, a pipe or device, no
    permission, more than `limit` bytes.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not an ordinary file"
            raise DataError(f"{printable(path)} is {kind}; give the path of an image file.")
        if status.st_size > limit:
            raise DataError(
                f"{printable(path)} has {status.st_size} bytes, more than the limit of {limit}; "
                "crop or split the image."
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise DataError(
                f"{printable(path)} is a link to {printable(path.readlink())}, which does not "
                "exist; mend the link or fetch the file."
            ) from error
        raise DataError(f"{printable(path)} does not exist; check the path.") from error
    except PermissionError as error:
        raise DataError(
            f"{printable(path)} may not be read by this user; change its permissions."
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {printable(path)}: {reason}; replace the file.") from error
