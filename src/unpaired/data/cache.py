"""The cache: prepared cases as memory maps (int16 image, uint8 label) with a record beside."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unpaired import files
from unpaired.data.content import Box, annotated_slices, class_slices
from unpaired.data.plan import Plan
from unpaired.data.preprocess import PreparedImage
from unpaired.datasets.nnunet import check_ids
from unpaired.errors import DataError
from unpaired.names import file_name

# A symmetric range, so that the middle of the channel's range is exactly 0.
_LEVELS = 32767
_CHUNK = 1 << 22


@dataclass(frozen=True)
class PreparedCase:
    """One prepared case; arrays stay on disk until read.

    Attributes:
        scale, shift: per channel; intensity = stored * scale + shift.
        shape: (d, h, w).
        box: what was kept of the native image, canonical axes.
        grid: its shape on the plan's grid; `shape` where no frame was cut.
        frame: what was cut out of the grid; None where nothing was.
        slices: class -> sorted indices of the slices that hold it (empty without a label).
        annotated: sorted indices of the slices that hold an annotated voxel, where some hold
            ignored ones; None where every voxel is annotated.
        record: the whole sidecar, with the provenance.
    """

    id: str
    modality: str
    patient: str
    folder: Path
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    box: Box
    labelled: bool
    slices: dict[int, np.ndarray] = field(repr=False)
    record: dict[str, Any] = field(repr=False)
    grid: tuple[int, int, int] | None = None
    frame: Box | None = None
    annotated: np.ndarray | None = None

    def image(self) -> np.ndarray:
        """Memory map, int16 [K d h w]."""
        return _open(image_path(self.folder, self.id), (len(self.scale), *self.shape), np.int16)

    def label(self) -> np.ndarray | None:
        """Memory map, uint8 [d h w], `IGNORED` where nobody annotated; None without a label."""
        if not self.labelled:
            return None
        return _open(label_path(self.folder, self.id), self.shape, np.uint8)

    def verify(self) -> None:
        """Compare the arrays with the checksums in the record.

        Raises:
            DataError: one is missing or damaged, or the record has none.
        """
        written = self.record.get("sha256")
        if not isinstance(written, list):
            raise DataError(
                f"{record_path(self.folder, self.id)} has no checksums (an earlier version wrote "
                "it); prepare again."
            )
        paths = _array_paths(self.folder, self.id, self.labelled)
        found = [files.sha256_of(path) for path in paths]
        for path, now, then in zip(paths, found, written, strict=True):
            if now != then:
                raise DataError(f"{path} is damaged (its checksum changed); prepare again.")

    @property
    def minimum(self) -> tuple[float, ...]:
        """The smallest intensity of each channel: what a margin is filled with."""
        return tuple(b - _LEVELS * a for a, b in zip(self.scale, self.shift, strict=True))

    def intensities(self, stored: np.ndarray, channel: int) -> np.ndarray:
        """Stored int16 of one channel -> float32."""
        return stored * np.float32(self.scale[channel]) + np.float32(self.shift[channel])


@dataclass(frozen=True)
class Intensities:
    """A prepared image [K d h w] that gives float32 where it is indexed."""

    case: PreparedCase

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, slices, rows, columns."""
        return (len(self.case.scale), *self.case.shape)

    def __getitem__(self, key: Any, /) -> np.ndarray:
        scale, shift = (
            np.asarray(v, np.float32)[:, None, None, None]
            for v in (self.case.scale, self.case.shift)
        )
        channels = key[0] if isinstance(key, tuple) else key
        return self.case.image()[key] * _like(scale[channels]) + _like(shift[channels])


def _like(value: np.ndarray) -> np.ndarray:
    return value.reshape(()) if value.size == 1 else value


@dataclass(frozen=True)
class PreparedSet:
    """A folder of prepared cases and the plan they follow."""

    folder: Path
    plan: Plan
    cases: dict[str, tuple[PreparedCase, ...]]


def image_path(folder: Path, case: str) -> Path:
    """The image's memory map."""
    return folder / f"{file_name(case)}.npy"


def label_path(folder: Path, case: str) -> Path:
    """The label's memory map."""
    return folder / f"{file_name(case)}.label.npy"


def record_path(folder: Path, case: str) -> Path:
    """The sidecar; written last, so where it is the arrays are whole."""
    return folder / f"{file_name(case)}.json"


def quantise(image: np.ndarray) -> tuple[np.ndarray, list[float], list[float]]:
    """float32 [K d h w] -> int16 of the same shape, scale and shift per channel.

    The error is at most half a scale, 1/131068 of the channel's range.
    """
    stored = np.empty(image.shape, np.int16)
    scales, shifts = [], []
    for k, channel in enumerate(image):
        low, high = float(channel.min()), float(channel.max())
        scale, shift = (high - low) / (2 * _LEVELS), (high + low) / 2
        for z, plane in enumerate(channel):  # slice by slice: no second float volume
            levels = np.rint((plane - shift) / scale) if scale else np.zeros_like(plane)
            stored[k, z] = levels.clip(-_LEVELS, _LEVELS)
        scales.append(scale)
        shifts.append(shift)
    return stored, scales, shifts


