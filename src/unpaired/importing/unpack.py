"""Opening what was downloaded: a folder, or a .zip, .tar, .tar.gz, .tgz that is unpacked safely."""

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from unpaired.datasets.nnunet import need_folder
from unpaired.errors import DataError, ResourceError
from unpaired.files import cannot_write, make_folder, printable, put
from unpaired.leftovers import temporary_beside
from unpaired.progress import Progress

MAX_BYTES = 512 * 2**30
"""No archive unpacks to more than this: the largest known ones have a tenth of it."""
MAX_MEMBERS = 2_000_000
_SPARE_BYTES = 2**30
_CHUNK = 1 << 20
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
)


@contextmanager
def unpacked(
    archive: Path, scratch: Path, limit: int = MAX_BYTES, progress: Progress | None = None
) -> Iterator[Path]:
    """Yield the archive as a folder; what had to be unpacked lies in `scratch` and stays there.

    A second call goes on with the members that are missing.

    Raises:
        DataError: no such file, not an archive, damaged, encrypted, or a member that would be
            written elsewhere, is a link, or makes more than `limit` bytes.
        ResourceError: the disk has no room.
    """
    if archive.is_dir() or not archive.exists():
        need_folder(archive)
        yield archive
        return
    if archive.suffix.lower() in (".csv", ".tsv"):  # a manifest, which is its own layout
        yield archive
        return
    try:
        unpack = _opener(archive)
        scratch.mkdir(parents=True, exist_ok=True)
        unpack(archive, scratch, limit, progress)
    except _DAMAGE as error:
        raise DataError(
            f"{printable(archive)} is damaged or cut short ({error or type(error).__name__}); "
            "download it again."
        ) from error
    except RuntimeError as error:  # zipfile: a password, or a compression it does not know
        raise DataError(f"{printable(archive)}: {error}; unpack it and give the folder.") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError) or error.errno is not None:
            raise cannot_write(scratch, error) from error
        raise DataError(f"{printable(archive)} is damaged ({error}); download it again.") from error
    yield scratch


def _opener(archive: Path) -> Callable[[Path, Path, int, Progress | None], None]:
    if zipfile.is_zipfile(archive):
        return _unzip
    if tarfile.is_tarfile(archive):
        return _untar
    raise DataError(
        f"{printable(archive)} is neither a folder nor a whole .zip, .tar, .tar.gz or .tgz; "
        "download it again, or unpack it and give the folder."
    )


def _unzip(archive: Path, folder: Path, limit: int, progress: Progress | None) -> None:
    with zipfile.ZipFile(archive) as packed:
        members = [m for m in packed.infolist() if not m.is_dir()]
        _refuse_many(archive, len(members))
        total = sum(member.file_size for member in members)
        _refuse_large(archive, total, limit)
        _refuse_full(folder, total)
        targets: dict[str, Path | None] = {}
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                _refuse_kind(archive, member.filename)
            targets[member.filename] = _target(archive, folder, member.filename, targets)
        for done, member in enumerate(members, 1):
            target = targets[member.filename]
            if target is not None and not _is_complete(target, member.file_size):
                with packed.open(member) as stream:
                    _write(target, stream, member.file_size, printable(archive))
            if progress is not None:
                progress(done, len(members), target.name if target else "")


def _untar(archive: Path, folder: Path, limit: int, progress: Progress | None) -> None:
    total, targets = 0, dict[str, Path | None]()
    size = archive.stat().st_size
    with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as packed:
        for member in packed:
            if member.isdir():
                continue
            if not member.isreg():
                _refuse_kind(archive, member.name)
            target = _target(archive, folder, member.name, targets)
            targets[member.name] = target
            _refuse_many(archive, len(targets))
            total += member.size
            _refuse_large(archive, total, limit)
            if target is not None and not _is_complete(target, member.size):
                _refuse_full(folder, member.size)
                stream = packed.extractfile(member)
                assert stream is not None  # a regular member
                _write(target, stream, member.size, printable(archive))
            if progress is not None:
                progress(min(raw.tell(), size - 1), size, target.name if target else "")
        if progress is not None:
            progress(size, size, "")


def _target(archive: Path, folder: Path, name: str, taken: dict[str, Path | None]) -> Path | None:
    """Where a member goes; None for the leftovers of file managers.

    Raises:
        DataError: the name leads out of the folder, or came before.
    """
    path = PurePosixPath(name)
    unsafe = path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name
    if unsafe or not path.parts or ":" in path.parts[0]:
        raise DataError(
            f"{printable(archive)} holds the member {printable(name)!r}, which would be written "
            "outside its folder; do not trust this archive."
        )
    if name in taken:
        raise DataError(f"{printable(archive)} holds {printable(name)!r} twice; download it again.")
    if "__MACOSX" in path.parts or path.name.startswith("._") or path.name == ".DS_Store":
        return None
    return folder.joinpath(*path.parts)


def _is_complete(target: Path, size: int) -> bool:
    return target.is_file() and target.stat().st_size == size


def _write(target: Path, stream: Any, size: int, archive: str) -> None:
    """The member under its final name only when it is as long as promised."""
    make_folder(target.parent)
    draft = temporary_beside(target)
    try:
        written = 0
        with draft.open("wb") as file:
            while chunk := stream.read(_CHUNK):
                written += len(chunk)
                if written > size:
                    break
                file.write(chunk)
        if written != size:
            raise DataError(
                f"{archive}: the member {printable(target.name)} has not the {size} bytes it "
                "promises; download it again."
            )
        put(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _refuse_many(archive: Path, count: int) -> None:
    if count > MAX_MEMBERS:
        raise DataError(
            f"{printable(archive)} holds more than {MAX_MEMBERS} files; unpack it and give the "
            "folder."
        )


def _refuse_large(archive: Path, total: int, limit: int) -> None:
    if total > limit:
        raise DataError(
            f"{printable(archive)} unpacks to {total / 2**30:.3g} GiB or more, above the limit of "
            f"{limit / 2**30:.3g} GiB; unpack it yourself if you trust it, and give the folder."
        )


def _refuse_full(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size + _SPARE_BYTES > free:
        raise ResourceError(
            f"unpacking needs {size / 2**30:.3g} GiB in {printable(folder)}, {free / 2**30:.3g} "
            "GiB are free; make room, or unpack elsewhere and give the folder."
        )


def _refuse_kind(archive: Path, name: str) -> None:
    raise DataError(
        f"{printable(archive)} holds {printable(name)!r}, a link or a device, not a file; unpack "
        "it yourself if you trust it, and give the folder."
    )
