"""Shared by the benchmarks: interleaved timing, and one section each in docs/benchmarks.md."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import psutil

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
_HEAD = """# Benchmarks

Each section is written by the script of its name under `benchmarks/`, which runs the peer and us
in one process, in turn, asserts that both give the same answer, and takes medians. Read the
ratios; seconds hold for the machine named.
"""


def interleave(jobs: Mapping[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Median seconds of each job; every round runs each job once, after one round unmeasured."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def record(
    name: str,
    rows: Sequence[Mapping[str, object]],
    packages: Sequence[str] = ("torch", "numpy"),
    page: Path = PAGE,
) -> None:
    """Replace the section `name` of the page by a table of `rows`."""
    write_section(name, [f"## {name}", "", *_table(rows), "", machine(packages)], page)


def write_section(name: str, lines: Sequence[str], page: Path = PAGE) -> None:
    """Replace what stands between the HTML markers of that name, or append it."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    section = "\n".join([begin, *lines, end])
    text = page.read_text(encoding="utf-8") if page.is_file() else _HEAD
    if begin in text and end in text:
        before, rest = text.split(begin, 1)
        text = before + section + rest.split(end, 1)[1]
    else:
        text = text.rstrip("\n") + "\n\n" + section + "\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")


def machine(packages: Sequence[str]) -> str:
    """One line: processor, cores, memory, date, versions."""
    memory = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; {date.today().isoformat()}; "
        f"Python {platform.python_version()}, {versions}."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    head = list(rows[0])
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(_cell(row[key]) for key in head)} |" for row in rows]


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
