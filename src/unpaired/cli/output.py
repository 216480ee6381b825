"""What the program prints: tables as plain text, and JSON."""

import json
import math
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from unpaired.names import printable
from unpaired.progress import write_line
from unpaired.tables import Table


def say(text: str = "") -> None:
    """A line for people, on stdout; what someone named in it cannot steer the terminal."""
    write_line(sys.stdout, printable(text))


def guard_logs() -> None:
    """What libraries log, which may quote what a file says, passes the same way as what we say."""
    import logging  # help has no use for it

    class Escaped(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return printable(super().format(record), lists=True)

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Escaped())


def guard_warnings() -> None:
    """The same for what they warn of."""
    plain = warnings.formatwarning

    def escaped(message: Warning | str, *given: Any, **named: Any) -> str:
        return plain(printable(message), *given, **named)

    warnings.formatwarning = escaped


def say_lines(text: str) -> None:
    """Several lines at once."""
    for line in text.splitlines():
        say(line)


def note(text: str) -> None:
    """A line beside the results, on stderr."""
    write_line(sys.stderr, printable(text, lists=True))


def say_json(value: Any) -> None:
    """Strict JSON on stdout; what is not a number becomes null."""
    write_line(sys.stdout, json.dumps(_plain(value), indent=2, allow_nan=False))


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
        columns.add_column(Text(printable(name)), overflow="fold")
    for row in table.rows:
        columns.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(file=sys.stdout, soft_wrap=False)
    if not console.is_terminal:
        console.width = 10_000
    console.print(columns)


def say_plan(plan: Any) -> None:
    """Grid, patch and intensities of a `Plan`, each with its reason."""
    spacing = " x ".join(f"{value:g}" for value in plan.spacing_mm)
    rows = [
        ["classes", ", ".join(plan.classes), plan.reasons.get("classes", "")],
        ["slices along", plan.slice_axis, plan.reasons.get("slice_axis", "")],
        ["spacing", f"{spacing} mm", plan.reasons.get("spacing_mm", "")],
        ["patch", " x ".join(map(str, plan.patch)), plan.reasons.get("patch", "")],
    ]
    for name in ("network", "batch", "learning rate", "steps"):
        if reason := plan.reasons.get(name):
            rows.append([name, "", reason])
    if plan.plane is not None:
        rows.append(["plane", " x ".join(map(str, plan.plane)), plan.reasons.get("plane", "")])
    for name, part in plan.modalities.items():
        clips = ", ".join(f"{clip.kind} {clip.low:g} to {clip.high:g}" for clip in part.clip)
        rows.append([name, clips, plan.reasons.get(f"modalities.{name}", "")])
        for key, what in (("frame", "crop"), ("split", "cases")):
            if reason := plan.reasons.get(f"{key}.{name}"):
                rows.append([f"{what} of {name}", "", reason])
    say_table(Table(["plan", "choice", "why"], rows, names=3))


def memory(size: int) -> str:
    """ "300 MiB", "1.5 GiB"."""
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
