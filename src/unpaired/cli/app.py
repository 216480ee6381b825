"""The program `unpaired`: its verbs, and every way it may end."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from unpaired import __version__
from unpaired.cli.output import guard_logs, guard_warnings, note
from unpaired.errors import UnpairedError
from unpaired.signals import caught

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOMEM}
GONE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ESTALE, errno.EIO}
USAGE, RESOURCE, INTERRUPTED, FAULT = 2, 4, 5, 1
VERBS = {
    "demo": (
        "demo",
        "Make synthetic CT and MR scans, train on both, and report. A second call goes on.",
    ),
    "import": (
        "import_",
        "Bring an official data set into folders that --data takes. A second call goes on.",
    ),
    "check": (
        "check",
        "Look for faults in data sets or files; exit code 3 if there are. Nothing is changed.",
    ),
    "prepare": (
        "prepare",
        "Plan and prepare the cases. `train --prepared FOLDER` with the same settings uses them.",
    ),
    "train": (
        "train",
        "Train on folders of images and labels. The same command resumes an interrupted run.",
    ),
    "predict": (
        "predict",
        "Segment images with a trained model. The labels lie on the image's own grid.",
    ),
    "evaluate": (
        "evaluate",
        "Dice, ASD, HD95 and NSD per class and modality. "
        "Exit code 3 if a case could not be scored.",
    ),
    "report": ("report", "Write RUN/report/report.html, with figures of training and predictions."),
    "compare": (
        "compare",
        "Did CT help my MR? One sentence with an interval, a table, and a plot of every test case.",
    ),
    "best": (
        "best",
        "Compare runs, and the mean of every two, on the cases that they held out; "
        "write the choice.",
    ),
    "benefit": (
        "benefit",
        "Did CT help my MR? Trains each modality alone and all together, "
        "and answers with an interval.",
    ),
    "export": (
        "export",
        "Write a run's model as safetensors, torch.export, ONNX or MONAI Bundle, and check it.",
    ),
    "reproduce": (
        "reproduce",
        "Run what a table needs and is missing, then print it. The same command goes on.",
    ),
    "settings": (
        "settings",
        "List the settings of a run, for KEY=VALUE and --config (docs/settings.md).",
    ),
    "presets": (
        "settings",
        "List the presets for --preset, or what one of them sets (docs/settings.md).",
    ),
}
"""Verb -> its module, and what it says of itself first, of which help shows a line."""


class _Verbs(TyperGroup):
    """Verbs are read when they are called: help has no need of their options."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        module = import_module(f"unpaired.cli.{VERBS[cmd_name][0]}")
        one = typer.Typer(add_completion=False, rich_markup_mode=None)
        one.command(cmd_name)(getattr(module, cmd_name, None) or module.command)
        return typer.main.get_command(one)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        limit = formatter.width - 6 - max(map(len, VERBS))
        rows = [(name, verb.get_short_help_str(limit)) for name, verb in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


app = typer.Typer(
    name="unpaired",
    cls=_Verbs,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, (_, about) in VERBS.items():
    app.command(name, help=about)(lambda: None)


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"unpaired {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def unpaired(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose.")] = False,
) -> None:
    """One segmentation network for several modalities, from scans of different patients.

    Exit codes: 0 done; 2 wrong usage; 3 the data are at fault; 4 memory, disk or device is
    missing; 5 interrupted, the same command goes on.
    """
    guard_logs()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and leave with its exit code."""
    if isinstance(sys.stdout, TextIOWrapper):  # a Windows pipe knows few letters; stderr escapes
        sys.stdout.reconfigure(errors="backslashreplace")
    guard_warnings()
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """The exit code of the program for these arguments; errors become one message on stderr."""
    debug = "--debug" in arguments
    try:
        with terminable():
            left = [a for a in arguments if a != "--debug"] or ["--help"]
            done = app(left, prog_name="unpaired", standalone_mode=False)
    except BaseException as error:
        return code_of(error, debug)
    return code_of(KeyboardInterrupt(), debug) if done == 130 else int(done or 0)


@contextmanager
def terminable() -> Iterator[None]:
    """What asks to stop ends the program as Ctrl-C does: temporaries go, and the exit code says so.

    Outside the main thread nothing can be caught.
    """
    owner = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)  # a forked child ends as if nobody had listened
        os.kill(os.getpid(), number)

    with caught(interrupt, but=(signal.SIGINT,)):  # Python's own does the same
        yield


def code_of(error: BaseException, debug: bool = False) -> int:
    """Print what happened and return the exit code."""
    code, message, hint = _explain(error)
    if debug and not isinstance(error, SystemExit):
        for line in "".join(traceback.format_exception(error)).splitlines():
            note(line)
    if message:
        note(f"unpaired: {message}")
    if hint:
        note(hint)
    return code


def _explain(error: BaseException) -> tuple[int, str, str]:
    """Exit code, what happened, and where to see more."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAULT, "", ""
    if isinstance(error, UnpairedError):
        return error.exit_code, str(error), ""
    if hasattr(error, "format_message"):  # the command line was not understood
        return _usage(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED, "interrupted. The same command goes on.", ""
    if _is_memory(error):
        what = "memory ran out. Close other programs, or choose a smaller batch_size."
        return RESOURCE, what, ""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        where = f" {error.filename}" if error.filename else ""
        return RESOURCE, f"cannot use{where}: {error.strerror}. Check space and permissions.", ""
    if isinstance(error, OSError) and error.errno in GONE and error.filename:
        what = f"cannot use {error.filename}: {error.strerror}"
        return RESOURCE, f"{what}. Was it removed or moved while it was in use?", ""
    kind = type(error).__name__
    text = f"{kind}: {error}" if str(error) else kind
    hint = "Add --debug to see where it arose."
    return FAULT, f"this is a fault of the program: {text}", hint


def _usage(error: BaseException) -> tuple[int, str, str]:
    """Errors of the argument parser carry their own text, and the verb they arose in."""
    message = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    hint = f"See `{context.command_path} --help`." if context is not None else ""
    return USAGE, message, hint


def _is_memory(error: BaseException) -> bool:
    """By name, since torch need not be there to be asked."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "out of memory" in text
    )
