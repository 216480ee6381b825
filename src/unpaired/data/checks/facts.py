"""What the comparison between scans needs to know of one of them."""

from dataclasses import dataclass, field
from pathlib import Path

from unpaired.data.checks.finding import Index


@dataclass(frozen=True)
class Touch:
    """An organ that the image's edge may cut: its voxels there, and one of them."""

    value: int
    count: int
    at: Index


@dataclass(frozen=True)
class Facts:
    """Small enough to keep of every scan.

    Attributes:
        spacing_mm, shape: in canonical order (Superior, Posterior, Left).
        axes: letters such as "RAS"; where the file's axes point.
        digests: (content hash, file) of each channel.
        label_digest: of the label; empty without one, or where it is empty.
        voxels: label value -> voxels; None without a label.
        stored: voxel type of each file, such as "int16".
        touches: what lies at the image's edge.
        seconds: how long reading the files took.
    """

    modality: str
    case: str
    patient: str = ""
    held_out: bool = False
    spacing_mm: tuple[float, float, float] | None = None
    shape: tuple[int, int, int] | None = None
    axes: str = ""
    digests: tuple[tuple[str, Path], ...] = ()
    label: Path | None = None
    label_digest: str = ""
    voxels: dict[int, int] | None = None
    stored: tuple[tuple[str, Path], ...] = ()
    touches: tuple[Touch, ...] = field(default=())
    seconds: float = 0.0

    @property
    def values(self) -> frozenset[int] | None:
        """Label values that occur; None without a label."""
        return None if self.voxels is None else frozenset(self.voxels)

    @property
    def file(self) -> Path | None:
        """The first image that could be read."""
        return self.digests[0][1] if self.digests else None
