"""The run's log: JSON lines while it goes, a CSV of the validations."""

import io
import json
import logging
import math
from pathlib import Path
from typing import Any

from unpaired.files import cannot_write, printable, write_text
from unpaired.tables import Table

log = logging.getLogger(__name__)
SCHEDULE = "schedule"
"""Kind of the record of a run that goes on beyond its planned end."""


class RunLog:
    """Appends to `log.jsonl`; on resuming, what came after the checkpoint is cut off."""

    def __init__(self, path: Path, resume_at: int) -> None:
        self.path = path
        before = read_log(path) if resume_at else []
        kept = [r for r in before if r["step"] <= resume_at or r["kind"] == SCHEDULE]
        write_text(path, "".join(map(_line, kept)))

    def write(self, record: dict[str, Any]) -> dict[str, Any]:
        """Append one record, and return it as it stands there."""
        return _append(self.path, record)


def _append(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    written: dict[str, Any] = _strict(record)
    try:
        with path.open("a+b") as file:
            if file.tell():
                file.seek(-1, io.SEEK_END)
                if file.read(1) != b"\n":  # a crash cut the last line short
                    file.write(b"\n")
            file.write(_line(written).encode())
    except OSError as error:
        raise cannot_write(path, error) from error
    return written


def _line(record: dict[str, Any]) -> str:
    return json.dumps(_strict(record), allow_nan=False) + "\n"


def note_schedule(path: Path, before: int, steps: int) -> None:
    """Say in the log that a run which was to end at step `before` goes on to `steps`."""
    last = max((record["step"] for record in read_log(path)), default=0)
    _append(path, {"kind": SCHEDULE, "step": last, "before": before, "steps": steps})


def note_pace(path: Path, step: int, before: int, steps: int) -> None:
    """Say in the log that from `step` on a run is to end at step `steps`, not `before`."""
    _append(path, {"kind": "pace", "step": step, "before": before, "steps": steps})


def read_log(path: Path) -> list[dict[str, Any]]:
    """All whole records; a line cut short by a crash is left out.

    What else is damaged is left out too, and a line of the program's log says so.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines()
    records = [_record(line) for line in lines]
    damaged = [number for number, found in enumerate(records[:-1], 1) if found is None]
    if damaged:
        numbers = ", ".join(map(str, damaged))
        log.warning("%s: damaged lines are left out (%s).", printable(path), numbers)
    return [record for record in records if record is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    known = isinstance(record, dict) and isinstance(record.get("step"), int) and "kind" in record
    return record if known else None


def write_metrics(path: Path, records: list[dict[str, Any]]) -> None:
    """One row per validation: step, epoch, score, then per modality the mean and every class."""
    rows = [_flat(record) for record in records if record["kind"] == "validation"]
    if not rows:
        return
    names = list(rows[-1])
    table = Table(names, [[row.get(name, "") for name in names] for row in rows])
    write_text(path, table.csv())


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    row = {name: record[name] for name in ("step", "epoch", "score")}
    for m, classes in record["dice"].items():
        row[m] = record["mean"][m]
        row.update({f"{m}/{name}": value for name, value in classes.items()})
    return row


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
