"""One thing that is wrong, its place in the table, and how it is made from an error."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unpaired.data.dataset import Case
from unpaired.data.paths import shown
from unpaired.errors import UnpairedError

Severity = Literal["error", "warning", "note"]
Index = tuple[int, int, int]

_RANK = {"error": 0, "warning": 1, "note": 2}
_NUMBER = r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
_QUANTITY = re.compile(
    rf"({_NUMBER}(?: x {_NUMBER})*) (mm|voxels|%|bytes|degrees|slices|cases|patients|axes)"
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or odd.

    Attributes:
        modality, case, file: where; empty where the finding is about the whole.
        severity: "error" stops training, "warning" wants a look, "note" is handled.
        what: what was found.
        mend: what to do.
        kind: the question that found it, such as "label-grid"; for programs.
        amount: how much, with its unit: millimetres, voxels, per cent.
        at: voxel [i j k] of the file that shows it; None: none does more than another.
    """

    modality: str
    case: str
    severity: Severity
    what: str
    mend: str
    file: str
    kind: str = ""
    amount: str = ""
    at: Index | None = None


@dataclass(frozen=True)
class Remark:
    """A finding before it is known whose it is."""

    kind: str
    severity: Severity
    what: str
    mend: str
    amount: str = ""
    at: Index | None = None

    def of(self, case: Case, file: Path | None) -> Finding:
        """The finding about a file of a case."""
        return self.about(case.modality, case.id, file)

    def about(self, modality: str, case: str = "", file: Path | None = None) -> Finding:
        """The finding about a case, a modality, or all (empty)."""
        amount = self.amount or quantity(self.what)
        name = "" if file is None else shown(file)
        return Finding(
            modality, case, self.severity, self.what, self.mend, name, self.kind, amount, self.at
        )


def quantity(what: str) -> str:
    """The first quantity a sentence names: "lies up to 3 mm off" -> "3 mm"."""
    match = _QUANTITY.search(what)
    return f"{match[1]} {match[2]}" if match else ""


def from_error(
    error: UnpairedError, modality: str, case: str, path: Path | None, kind: str = "file"
) -> Finding:
    """An error as a finding; its message ends in how to mend it."""
    text = str(error).rstrip(".")
    if path is not None:
        rest = text.removeprefix(shown(path))
        text = rest.lstrip(":, ") if rest[:1] in (":", ",", " ") else text
    what, cut, mend = text.rpartition("; ")
    if not cut:
        what, cut, mend = text.rpartition(". ")
    if not cut:
        what, mend = text, "see the message"
    return Remark(kind, "error", what, mend).about(modality, case, path)


def worst_first(found: Sequence[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes; each by modality and case."""
    return sorted(found, key=lambda f: (_RANK[f.severity], f.modality, f.case, f.file, f.what))


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(shown, names[:limit])) + more


def plural(count: int, thing: str) -> str:
    """ "1 voxel", "12 voxels"."""
    return f"{count} {thing}{'' if count == 1 else 's'}"
