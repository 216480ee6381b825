"""What preparing and training need: memory, disk and time, from the sizes that were seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unpaired.checks.cohort import ScanSummary, turn_alike
from unpaired.checks.finding import Finding, Remark, Severity
from unpaired.datasets.dataset import Dataset
from unpaired.datasets.planes import Lattice
from unpaired.io.volume import Orientation
from unpaired.names import plural

# Per voxel: the file, its voxels, a float copy of the box, the resampled channel, and the resampler
# at work; measured on whole data sets of CT and MR, as is the speed (one core).
_BYTES_FILE, _BYTES_TARGET = 12, 20
# What a process that prepares holds before its first case: the interpreter, torch and our imports.
_BASE_BYTES = 280 << 20
_VOXELS_A_SECOND = 4e7
# The patch is the median image's size, so that half of the images are a little smaller.
_MUCH_SMALLER = 0.9


@dataclass(frozen=True)
class Resources:
    """Estimates for `unpaired prepare` with the default spacing.

    Attributes:
        memory_bytes: of one process with the largest case.
        disk_bytes: of the prepared cases.
        seconds: in one process.
    """

    cases: int
    memory_bytes: int
    disk_bytes: int
    seconds: float


def preparation_resources(
    datasets: Mapping[str, Dataset], scans: Sequence[ScanSummary]
) -> Resources | None:
    """What preparing the labelled cases takes; None without any."""
    _, known = turn_alike([scan for scan in scans if scan.voxels is not None])
    if not known:
        return None
    target = np.median([spacing for _, spacing, _ in known], axis=0)
    memory = disk = 0
    seconds = 0.0
    for scan, spacing, shape in known:
        channels = len(datasets[scan.modality].channel_names) if scan.modality in datasets else 1
        native = int(np.prod(shape))
        size = np.multiply(spacing, shape) / target
        new = int(np.prod(np.maximum(1, np.rint(size))))
        memory = max(memory, (_BYTES_FILE * native + _BYTES_TARGET * new) * (1 + channels) // 2)
        disk += (2 * channels + 1) * new
        seconds += scan.seconds + channels * (native + new) / _VOXELS_A_SECOND
    return Resources(len(known), memory + _BASE_BYTES, disk, seconds)


def preparation_finding(
    needed: Resources, workers: int, free_memory: int, free_disk: int
) -> Finding:
    """The estimate as a line of the table; a warning where there is less."""
    many = max(1, workers)
    memory = needed.memory_bytes * many + _BASE_BYTES * (many > 1)  # the one that shares them out
    cases = plural(needed.cases, "case")
    what = (
        f"preparing {cases} takes about {_time(needed.seconds / many)} with {many} "
        f"process{'es' * (many > 1)}, {_size(memory)} of memory ({_size(free_memory)} free) and "
        f"{_size(needed.disk_bytes)} of disk ({_size(free_disk)} free here)"
    )
    short = memory > free_memory or needed.disk_bytes > free_disk
    mend = "use fewer workers, make room, or give data.spacing_mm" if short else "nothing"
    amount = f"{_size(memory)}, {_size(needed.disk_bytes)}"
    return Remark("needs", "warning" if short else "note", what, mend, amount).about("")


def patch_findings(
    scans: Sequence[ScanSummary],
    spacing_mm: Sequence[float],
    turn: Callable[[Lattice], Orientation],
    patch: Sequence[int],
) -> list[Finding]:
    """Images that are smaller than the training patch on the plan's grid, which are padded.

    Args:
        spacing_mm: (slice, row, column) of the plan.
        turn: how the plan turns a scan's axes into these.
        patch: (rows, columns), or (slices, rows, columns).
    """
    size = " x ".join(map(str, patch))
    small: dict[str, list[tuple[float, ScanSummary]]] = {}
    known = [(scan, scan.lattice) for scan in scans if scan.lattice]
    for scan, lattice in known:
        order = list(turn(lattice).axes)
        extent = np.multiply(lattice.spacing_mm, lattice.shape)[order] / spacing_mm
        share = float((extent[-len(patch) :] / patch).min())
        if share < _MUCH_SMALLER:
            small.setdefault(scan.modality, []).append((share, scan))
    findings = []
    for modality, own in small.items():
        share, worst = min(own, key=lambda pair: pair[0])
        what = (
            f"the patch of {size} voxels is much larger than {plural(len(own), 'image')}; "
            f"{worst.case} has {100 * share:.0f} % of a side"
        )
        mend = "nothing; they are padded, or give data.patch"
        severity: Severity = "warning" if share < 0.5 else "note"
        remark = Remark("patch", severity, what, mend, f"{100 * share:.0f} %")
        findings.append(remark.about(modality, worst.case, worst.file))
    return findings


def training_finding(
    memory_bytes: int, free_bytes: int, step_seconds: float, steps: int, device: str
) -> Finding:
    """What a training needs as a line of the table; a warning where memory is short."""
    what = (
        f"training takes about {_size(memory_bytes)} of memory on {device} ({_size(free_bytes)} "
        f"free) and {_time(step_seconds * steps)} for {steps} steps ({step_seconds:.2g} s a step)"
    )
    short = memory_bytes > free_bytes
    mend = "lower train.batch_size" if short else "nothing"
    severity: Severity = "warning" if short else "note"
    return Remark("needs", severity, what, mend, _size(memory_bytes)).about("")


def _size(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
