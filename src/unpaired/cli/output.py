"""What the program prints: tables as plain text, and JSON."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

from unpaired.tables import Table


def say(text: str = "") -> None:
    """A line for people, on stdout."""
    print(text, flush=True)


def note(text: str) -> None:
    """A line beside the results, on stderr."""
    print(text, file=sys.stderr, flush=True)


def say_json(value: Any) -> None:
    """Strict JSON on stdout; what is not a number becomes null."""
    print(json.dumps(_plain(value), indent=2, allow_nan=False), flush=True)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def say_table(table: Table) -> None:
    """As wide as the terminal, or as its widest rows where there is no terminal."""
    import rich.table
    from rich.console import Console
    from rich.text import Text

    columns = rich.table.Table(box=None, pad_edge=False, header_style="bold")
    for name in table.head:
        columns.add_column(name, overflow="fold")
    for row in table.rows:
        columns.add_row(*(Text(_one_line(str(cell))) for cell in row))
    console = Console(file=sys.stdout, soft_wrap=False)
    if not console.is_terminal:
        console.width = 10_000
    console.print(columns)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def say_plan(plan: Any) -> None:
    """Grid, patch and intensities of a `Plan`, each with its reason."""
    spacing = " x ".join(f"{value:g}" for value in plan.spacing_mm)
    rows = [
        ["classes", ", ".join(plan.classes), plan.reasons.get("classes", "")],
        ["slices along", plan.slice_axis, plan.reasons.get("slice_axis", "")],
        ["spacing", f"{spacing} mm", plan.reasons.get("spacing_mm", "")],
        ["patch", " x ".join(map(str, plan.patch)), plan.reasons.get("patch", "")],
    ]
    if plan.plane is not None:
        rows.append(["plane", " x ".join(map(str, plan.plane)), plan.reasons.get("plane", "")])
    for name, part in plan.modalities.items():
        clips = ", ".join(f"{clip.kind} {clip.low:g} to {clip.high:g}" for clip in part.clip)
        rows.append([name, clips, plan.reasons.get(f"modalities.{name}", "")])
        for key, what in (("frame", "crop"), ("split", "cases")):
            if said := plan.reasons.get(f"{key}.{name}"):
                rows.append([f"{what} of {name}", "", said])
    say_table(Table(["plan", "choice", "why"], rows, names=3))


def memory(size: int) -> str:
    """ "300 MiB", "1.5 GiB"."""
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


# Progress of long work: a bar with the time left, or plain lines where there is no terminal.


LINE_SECONDS = 10.0


class Progress:
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

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int, what: str = "") -> None:
        fresh = total != self._total or done < self._done
        self._total, self._done = total, done
        if fresh:
            self._began, self._first = monotonic(), done
        if self.stream.isatty():
            self._draw(fresh, what)
        else:
            self._say(fresh, what)

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
        print(line, file=self.stream, flush=True)


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
