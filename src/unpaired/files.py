"""Files that appear under their final name only when whole; JSON that is read strictly."""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from unpaired.errors import DataError, ResourceError, UnpairedError
from unpaired.leftovers import OLD, sweep, temporary_beside, temporary_folder_beside
from unpaired.names import printable

SEAL = "checksum"
"""The key of a JSON file's own checksum."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and move it into place.

    The suffixes are kept, since writers look at them (`unpaired.leftovers` has the names).

    Raises:
        ResourceError: the folder cannot be written or the disk is full.
    """
    temporary = temporary_beside(path)
    try:
        make_folder(path.parent)
        yield temporary
        put(temporary, path)
    except Exception as error:
        if (cause := _of_writing(error)) is None:
            raise
        raise cannot_write(path, cause) from error
    finally:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`; on success it is flushed and takes that name, and what
    was there is removed. Whatever ends the block early, `out` is as it was.

    Raises:
        ResourceError: it cannot be written.
    """
    sweep(out.parent)
    temporary = temporary_folder_beside(out)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.rglob("*"):
            _flush_folder(path) if path.is_dir() else _flush(path)
        _flush_folder(temporary)
        _take_name(temporary, out)
        _flush_folder(out.parent)
    except Exception as error:
        if (cause := _of_writing(error)) is None:
            raise
        raise cannot_write(out, cause) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_name(temporary: Path, out: Path) -> None:
    """Move into place; what is there stands aside until that is done."""
    if not out.exists():
        temporary.rename(out)
        return
    aside = temporary.with_name(temporary.name + OLD)
    out.rename(aside)
    try:
        temporary.rename(out)
    except BaseException:
        aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def put(temporary: Path, path: Path) -> None:
    """Move a finished file to its name so that a loss of power keeps either the old or the new."""
    _flush(temporary)
    temporary.replace(path)
    _flush_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, so that they outlast a loss of power."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _flush_folder(folder.parent)


def _flush(path: Path) -> None:
    with suppress(PermissionError), path.open("r+b") as file:  # Windows flushes what it may write
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """The names in a folder; Windows opens no folder, and not every file system flushes one."""
    if os.name == "nt":
        return
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def cannot_write(path: Path, error: OSError) -> ResourceError:
    """What to tell of a write that failed: the path, the cause, and the free space of its disk."""
    reason, name = error.strerror or str(error), printable(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or _few_bytes_written(error):
        full = "your quota is used up" if error.errno == errno.EDQUOT else "the disk is full"
        return ResourceError(
            f"cannot write {name}: {full} ({reason}; {_free(path)}). Make room, or choose a folder "
            "on another disk, and run the same command again."
        )
    if error.errno == errno.EFBIG:
        return ResourceError(
            f"cannot write {name}: {reason}; it is larger than this system or a limit on the size "
            "of files (ulimit -f) allows. Raise the limit, or choose another disk, and run the "
            "same command again."
        )
    return ResourceError(
        f"cannot write {name}: {reason}. "
        "Choose a folder that exists, is yours to write, and has space left."
    )


def _few_bytes_written(error: OSError) -> bool:
    """NumPy says "20 requested and 10 written" of a full disk."""
    return error.errno is None and "written" in str(error)


def _free(path: Path) -> str:
    place = next((p for p in path.absolute().parents if p.is_dir()), Path())
    try:
        return f"{shutil.disk_usage(place).free / 2**20:.1f} MiB are free in {printable(place)}"
    except OSError:
        return f"the free space of {printable(place)} is not known"


def _of_writing(error: Exception) -> OSError | None:
    """The error of the system behind one; libraries in other languages raise their own kinds."""
    if isinstance(error, OSError):
        return error
    if isinstance(error, UnpairedError):
        return None
    told = re.search(r"\(os error (\d+)\)", str(error))  # safetensors, in Rust
    if told:
        return OSError(int(told[1]), os.strerror(int(told[1])))
    if isinstance(error, RuntimeError) and "write" in str(error) and "PytorchStream" in str(error):
        return OSError(None, f"{str(error).splitlines()[0]} bytes were not written")
    return None


def write_text(path: Path, text: str) -> None:
    """Write `text` whole or not at all; undecodable bytes of file names are escaped."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: Path, value: Any, *, seal: bool = False) -> None:
    """Write `value` as strict JSON (not-a-number becomes null), whole or not at all.

    Args:
        seal: add a checksum to an object that nobody edits by hand; `read_json` then refuses it
            once it has changed.
    """
    write_text(path, json_text(sealed(value) if seal else value))


def json_text(value: Any) -> str:
    """What `write_json` writes."""
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """The object with its checksum, as `read_json` looks for it."""
    return {**value, SEAL: _digest(_finite(value))}


def _digest(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


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
        DataError: the file is missing, unreadable or not strict JSON, or changed since it was
            written with a checksum.
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
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not valid JSON: {error}. Mend the file and try again."
        ) from error
    if isinstance(value, dict) and str(value.get(SEAL)).startswith("sha256:"):
        told = value.pop(SEAL)
        if told != _digest(value):
            raise DataError(
                f"{printable(path)} changed since it was written: its checksum does not match. "
                "Restore it from a copy, or run the command that wrote it again."
            )
    return value


# Reading whole files with one clear error.


def is_file(path: Path) -> bool:
    """Whether an ordinary file is there; False for a name that no file can have."""
    try:
        return path.is_file()
    except OSError:  # such as a name of 300 characters
        return False


def sha256_of(path: Path) -> str:
    """Of the file's bytes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise DataError(f"{printable(path)} does not exist; check the path.") from error
    except OSError as error:
        raise DataError(f"cannot read {printable(path)}: {error.strerror or error}.") from error


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
