"""The files of a case, and whether they are still what they were."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unpaired.data.dataset import Case
from unpaired.errors import DataError
from unpaired.io.read import files_of


def source_files(case: Case) -> list[dict[str, Any]]:
    """Path, size and time of every file; of a DICOM series every file counts.

    Raises:
        DataError: one is missing or may not be read.
    """
    found = []
    named = (*case.images, *([case.label] if case.label else []))
    for path in (file for one in named for file in files_of(one)):
        try:
            stat = path.stat()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}.") from error
        found.append({"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns})
    return found


def unchanged(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a file holds what it held; a copied or touched one is read once more to know.

    Args:
        old: with its "sha256".
    """
    if old["size"] != new["size"]:
        return False
    untouched = old["path"] == new["path"] and old["mtime_ns"] == new["mtime_ns"]
    return untouched or old["sha256"] == sha256_of(new)


def sha256_of(source: Mapping[str, Any]) -> str:
    """Of the file's bytes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with Path(source["path"]).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {source['path']}: {error.strerror or error}.") from error
