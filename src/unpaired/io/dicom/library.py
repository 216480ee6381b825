"""The two optional libraries, each imported when it is first needed, and how files reach them."""

import importlib
import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unpaired.errors import DataError, UnpairedError, UsageError
from unpaired.files import printable

_ASKED = 1 << 16
_REASON = 200


def library(name: str) -> Any:
    """`pydicom` or `highdicom` (or a module of theirs).

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"DICOM needs {name.partition('.')[0]}, which is not installed. "
            'Install the extra: pip install "unpaired[dicom]".'
        ) from error


class Bounded(io.BufferedReader):
    """A file of which never more is asked than there is.

    Python takes the memory for a `read(n)` before it reads, and a damaged element may say that it
    has 4 GB.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes."""
        if size is not None and size > _ASKED:
            size = max(0, min(size, self._size - self.tell()))
        return super().read(size)


def read_dataset(path: Path, **options: Any) -> Any:
    """The file's pydicom data set, whatever its first bytes are; options of `pydicom.dcmread`."""
    with Bounded(path) as file:
        return library("pydicom").dcmread(file, force=True, **options)


@contextmanager
def damage_named(path: Path, doing: str, mend: str = "copy it again") -> Iterator[None]:
    """Whatever a library raises on a damaged file becomes one `DataError`; its warnings about
    values that are odd but readable are dropped."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnpairedError:
        raise
    except MemoryError as error:
        raise DataError(
            f"{printable(path)}: too large to {doing}; the header is damaged."
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot read {printable(path)}: {reason}; replace the file.") from error
    except Exception as error:  # pydicom and its decoders raise many kinds
        reason = printable((str(error).strip() or type(error).__name__).splitlines()[0])
        reason = reason if len(reason) <= _REASON else f"{reason[:_REASON]} ..."
        raise DataError(f"{printable(path)}: cannot {doing} ({reason}); {mend}.") from error
