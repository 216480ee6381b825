"""Exceptions -> one message and an exit code."""

import errno
import sys
import traceback

import typer

from unpaired.errors import UnpairedError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOMEM}
USAGE, RESOURCE, INTERRUPTED, FAULT = 2, 4, 5, 1


def code_of(error: BaseException, debug: bool = False) -> int:
    """Print what happened and return the exit code."""
    code, message = _explain(error)
    if debug and not isinstance(error, SystemExit):
        traceback.print_exception(error)
    if message:
        print(f"unpaired: {message}", file=sys.stderr)
    return code


def _explain(error: BaseException) -> tuple[int, str]:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAULT, ""
    if isinstance(error, UnpairedError):
        return error.exit_code, str(error)
    if hasattr(error, "format_message"):  # the command line was not understood
        return _usage(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED, "interrupted. The same command goes on."
    if _is_memory(error):
        return RESOURCE, "memory ran out. Close other programs, or choose a smaller batch_size."
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        where = f" {error.filename}" if error.filename else ""
        return RESOURCE, f"cannot use{where}: {error.strerror}. Check space and permissions."
    kind = type(error).__name__
    text = f"{kind}: {error}" if str(error) else kind
    return FAULT, f"this is a fault of the program: {text}\nAdd --debug to see where it arose."


def _usage(error: BaseException) -> tuple[int, str]:
    """Errors of the argument parser carry their own text, and the verb they arose in."""
    message = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    hint = f"\nSee `{context.command_path} --help`." if context is not None else ""
    return USAGE, message + hint


def _is_memory(error: BaseException) -> bool:
    """By name, since torch need not be there to be asked."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "out of memory" in text
    )
