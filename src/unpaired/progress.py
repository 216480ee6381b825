"""How far long work is: one way to say it, everywhere, and a bar with the time left."""

import errno
import os
import sys
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from unpaired.names import printable


@runtime_checkable
class Progress(Protocol):
    """Called after every step of long work; the bar of the command line is one."""

    def __call__(self, done: int, total: int, what: str, /) -> None:
        """`done` of `total` steps are done, the last of them `what`."""


LINE_SECONDS = 10.0


class ProgressBar:
    """Called as progress(done, total, what); a new total, or a fall in `done`, begins a new bar.

    Use it in a `with` statement, so that the terminal is left tidy. Writes to stderr.
    """

    def __init__(self, title: str, stream: Any = None) -> None:
        self.title = title
        self.stream = stream or sys.stderr
        self._bar: Any = None
        self._task: Any = None
        self._total = self._done = -1
        self._began = self._spoken = monotonic()
        self._first = 0

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._bar is not None:
                self._bar.stop()
        except OSError as error:
            lost(self.stream, error)

    def __call__(self, done: int, total: int, what: str = "") -> None:
        what = printable(what)
        fresh = total != self._total or done < self._done
        self._total, self._done = total, done
        if fresh:
            self._began, self._first = monotonic(), done
        try:
            if self.stream.isatty():
                self._draw(fresh, what)
            else:
                self._say(fresh, what)
        except OSError as error:
            lost(self.stream, error)

    def _draw(self, fresh: bool, what: str) -> None:
        if self._bar is None:
            self._bar = _new_bar(self.stream)
            self._bar.start()
        if fresh:
            self._task = self._bar.add_task(self.title, total=self._total, what="")
        self._bar.update(self._task, completed=self._done, what=what)

    def _say(self, fresh: bool, what: str) -> None:
        now = monotonic()
        if not (fresh or self._done == self._total or now - self._spoken >= LINE_SECONDS):
            return
        self._spoken = now
        left = ""
        if self._done > self._first and self._done < self._total:
            rate = (now - self._began) / (self._done - self._first)
            left = f", {duration(rate * (self._total - self._done))} left"
        line = f"{self.title} {self._done}/{self._total} {what}".rstrip() + left
        write_line(self.stream, line)


def write_line(stream: Any, text: str) -> None:
    """A line, at once; into nothing where the reader has gone, for the work goes on."""
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        lost(stream, error)


def lost(stream: Any, error: OSError) -> None:
    """Where the terminal was closed or the reader of the pipe has ended, send the rest nowhere.

    Raises:
        OSError: `error`, where it is another fault, such as a full disk.
    """
    if error.errno not in (errno.EIO, errno.EPIPE):
        raise error
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())  # else flushing at the end would fail, too
    os.close(nowhere)


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _new_bar(stream: Any) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}", markup=False),
        console=Console(file=stream),
    )
