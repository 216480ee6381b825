"""Errors a user can act on. Each says what came, which file, and how to mend it."""


class UnpairedError(Exception):
    """Base of every error of this package; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(UnpairedError):
    """The call is wrong: an unknown key, a missing option, a value out of range."""

    exit_code = 2


class DataError(UnpairedError):
    """The data, or a file, is at fault."""

    exit_code = 3


class ResourceError(UnpairedError):
    """Memory, disk, device or permission is missing."""

    exit_code = 4


class Interrupted(UnpairedError):  # noqa: N818 (it is no fault)
    """Stopped by a signal; the run was saved and the same command goes on."""

    exit_code = 5
