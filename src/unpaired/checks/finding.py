"""One thing that is wrong, its place in the table, and how it is made from an error."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from unpaired.datasets.dataset import Case
from unpaired.errors import DataError, UnpairedError
from unpaired.files import printable
from unpaired.io.volume import Volume
from unpaired.names import plural

Severity = Literal["error", "warning", "note"]
Index = tuple[int, int, int]

_RANK = {"error": 0, "warning": 1, "note": 2}
_NUMBER = r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
_UNIT = "mm|voxels?|%|bytes|degrees|slices?|cases?|patients?|axes"
_QUANTITY = re.compile(rf"({_NUMBER}(?: (?:x|of) {_NUMBER})*) ({_UNIT})")
# Faults of a file as a whole, whose measure is its size.
_WHOLE_FILE = re.compile("compressed data|is empty|web page|LFS pointer|not a NIfTI|no DICOM")
_FIX = "`unpaired check --fix-headers OUT` writes a mended copy"
_QFORM_WARNING_MM = 1.0
# What the readers note, and what it means for the user; the first that fits counts.
_NOTES: tuple[tuple[str, str, Severity, str], ...] = (
    (
        "no orientation is stored", "orientation", "warning",
        "write the orientation with the program that made the file",
    ),
    ("qform and sform differ", "two-geometries", "note", _FIX),
    ("the qform cannot be used", "two-geometries", "note", _FIX),
    ("is negative, taken", "pixdim", "warning", "write the geometry with the program that made it"),
    ("pixdim .* disagrees", "pixdim", "note", _FIX),
    ("plain NIfTI, though|compressed, though", "file-name", "note", f"nothing, or {_FIX}"),
    ("foreign bytes|bytes of zeros", "slack", "note", f"nothing, or {_FIX}"),
    ("trailing ones of size 1", "axes", "note", f"nothing, or {_FIX}"),
    ("lengths are stored in", "units", "note", "nothing; they are converted"),
    ("float labels", "float-label", "note", "nothing; save labels as integers"),
    (
        "read as one image|are read as one: ", "interleaved", "warning",
        "see that all slices are of one image; copy the files of one into a folder of their own",
    ),
    ("declared padding", "padding", "note", "nothing; it counts as the lowest value"),
    ("no rescale slope", "rescale", "warning", "export the series again with its rescale slope"),
    ("another series is not read", "series", "note", "nothing, or give the other series a folder"),
)  # fmt: skip


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
        name = "" if file is None else printable(file)
        return Finding(
            modality, case, self.severity, self.what, self.mend, name, self.kind, amount, self.at
        )


def from_error(
    error: UnpairedError, modality: str, case: str, path: Path | None, kind: str = "file"
) -> Finding:
    """An error as a finding; its message ends in how to mend it."""
    text = " ".join(str(error).split()).rstrip(".")
    if path is not None:
        rest = text.removeprefix(printable(path))
        text = rest.lstrip(":, ") if rest[:1] in (":", ",", " ") else text
        text = text.replace(f"{printable(path)}/", "")  # files in a folder
    what, cut, mend = text.rpartition("; ")
    if not cut:
        what, cut, mend = text.rpartition(". ")
    if not cut:
        what, mend = text, "correct the file"
    amount = _size(path) if path is not None and _WHOLE_FILE.search(what) else ""
    return Remark(kind, "error", what, mend, amount).about(modality, case, path)


def read(
    case: Case, path: Path, reader: Callable[[Path], Volume], findings: list[Finding]
) -> Volume | None:
    """The volume of one file, or None; notes and faults are added to `findings`.

    Whatever goes wrong becomes a finding, never an exception.
    """
    try:
        volume = reader(path)
    except UnpairedError as error:
        findings.append(from_error(error, case.modality, case.id, path))
        return None
    except MemoryError:
        findings.append(_out_of_memory(path).of(case, path))
        return None
    except Exception as error:  # a fault of the program must not hide the other cases
        what = f"the reader failed on it ({type(error).__name__}: {error})"
        mend = "export it again; please report this as a fault of the program"
        findings.append(Remark("fault", "error", what, mend).of(case, path))
        return None
    findings += [remark_of(note).of(case, path) for note in volume.notes]
    return volume


def remark_of(note: str) -> Remark:
    """A reader's note with its severity and what to do."""
    for pattern, kind, severity, mend in _NOTES:
        if re.search(pattern, note):
            remark = Remark(kind, severity, note, mend)
            return _by_distance(remark) if kind == "two-geometries" else remark
    return Remark("read", "note", note, "nothing; it is handled")


def quantity(what: str) -> str:
    """The first quantity a sentence names: "lies up to 3 mm off" -> "3 mm"."""
    match = _QUANTITY.search(what)
    if match is None:
        return ""
    unit = match[2][:-1] if match[1] == "1" and match[2].endswith("s") else match[2]
    return f"{match[1]} {unit}"


def as_one(findings: Sequence[Finding], kind: str) -> list[Finding]:
    """The findings, those of a kind that say the same of several files of a modality as one."""
    count = Counter((f.modality, f.what) for f in findings if f.kind == kind)
    said: set[tuple[str, str]] = set()
    kept: list[Finding] = []
    for finding in findings:
        key = (finding.modality, finding.what)
        if finding.kind == kind and key in said:
            continue
        if finding.kind == kind and count[key] > 1:
            said.add(key)
            amount = plural(count[key], "file")
            what = f"{finding.what} ({amount})"
            finding = replace(finding, case="", file="", what=what, amount=amount)
        kept.append(finding)
    return kept


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes; each by modality and case."""
    return sorted(findings, key=lambda f: (_RANK[f.severity], f.modality, f.case, f.file, f.what))


def _size(path: Path) -> str:
    try:
        return f"{path.stat().st_size} bytes" if path.is_file() else ""
    except OSError:
        return ""


def _by_distance(remark: Remark) -> Remark:
    """Two geometries in one file: other programs take the other one, which matters from 1 mm on."""
    match = re.search(r"up to ([\d.e+-]+) mm", remark.what)
    if match is None or float(match[1]) <= _QFORM_WARNING_MM:
        return remark
    mend = "see which is right; `--fix-headers OUT` mends it where image and label decide"
    return Remark(remark.kind, "warning", remark.what, mend)


def _out_of_memory(path: Path) -> Remark:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from error
    what = f"memory ran out while reading its {size} bytes"
    return Remark("memory", "error", what, "use fewer workers, or crop the image")
