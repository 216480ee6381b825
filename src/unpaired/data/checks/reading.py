"""Reading one file for the check: whatever goes wrong becomes a finding, never an exception."""

import re
from collections.abc import Callable
from pathlib import Path

from unpaired.data.checks.finding import Finding, Remark, Severity, from_error
from unpaired.datasets.dataset import Case
from unpaired.errors import DataError, UnpairedError
from unpaired.io.volume import Volume

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
    ("float labels", "float-label", "note", "nothing; save labels as integers"),
    ("no rescale slope", "rescale", "warning", "export the series again with its rescale slope"),
    ("another series is not read", "series", "note", "nothing, or give the other series a folder"),
)  # fmt: skip


def read(
    case: Case, path: Path, reader: Callable[[Path], Volume], found: list[Finding]
) -> Volume | None:
    """The volume, or None; notes and faults are added to `found`."""
    try:
        volume = reader(path)
    except UnpairedError as error:
        found.append(from_error(error, case.modality, case.id, path))
        return None
    except MemoryError:
        found.append(_out_of_memory(path).of(case, path))
        return None
    except Exception as error:  # a fault of the program must not hide the other cases
        what = f"the reader failed on it ({type(error).__name__}: {error})"
        mend = "export it again; please report this as a fault of the program"
        found.append(Remark("fault", "error", what, mend).of(case, path))
        return None
    found += [remark_of(note).of(case, path) for note in volume.notes]
    return volume


def remark_of(note: str) -> Remark:
    """A reader's note with its severity and what to do."""
    for pattern, kind, severity, mend in _NOTES:
        if re.search(pattern, note):
            remark = Remark(kind, severity, note, mend)
            return _weighed(remark) if kind == "two-geometries" else remark
    return Remark("read", "note", note, "nothing; it is handled")


def _weighed(remark: Remark) -> Remark:
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
