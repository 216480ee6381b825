"""Temporaries: their names say who writes them, so that those of ended processes can be swept."""

import contextlib
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

OLD = ".old"
"""Ends the name of a folder that stands aside while another takes its place."""
OTHER_MACHINE_SECONDS = 24 * 3600
"""A temporary of another machine, whose processes cannot be asked, is swept when so old."""
_START_SECONDS = 5
"""Two starts of a process that differ by less are one: clocks are set while a process runs."""
_LONGEST = 100
_NAME = re.compile(
    r"\.(?P<of>.*)\.(?P<pid>[0-9a-f]+)-(?P<start>[0-9a-f]+)-(?P<machine>[0-9a-f]{6})-[0-9a-f]{6}"
    r"(?P<end>\..*)?",
    re.DOTALL,
)


def temporary_beside(path: Path) -> Path:
    """The name of a temporary for `path`, hidden, in its folder, with its suffixes, since writers
    look at them: `a.nii.gz` -> `.a.<process>-<its start>-<machine>-<random>.nii.gz`."""
    stem, *suffixes = path.name.split(".", 1)
    end = "".join(f".{suffix}" for suffix in suffixes)
    return path.with_name(f".{stem[:_LONGEST]}.{_writer()}-{secrets.token_hex(3)}{end}")


def temporary_folder_beside(path: Path) -> Path:
    """As `temporary_beside`; the folder's whole name is kept."""
    return path.with_name(f".{path.name}.{_writer()}-{secrets.token_hex(3)}")


def sweep(folder: Path, deep: bool = False) -> int:
    """Remove the temporaries in a folder whose process has ended; how many there were.

    Those of living processes stay. A folder that stood aside when its process was killed takes its
    name again, if nothing else has. What cannot be removed is left.

    Args:
        deep: in the folders below, too; links are not followed.
    """
    swept = 0
    for path in list(_below(folder) if deep else _children(folder)):
        if _is_left_over(path):
            swept += 1
            _remove(path)
    return swept


def is_temporary(name: str) -> bool:
    """Whether a file of this name is a temporary of ours."""
    return _NAME.fullmatch(name) is not None


def _below(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            if name.startswith("."):
                yield Path(place, name)
        folders[:] = [name for name in folders if not is_temporary(name)]


def _children(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from folder.glob(".*")


def _is_left_over(path: Path) -> bool:
    name = _NAME.fullmatch(path.name)
    if name is None:
        return False
    if name["machine"] != _machine():
        return _is_old(path)
    return not is_running(int(name["pid"], 16), int(name["start"], 16))


def is_running(pid: int, start: int) -> bool:
    """Whether the process of this number, started at that second, is still there."""
    import psutil  # here, since not every command needs it

    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - start) <= _START_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it is there, and another user's
        return True


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > OTHER_MACHINE_SECONDS
    except OSError:
        return False


def _remove(path: Path) -> None:
    name = _NAME.fullmatch(path.name)
    with contextlib.suppress(OSError):
        if not path.is_dir() or path.is_symlink():
            path.unlink()
        elif name and name["end"] == OLD and not (path.parent / name["of"]).exists():
            path.rename(path.parent / name["of"])
        else:
            shutil.rmtree(path, ignore_errors=True)


def _writer() -> str:
    import psutil

    return f"{os.getpid():x}-{int(psutil.Process().create_time()):x}-{_machine()}"


def _machine() -> str:
    """This machine; where containers number their processes anew, this container."""
    about = platform.node()
    with contextlib.suppress(OSError):
        about += str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(about.encode()).hexdigest()[:6]
