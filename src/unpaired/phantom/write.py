"""Phantoms as files: the nnU-Net raw layout, one folder a modality."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int16, UInt8

from unpaired.errors import UsageError
from unpaired.files import read_json, write_json
from unpaired.io.nifti import write_volume
from unpaired.io.volume import Volume
from unpaired.leftovers import sweep
from unpaired.phantom import scan
from unpaired.phantom.level import LEVELS, Level, Number
from unpaired.phantom.render import fitted_subject, render
from unpaired.phantom.scan import CT_GEOMETRY, MR_GEOMETRY, Geometry, Physics
from unpaired.phantom.subject import ORGANS
from unpaired.phantom.tissue import CT, T1, T2, Contrast
from unpaired.progress import Progress
from unpaired.workers import Work, share_out

VERSION = 1  # of the generator: files of another version are not mixed with these


@dataclass(frozen=True)
class Modality:
    """One kind of scan: its look, its scanner, and how its files number the organs."""

    channel: str
    contrast: Contrast
    geometry: Geometry
    physics: Physics
    labels: Mapping[str, int]


# The same organs under other numbers, in another order: classes are joined by name.
MODALITIES: dict[str, Modality] = {
    "ct": Modality(
        "CT",
        CT,
        CT_GEOMETRY,
        scan.ct,
        {"spleen": 1, "right_kidney": 2, "left_kidney": 3, "liver": 4},
    ),
    "mr": Modality(
        "T2",
        T2,
        MR_GEOMETRY,
        scan.mr,
        {"liver": 63, "right_kidney": 126, "left_kidney": 189, "spleen": 252},
    ),
    "t1": Modality(
        "T1",
        T1,
        MR_GEOMETRY,
        scan.mr,
        {"liver": 63, "right_kidney": 126, "left_kidney": 189, "spleen": 252},
    ),
}
_WORLD = {"R": (2, -1), "L": (2, 1), "A": (1, -1), "P": (1, 1), "S": (0, 1), "I": (0, -1)}


def make_subject(
    modality: str, subject: int, level: Level, q: Number, seed: int
) -> tuple[Int16[np.ndarray, "i j k"], UInt8[np.ndarray, "i j k"], Float64[np.ndarray, "4 4"]]:
    """Scan one subject: image and label in file order, and the affine (voxel -> RAS mm).

    Args:
        modality: "ct", "mr" or "t1"; subject n of two modalities is two different patients.
        q: multiplies the in-plane spacing and divides the matrix; the anatomy stays the same.
    """
    look, key = MODALITIES[modality], (seed, modality, subject)
    axes, slice_mm = scan.slices(look.geometry, q, key)
    ideal = render(fitted_subject(key, level), look.contrast, level, key, axes)
    image = scan.as_int16(look.physics(ideal, axes, level, key))
    parts = look.geometry.parts
    table = np.array([0, *(look.labels[name] for name in ORGANS)], np.uint8)
    label = table[ideal.label[parts // 2 :: parts]]
    first = np.array([axes.z[parts // 2], axes.y[0], axes.x[0]])
    return _to_file(image, label, look.geometry, first, (slice_mm, axes.width_mm, axes.width_mm))


def _to_file(
    image: np.ndarray,
    label: np.ndarray,
    geometry: Geometry,
    first_mm: np.ndarray,
    spacing_mm: tuple[float, float, float],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = [_WORLD[code] for code in geometry.codes]
    axes = [axis for axis, _ in order]
    flips = tuple(slice(None, None, sign) for _, sign in order)
    affine = np.diag([0.0, 0, 0, 1])
    start = np.array(first_mm, dtype=float)
    for column, (axis, sign) in enumerate(order):
        ras = (2, 1, 0)[axis]  # S, P, L -> rows of the affine
        affine[ras, column] = sign * spacing_mm[axis] * (1 if ras == 2 else -1)
        if sign < 0:
            start[axis] += spacing_mm[axis] * (image.shape[axis] - 1)
    affine[:3, 3] = (-start[2], -start[1], start[0])
    return image.transpose(axes)[flips], label.transpose(axes)[flips], affine


@dataclass(frozen=True)
class Drawing:
    """How the cases are drawn.

    Attributes:
        level: how hard they are, a name of `LEVELS`.
        quality: multiplies the in-plane spacing and divides the matrix, 0.5 (fine) to 4 (coarse).
    """

    level: str = "std"
    seed: int = 0
    quality: Number = 1.5


def write_phantom(
    folder: Path,
    counts: Mapping[str, int],
    *,
    workers: int = 2,
    progress: Progress | None = None,
    **drawing: Any,
) -> dict[str, Path]:
    """Write `counts[modality]` cases of each modality in the nnU-Net raw layout.

    Args:
        workers: processes.
        drawing: the fields of `Drawing` by name: `level`, `seed`, `quality`.

    Existing cases made with the same settings are kept, so an interrupted call goes on.

    Returns:
        modality -> its folder (`folder/ct`, ...).

    Raises:
        UsageError: an unknown level or modality, a count below 1, or `folder` holds a phantom of
            other settings.
        ResourceError: a file cannot be written.
    """
    drawn = Drawing(**drawing)
    _check(counts, drawn)
    settings = {
        "version": VERSION,
        "seed": drawn.seed,
        "quality": drawn.quality,
        "level": drawn.level,
        "knobs": asdict(LEVELS[drawn.level]),
    }
    sweep(folder, deep=True)
    _claim(folder, settings)
    jobs = [
        (folder / modality, modality, number, drawn)
        for modality, count in counts.items()
        for number in range(1, count + 1)
        if not all(path.exists() for path in _paths(folder / modality, modality, number))
    ]
    for done, name in enumerate(_run(jobs, min(workers, len(jobs))), 1):
        if progress is not None:
            progress(done, sum(counts.values()), name)
    for modality in counts:
        _describe(folder / modality, modality)
    return {modality: folder / modality for modality in counts}


def _run(jobs: list[tuple[Path, str, int, Drawing]], workers: int) -> Iterator[str]:
    """The names of the scans, as they are written."""
    if workers <= 1:
        yield from (_write_case(*job) for job in jobs)
        return
    names = [f"{modality} {number}" for _, modality, number, _ in jobs]
    yield from share_out(Work(_write_case, jobs, names, "making"), workers)


def _check(counts: Mapping[str, int], drawn: Drawing) -> None:
    level, quality = drawn.level, drawn.quality
    if level not in LEVELS:
        raise UsageError(f"there is no phantom level {level!r}; choose from {', '.join(LEVELS)}.")
    for modality, count in counts.items():
        if modality not in MODALITIES:
            known = ", ".join(MODALITIES)
            raise UsageError(f"there is no phantom modality {modality!r}; choose from {known}.")
        if count < 1:
            raise UsageError(f"{count} cases of {modality} were asked for; ask for 1 or more.")
    if not counts:
        raise UsageError("no modality was asked for; give for example ct=12,mr=12.")
    if not 0.5 <= quality <= 4:
        raise UsageError(f"quality {quality} is out of range; give 0.5 (fine) to 4 (coarse).")


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "phantom.json"
    if path.exists() and read_json(path) != settings:
        raise UsageError(
            f"{folder} holds a phantom of other settings (see {path.name}). "
            "Choose another folder, or remove this one."
        )
    write_json(path, settings)


def _paths(root: Path, modality: str, number: int) -> tuple[Path, Path]:
    name = f"{modality}_{number:03d}"
    return root / "imagesTr" / f"{name}_0000.nii.gz", root / "labelsTr" / f"{name}.nii.gz"


def _write_case(root: Path, modality: str, number: int, drawn: Drawing) -> str:
    level = LEVELS[drawn.level]
    image, label, affine = make_subject(modality, number, level, drawn.quality, drawn.seed)
    image_path, label_path = _paths(root, modality, number)
    write_volume(image_path, image, Volume(image, affine))
    write_volume(label_path, label, Volume(label, affine))
    return label_path.name.removesuffix(".nii.gz")


def _describe(root: Path, modality: str) -> None:
    look = MODALITIES[modality]
    write_json(
        root / "dataset.json",
        {
            "name": f"phantom {modality}",
            "description": "Synthetic abdomen; no patient.",
            "channel_names": {"0": look.channel},
            "labels": {"background": 0, **look.labels},
            "numTraining": len(list((root / "labelsTr").glob("*.nii.gz"))),
            "file_ending": ".nii.gz",
        },
    )
