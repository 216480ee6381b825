"""The two optional libraries, each imported when it is first needed."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unpaired.data.paths import shown
from unpaired.errors import DataError, UnpairedError, UsageError


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
        raise DataError(f"{shown(path)}: too large to {doing}; the header is damaged.") from error
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot read {shown(path)}: {reason}; replace the file.") from error
    except Exception as error:  # pydicom and its decoders raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{shown(path)}: cannot {doing} ({reason}); {mend}.") from error
