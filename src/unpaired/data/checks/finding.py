"""One thing that is wrong, its place in the table, and how it is made from an error."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unpaired.data.paths import shown
from unpaired.datasets.dataset import Case
from unpaired.errors import UnpairedError

Severity = Literal["error", "warning", "note"]
Index = tuple[int, int, int]

_RANK = {"error": 0, "warning": 1, "note": 2}
_NUMBER = r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
_UNIT = "mm|voxels?|%|bytes|degrees|slices?|cases?|patients?|axes"
_QUANTITY = re.compile(rf"({_NUMBER}(?: (?:x|of) {_NUMBER})*) ({_UNIT})")
# Faults of a file as a whole, whose measure is its size.
_WHOLE_FILE = re.compile("compressed data|is empty|web page|LFS pointer|not a NIfTI|no DICOM")


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
    if match is None:
        return ""
    unit = match[2][:-1] if match[1] == "1" and match[2].endswith("s") else match[2]
    return f"{match[1]} {unit}"


def from_error(
    error: UnpairedError, modality: str, case: str, path: Path | None, kind: str = "file"
) -> Finding:
    """An error as a finding; its message ends in how to mend it."""
    text = " ".join(str(error).split()).rstrip(".")
    if path is not None:
        rest = text.removeprefix(shown(path))
        text = rest.lstrip(":, ") if rest[:1] in (":", ",", " ") else text
        text = text.replace(f"{shown(path)}/", "")  # files in a folder
    what, cut, mend = text.rpartition("; ")
    if not cut:
        what, cut, mend = text.rpartition(". ")
    if not cut:
        what, mend = text, "correct the file"
    amount = _size(path) if path is not None and _WHOLE_FILE.search(what) else ""
    return Remark(kind, "error", what, mend, amount).about(modality, case, path)


def _size(path: Path) -> str:
    try:
        return f"{path.stat().st_size} bytes" if path.is_file() else ""
    except OSError:
        return ""


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
