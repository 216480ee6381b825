"""Reading whole files with one clear error, and file names that are safe to print."""

import stat
from pathlib import Path

from unpaired.errors import DataError


def shown(path: Path | str) -> str:
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
            raise DataError(f"{shown(path)} is {kind}; give the path of an image file.")
        if status.st_size > limit:
            raise DataError(
                f"{shown(path)} has {status.st_size} bytes, more than the limit of {limit}; "
                "crop or split the image."
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise DataError(
                f"{shown(path)} is a link to {shown(path.readlink())}, which does not exist; "
                "mend the link or fetch the file."
            ) from error
        raise DataError(f"{shown(path)} does not exist; check the path.") from error
    except PermissionError as error:
        raise DataError(
            f"{shown(path)} may not be read by this user; change its permissions."
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {shown(path)}: {reason}; replace the file.") from error