def write_case(
    folder: Path, image: PreparedImage, label: np.ndarray | None, record: Mapping[str, Any]
) -> None:
    """Write the arrays, then the record; until the record is there the case does not count."""
    case = record["id"]
    record_path(folder, case).unlink(missing_ok=True)
    stored, scale, shift = quantise(image.array)
    digests = [_save(image_path(folder, case), stored)]
    if label is None:
        label_path(folder, case).unlink(missing_ok=True)
    else:
        digests.append(_save(label_path(folder, case), label))
    turn = image.orientation
    geometry = {
        "shape": image.array.shape[1:],
        "spacing_mm": image.spacing_mm,
        "native_shape": image.native_shape,
        "box": image.box,
        "grid": image.grid,
        "frame": image.frame,
        "orientation": {"axes": turn.axes, "flips": turn.flips},
        "scale": scale,
        "shift": shift,
        "labelled": label is not None,
        "slices": {} if label is None else class_slices(label),
        "annotated": None if label is None else annotated_slices(label),
        "bytes": _sizes(folder, case, label is not None),
        "sha256": digests,
    }
    files.write_json(record_path(folder, case), {**record, **geometry}, seal=True)


def read_case(folder: Path, case: str) -> PreparedCase:
    """Open one prepared case.

    Raises:
        DataError: a file is missing, damaged or of another size than recorded.
    """
    record = files.read_json(record_path(folder, case))
    try:
        if record["id"] != case:
            raise DataError(f"{record_path(folder, case)} names another case; prepare again.")
        if _sizes(folder, case, record["labelled"]) != record["bytes"]:
            damaged = image_path(folder, case)
            raise DataError(f"{damaged} or its label is damaged (its size changed); prepare again.")
        return PreparedCase(
            id=record["id"],
            modality=record["modality"],
            patient=record["patient"],
            folder=folder,
            shape=tuple(record["shape"]),
            spacing_mm=tuple(record["spacing_mm"]),
            scale=tuple(record["scale"]),
            shift=tuple(record["shift"]),
            box=_box(record["box"]),
            labelled=record["labelled"],
            slices={int(c): np.array(z, np.int64) for c, z in record["slices"].items()},
            record=record,
            grid=tuple(record.get("grid", record["shape"])),
            frame=None if record.get("frame") is None else _box(record["frame"]),
            annotated=_numbers(record.get("annotated")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{record_path(folder, case)} is not a record of a prepared case; prepare again."
        ) from error


def _numbers(values: Sequence[int] | None) -> np.ndarray | None:
    return None if values is None else np.array(values, np.int64)


def _box(spans: Sequence[Sequence[int]]) -> Box:
    a, b, c = ((int(start), int(stop)) for start, stop in spans)
    return a, b, c


def with_others(
    folder: Path, plan: Plan, cases: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """`cases` and those of the folder's index that are whole and follow the same plan."""
    merged = {m: sorted(ids) for m, ids in cases.items()}
    try:
        before = _read_index(folder / "prepared.json")
    except DataError:
        return merged
    for m, ids in before.items():
        if m in plan.modalities:
            kept = [i for i in ids if i not in merged.get(m, ()) and _follows(folder / m, i, plan)]
            merged[m] = sorted([*merged.get(m, ()), *kept])
    return merged


def _follows(folder: Path, case: str, plan: Plan) -> bool:
    try:
        return bool(read_case(folder, case).record["plan"] == plan.fingerprint(folder.name))
    except (DataError, KeyError):
        return False


def write_index(folder: Path, plan: Plan, cases: Mapping[str, Sequence[str]]) -> None:
    """Say which cases belong to the prepared set, and by which plan."""
    plan.write(folder / "plan.json")
    index = {m: list(ids) for m, ids in cases.items()}
    files.write_json(folder / "prepared.json", index, seal=True)


def open_prepared(folder: Path) -> PreparedSet:
    """Open what `prepare` finished.

    Raises:
        DataError: preparation did not finish, files are damaged, or follow another plan.
    """
    index = folder / "prepared.json"
    if not index.is_file():
        raise DataError(f"{folder} holds no finished preparation; run `unpaired prepare` again.")
    plan = Plan.read(folder / "plan.json")
    cases: dict[str, tuple[PreparedCase, ...]] = {}
    for modality, ids in _read_index(index).items():
        if modality not in plan.modalities:
            raise DataError(f"{index} names {modality!r}, plan.json does not; prepare again.")
        cases[modality] = tuple(read_case(folder / modality, case) for case in ids)
        for case in cases[modality]:
            if case.record.get("plan") != plan.fingerprint(modality):
                raise DataError(f"{case.folder / case.id}.npy follows another plan; prepare again.")
    return PreparedSet(folder, plan, cases)


def _read_index(path: Path) -> dict[str, list[str]]:
    """Modality -> case ids, each a safe file name."""
    index = files.read_json(path)
    try:
        check_ids(index.keys(), path)
        for ids in index.values():
            check_ids(ids, path)
    except (TypeError, AttributeError) as error:
        raise DataError(f"{path} is not an index of prepared cases; prepare again.") from error
    cases: dict[str, list[str]] = index
    return cases


def _save(path: Path, array: np.ndarray) -> str:
    """Write as .npy; the sha256 of the file. Through Python, which says why a write failed."""
    head, array = io.BytesIO(), np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    body = array.reshape(-1).view(np.uint8).data
    digest = hashlib.sha256()
    with files.atomic(path) as temporary, temporary.open("wb") as file:
        chunks = (body[i : i + _CHUNK] for i in range(0, len(body), _CHUNK))
        for part in (head.getbuffer(), *chunks):
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


def _array_paths(folder: Path, case: str, labelled: bool) -> list[Path]:
    return [image_path(folder, case), *([label_path(folder, case)] if labelled else [])]


def _sizes(folder: Path, case: str, labelled: bool) -> list[int]:
    try:
        return [path.stat().st_size for path in _array_paths(folder, case, labelled)]
    except OSError as error:
        raise DataError(f"{error.filename} is missing; prepare again.") from error


def _open(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot open {path}: {error}. Prepare again.") from error
    if array.shape != shape or array.dtype != dtype:
        raise DataError(
            f"{path} holds {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}; "
            "prepare again."
        )
    return array
