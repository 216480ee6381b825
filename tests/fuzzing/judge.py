"""What became of one damaged input, and how much memory it took."""

import io
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dicom_files import pydicom
from fuzzing.plain import plain
from fuzzing.seeds import Seed
from fuzzing.texts import TEXT_READERS
from unpaired.checks.case import inspect
from unpaired.datasets.dataset import Case, Dataset
from unpaired.errors import UnpairedError, UsageError
from unpaired.io.dicom import DicomSource
from unpaired.io.nifti import as_label
from unpaired.io.read import read_image
from unpaired.io.volume import Volume, corner_offset

GOOD = ("refused with a sentence", "read truly", "read as its header says")
REFUSED, TRUE, LEGAL = GOOD
SILENT, NAMELESS, TRACEBACK, MEMORY = "silent", "sentence without name", "traceback", "memory"
# Peak memory of reading, in honest sizes (bytes of the files and of their true voxels); less than
# the base counts as the base.
MEMORY_FACTOR, MEMORY_BASE = 4.0, 4 << 20
_CUTS = ("cut", "inner cut")


@dataclass(frozen=True)
class Outcome:
    """How it ended.

    Attributes:
        verdict: one of `GOOD`, or what is wrong.
        detail: the sentence, or the exception.
        factor: peak memory, in honest sizes.
    """

    verdict: str
    detail: str
    factor: float


def judge(seed: Seed, truth: object, target: Path, how: str, honest: int) -> Outcome:
    """Read `target` and hold the result against the true one and against the plain readers.

    Args:
        truth: what the undamaged input gives.
        how: the damage done.
        honest: bytes of the files and of their voxels, unpacked.
    """
    read: Callable[[Path], object] = TEXT_READERS.get(seed.kind, read_image)
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = read(target)
        verdict, detail = "", ""
    except UnpairedError as error:
        verdict, detail = _sentence(error, target)
    except Exception as error:
        verdict, detail = TRACEBACK, f"{type(error).__name__}: {error}"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    factor = peak / max(honest, MEMORY_BASE)
    if factor > MEMORY_FACTOR:
        return Outcome(MEMORY, f"{peak} bytes for {honest}; {verdict} {detail}", factor)
    if not verdict:
        verdict, detail = _accepted(seed, truth, found, target, how)
    return Outcome(verdict, detail, factor)


def _sentence(error: UnpairedError, target: Path) -> tuple[str, str]:
    text = str(error)
    if isinstance(error.__cause__, MemoryError):
        return MEMORY, text
    names = [target.name, target.with_suffix(".json").name, target.parent.name]
    names += [path.name for path in target.rglob("*.dcm")] if target.is_dir() else []
    shown = text.replace("\n", "") if isinstance(error, UsageError) else text
    whole = any(name in text for name in names) and shown.isprintable() and len(text) < 3000
    return (REFUSED if whole else NAMELESS), text


def _accepted(seed: Seed, truth: object, found: object, target: Path, how: str) -> tuple[str, str]:
    if not isinstance(found, Volume):
        if found == truth:
            return TRUE, ""
        legal = TEXT_READERS[seed.kind].says(target, found)
        return (LEGAL, "") if legal else (SILENT, f"{how}: {found!r}"[:2000])
    assert isinstance(truth, Volume)
    fault = _later_fault(found, target)
    if fault:
        return TRACEBACK, fault
    if seed.kind.startswith("dicom"):
        same = _same(found, truth.array, truth.affine, 1e-6)
        if same:
            return TRUE, ""
        return (LEGAL, "") if _as_slices_say(found) and how not in _CUTS else (SILENT, how)
    try:
        voxels, affine = plain(target)
        voxels = voxels if voxels.dtype.kind != "f" else voxels.astype(np.float32)
    except Exception as error:
        return SILENT, f"{how}: accepted, the plain reader says {type(error).__name__}: {error}"
    if _same(found, truth.array, truth.affine, 0):
        return TRUE, ""
    if how in _CUTS:
        return SILENT, f"{how}: accepted, other than the true file"
    if _same(found, voxels, affine, 1e-4):
        return LEGAL, ""
    return SILENT, f"{how}: {found.array.shape}, {found.affine} for {voxels.shape}, {affine}"


def _same(found: Volume, voxels: np.ndarray, affine: np.ndarray, mm: float) -> bool:
    if found.array.shape != voxels.shape:
        return False
    moved = corner_offset(found.affine, affine, voxels.shape)
    scale = float(np.abs(affine).max())
    near = np.allclose(found.array, voxels, rtol=1e-6, atol=1e-6 * float(np.abs(voxels).max()))
    exact = np.array_equal(found.array, voxels)
    return (exact if mm == 0 else near) and moved <= mm * max(1.0, scale)


def _as_slices_say(found: Volume) -> bool:
    """Every slice holds the voxels of its file, and lies where that says."""
    assert isinstance(found.source, DicomSource)
    for k, frame in enumerate(found.source.frames):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one = pydicom.dcmread(io.BytesIO(frame.path.read_bytes()), force=True)
            if "TransferSyntaxUID" not in one.file_meta:
                one.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            planes = one.pixel_array.reshape(-1, one.Rows, one.Columns)
        where, values = one, one
        if "PerFrameFunctionalGroupsSequence" in one:
            own = one.PerFrameFunctionalGroupsSequence[frame.index]
            shared = one.SharedFunctionalGroupsSequence[0]
            where = own.PlanePositionSequence[0]
            both = (own, shared)
            values = next(
                (s.PixelValueTransformationSequence[0] for s in both
                 if "PixelValueTransformationSequence" in s), one,
            )  # fmt: skip
        slope, offset = values.get("RescaleSlope"), values.get("RescaleIntercept")
        told = planes[frame.index].T * float(1 if slope is None else slope)
        told = told + float(0 if offset is None else offset)
        if not np.allclose(found.array[..., k], told, rtol=1e-5, atol=1e-3):
            return False
        place = np.array([float(v) for v in where.ImagePositionPatient]) * [-1, -1, 1]
        off = np.abs(found.affine[:3, :3] @ [0, 0, k] + found.affine[:3, 3] - place).max()
        if off > 0.1 + 0.02 * found.spacing_mm[2]:
            return False
    return True


def _later_fault(found: Volume, target: Path) -> str:
    """What is read must also be a label, or refused as one; and be examined by the check."""
    try:
        as_label(found, target.name)
    except UnpairedError:
        pass
    except Exception as error:
        return f"as a label: {type(error).__name__}: {error}"
    case = Case("a", "ct", (target,), target, "a")
    labels = {"background": 0, "liver": 1}
    found_by_check = inspect(case, Dataset("ct", target.parent, ("CT",), labels, ()))[1]
    return next((one.what for one in found_by_check if one.kind == "fault"), "")
