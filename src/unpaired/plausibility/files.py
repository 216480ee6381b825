"""plausibility.json and .csv: what was measured of results, beside their label files."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from unpaired.errors import DataError, ResourceError
from unpaired.files import read_json, write_json, write_text
from unpaired.plausibility.judge import Measured, Plausibility
from unpaired.tables import Table

NAME = "plausibility"
_VERSION = 1
_SECONDS = 10.0
_COLUMNS = ("case", "modality", "about", "measure", "value", "low", "high", "odd", "says")


@dataclass(frozen=True)
class Entry:
    """What is known of one case, and of which prediction."""

    found: Plausibility
    mark: str
    """As in the label file's header."""


def write_entries(folder: Path, entries: Mapping[str, Entry], prefix: str = "") -> None:
    """Write both files; the JSON holds all, the CSV a row a measure.

    Args:
        entries: by case.
        prefix: of their names.

    Raises:
        ResourceError: they cannot be written.
    """
    rows = [
        [case, entry.found.modality, *map(_cell, asdict(one).values())]
        for case, entry in entries.items()
        for one in entry.found.measures
    ]
    write_text(folder / f"{prefix}{NAME}.csv", Table(list(_COLUMNS), rows).csv())
    cases = {
        case: {
            "modality": entry.found.modality,
            "compared": entry.found.compared,
            "odd": entry.found.odd,
            "says": entry.found.line,
            "prediction": entry.mark,
            "measures": [asdict(one) for one in entry.found.measures],
        }
        for case, entry in entries.items()
    }
    content = {"version": _VERSION, "cases": cases}
    write_json(folder / f"{prefix}{NAME}.json", content, seal=True)


def read_entries(folder: Path) -> dict[str, Entry]:
    """What `write_entries` wrote; nothing where there is none, or it is damaged."""
    try:
        content = read_json(folder / f"{NAME}.json")
        if content["version"] != _VERSION:
            return {}
        return {case: _entry(one) for case, one in content["cases"].items()}
    except (DataError, KeyError, TypeError, ValueError, AttributeError):
        return {}


class Entries:
    """The entries of a folder while cases are predicted into it: written now and then, so that a
    process that is killed loses few, and at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._own = folder, dict[str, Entry]()
        self._before, self._written = read_entries(folder), monotonic()

    def __enter__(self) -> "Entries":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with suppress(*([ResourceError] if kind else [])):  # the first error counts
            self._write()

    def of(self, case: str, mark: str) -> Plausibility | None:
        """What is known of the prediction that has this mark."""
        entry = self._own.get(case) or self._before.get(case)
        return entry.found if entry is not None and entry.mark == mark else None

    def add(self, case: str, found: Plausibility, mark: str) -> None:
        """Of a case that was just predicted."""
        self._own[case] = Entry(found, mark)
        if monotonic() - self._written > _SECONDS:
            self._write()

    def _write(self) -> None:
        """With the entries of others who predict into the same folder."""
        if self._own:
            write_entries(self.folder, {**read_entries(self.folder), **self._own})
            self._written = monotonic()


def _entry(one: Mapping[str, Any]) -> Entry:
    measures = tuple(_measured(dict(measure)) for measure in one["measures"])
    found = Plausibility(str(one["modality"]), bool(one["compared"]), measures)
    return Entry(found, str(one["prediction"]))


def _measured(one: dict[str, Any]) -> Measured:
    numbers = {k: math.nan if one[k] is None else float(one[k]) for k in ("value", "low", "high")}
    return Measured(**{**one, **numbers})


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.5g}"
    return ("yes" if value else "") if isinstance(value, bool) else value
