"""What preparing will need, from the sizes that the check has seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unpaired.data.checks.facts import Facts
from unpaired.data.checks.finding import Finding, Remark
from unpaired.data.dataset import Dataset

# Per voxel: the file, its voxels, a float copy of the box, the resampled channel, and the resampler
# at work; measured on volumes of 4 to 60 million voxels.
_BYTES_FILE, _BYTES_TARGET = 12, 20
_BASE_BYTES = 250 << 20
_VOXELS_A_SECOND = 6e6


@dataclass(frozen=True)
class Needs:
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


def needs(datasets: Mapping[str, Dataset], facts: Sequence[Facts]) -> Needs | None:
    """What preparing the labelled cases takes; None without any."""
    known = [f for f in facts if f.voxels is not None and f.spacing_mm and f.shape]
    if not known:
        return None
    target = np.median([fact.spacing_mm for fact in known], axis=0)
    memory = disk = 0
    seconds = 0.0
    for fact in known:
        channels = len(datasets[fact.modality].channel_names) if fact.modality in datasets else 1
        native = int(np.prod(fact.shape or ()))
        size = np.multiply(fact.spacing_mm or (), fact.shape or ()) / target
        new = int(np.prod(np.maximum(1, np.rint(size))))
        memory = max(memory, (_BYTES_FILE * native + _BYTES_TARGET * new) * (1 + channels) // 2)
        disk += (2 * channels + 1) * new
        seconds += fact.seconds + channels * (native + new) / _VOXELS_A_SECOND
    return Needs(len(known), memory + _BASE_BYTES, disk, seconds)


def needs_finding(found: Needs, workers: int, free_memory: int, free_disk: int | None) -> Finding:
    """The estimate as a line of the table; a warning where there is less."""
    many = max(1, workers)
    memory = found.memory_bytes * many
    what = (
        f"preparing {found.cases} cases takes about {_time(found.seconds / many)} with {many} "
        f"process{'es' * (many > 1)}, {_size(memory)} of memory ({_size(free_memory)} free) and "
        f"{_size(found.disk_bytes)} of disk"
    )
    short = memory > free_memory or (free_disk is not None and found.disk_bytes > free_disk)
    mend = "use fewer workers, make room, or give data.spacing_mm" if short else "nothing"
    amount = f"{_size(memory)}, {_size(found.disk_bytes)}"
    return Remark("needs", "warning" if short else "note", what, mend, amount).about("")


def _size(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


def _time(seconds: float) -> str:
    return f"{max(1.0, seconds):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
