"""What a folder of runs holds from earlier calls, and whether this call goes on with it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unpaired.config import Config
from unpaired.datasets.dataset import Case, source_files
from unpaired.errors import UsageError
from unpaired.experiments.record import WEIGHTS, changes, settings_of
from unpaired.files import sha256_of

Marks = dict[str, dict[str, list[str]]]
"""modality -> case -> [mark of paths, sizes and times; mark of the contents]."""


def check_grid(old: Mapping[str, Any], new: Mapping[str, Any], out: Path) -> None:
    """The grid is fixed by the first call; a later one that asks for another must not be silent."""
    before, now = ({f"data.{k}": v for k, v in side.items()} for side in (old, new))
    if changed := changes(before, now, before):
        raise UsageError(
            f"{out} holds runs on another grid ({changed}). Give the same values to go on, or "
            "another --out to begin anew."
        )


def check_weights(old: str, new: str, out: Path) -> None:
    """One start for all calls, by the contents of the file: its name and folder may change."""
    if old != new:
        start = "another file of weights" if old else "random weights"
        raise UsageError(
            f"{out} holds runs that start from {start} (model.pretrained). Give the same to go on, "
            "or another --out."
        )


def check_recipe(old: Config, new: Config, out: Path) -> None:
    """One folder, one recipe: rows of a table must not be trained by different ones."""
    before, now = settings_of(old), settings_of(new)
    if changed := changes(before, now, sorted((before.keys() | now.keys()) - {WEIGHTS})):
        raise UsageError(
            f"{out} holds runs of another recipe ({changed}). Give the same values to go on, or "
            "another --out to begin anew."
        )


def check_scans(
    before: Mapping[str, Mapping[str, Sequence[str]]],
    now: Mapping[str, Sequence[Case]],
    out: Path,
) -> Marks:
    """The marks of the scans and labels of this call; files are read only if they look new.

    Args:
        before: the marks of earlier calls.

    Raises:
        UsageError: there are other cases, or other contents under the same names.
    """
    marks: Marks = {}
    for m, cases in now.items():
        old = before.get(m, {})
        if old and list(old) != [case.id for case in cases]:
            other = sorted(set(old) ^ {case.id for case in cases})
            _refuse(out, f"{m} differs in the cases {', '.join(other[:5])}")
        marks[m] = {case.id: _mark(case) for case in cases}
        changed = [i for i, mark in marks[m].items() if i in old and old[i][1] != mark[1]]
        if changed:
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            _refuse(out, f"the files of {', '.join(changed[:5])}{more} ({m}) have changed since")
    return marks


def _mark(case: Case) -> list[str]:
    """Where and how large the files are, and what they hold: neither size nor time tells that."""
    files = source_files(case)
    return [_digest(files), _digest([sha256_of(Path(file["path"])) for file in files])]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _refuse(out: Path, what: str) -> None:
    raise UsageError(
        f"{out} holds runs on other data: {what}. Give the same data, or another --out."
    )
