"""The scans of a study: runs of one folder must have read the same."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unpaired.datasets.dataset import Case, sha256_of, source_files
from unpaired.errors import UsageError

Marks = dict[str, dict[str, list[str]]]
"""modality -> case -> [mark of paths, sizes and times; mark of the contents]."""


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
    found: Marks = {}
    for m, cases in now.items():
        old = before.get(m, {})
        if old and list(old) != [case.id for case in cases]:
            other = sorted(set(old) ^ {case.id for case in cases})
            _refuse(out, f"{m} differs in the cases {', '.join(other[:5])}")
        found[m] = {case.id: _mark(case, old.get(case.id)) for case in cases}
        changed = [i for i, mark in found[m].items() if i in old and old[i][1] != mark[1]]
        if changed:
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            _refuse(out, f"the files of {', '.join(changed[:5])}{more} ({m}) have changed since")
    return found


def _mark(case: Case, old: Sequence[str] | None) -> list[str]:
    files = source_files(case)
    outside = _digest(files)
    if old is not None and old[0] == outside:
        return list(old)
    return [outside, _digest([sha256_of(file) for file in files])]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _refuse(out: Path, what: str) -> None:
    raise UsageError(
        f"{out} holds runs on other data: {what}. Give the same data, or another --out."
    )
