"""Errors a user can act on. Each says what came, which file, and how to mend it."""

import re
from collections.abc import Mapping

from unpaired.names import printable

_LONG = re.compile(r"\S{700,}")  # longer than any file's name


class UnpairedError(Exception):
    """Base of every error of this package; `exit_code` is what the command line returns.

    What a damaged file says may be quoted in the message: control characters, which a terminal
    would obey, are written as escapes, and endless words are shortened. Lines that are indented by
    two blanks are a list and stay lines.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        safe = printable(message, lists=True)
        super().__init__(_LONG.sub(lambda w: f"{w[0][:300]}...{w[0][-300:]}", safe))


class UsageError(UnpairedError):
    """The call is wrong: an unknown key, a missing option, a value out of range."""

    exit_code = 2


class DataError(UnpairedError):
    """The data, or a file, is at fault."""

    exit_code = 3


class CasesError(DataError):
    """Cases are at fault, and the message lists them.

    Attributes:
        failures: "modality/case" -> what is wrong with it.
    """

    def __init__(self, message: str, failures: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.failures = dict(failures or {})


class ResourceError(UnpairedError):
    """Memory, disk, device or permission is missing."""

    exit_code = 4


class Interrupted(UnpairedError):  # noqa: N818 (it is no fault)
    """Stopped by a signal; the run was saved and the same command goes on."""

    exit_code = 5
