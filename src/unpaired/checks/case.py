"""What is wrong with one scan: its files, its grid, its intensities, its label."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from time import perf_counter

import nibabel as nib
import numpy as np

from unpaired.checks import intensity, labels
from unpaired.checks.cohort import ScanSummary
from unpaired.checks.finding import Finding, Remark, Severity, read
from unpaired.checks.intensity import digest
from unpaired.data.content import Box, content_box, count_values
from unpaired.datasets.dataset import Case, Dataset
from unpaired.datasets.planes import lattice_of
from unpaired.datasets.sides import wrong_sides
from unpaired.io.read import read_image, read_label_image
from unpaired.io.volume import SAME_GRID_MM, Volume, corner_offset, same_grid
from unpaired.names import canonical_name

EXTREME_ANISOTROPY = 8.0
_SIDES_MEND = "compare with the scan in a viewer; swap the labels, or mirror what is mirrored"


def inspect(case: Case, dataset: Dataset) -> tuple[ScanSummary, list[Finding]]:
    """Read every file of one scan once; faults become findings, never exceptions.

    The label and one channel are held at a time.
    """
    scan = ScanSummary(case.modality, case.id, case.patient, case.held_out)
    findings: list[Finding] = []
    try:
        return _inspect(case, dataset, scan, findings)
    except MemoryError:
        what, mend = "memory ran out while it was checked", "use fewer workers, or crop the image"
        findings.append(Remark("memory", "error", what, mend).of(case, None))
    except Exception as error:  # a fault of the program must not hide the other cases
        what = f"the check itself failed ({type(error).__name__}: {error})"
        mend = "please report this as a fault of the program"
        findings.append(Remark("fault", "error", what, mend).of(case, case.images[0]))
    return scan, findings


def same_place(image: Volume, other: Volume, kind: str) -> Iterator[Remark]:
    """A label or channel that lies elsewhere than the first image.

    Args:
        kind: "label" or "channel".
    """
    offset = same_grid(image, other)
    if offset <= SAME_GRID_MM:
        return
    if not np.isinf(offset):
        what = f"the {kind} lies up to {offset:.3g} mm off the image's grid"
        mend = f"resample the {kind} onto the image"
        if _in_other_units(image, other):
            what += ": its lengths are in another unit"
            mend = f"write the image's unit (xyzt_units) into the {kind}'s header"
        if offset < 0.1 * min(image.spacing_mm):
            mend = "`unpaired check --fix-headers OUT` writes it with the image's geometry"
        yield Remark(f"{kind}-grid", "error", what, mend, f"{offset:.3g} mm")
        return
    sizes = [" x ".join(map(str, volume.array.shape)) for volume in (image, other)]
    what = f"the {kind} has {sizes[1]} voxels, the image {sizes[0]}"
    mend = f"resample the {kind} onto the image"
    yield Remark(f"{kind}-shape", "error", what, mend, f"{sizes[1]} voxels")


def _in_other_units(image: Volume, other: Volume) -> bool:
    """Whether a thousandth or the thousandfold of the other's lengths are the image's."""
    ratio = float(np.mean(np.divide(image.spacing_mm, other.spacing_mm)))
    factor = next((f for f in (1e-3, 1e3) if abs(ratio / f - 1) < 1e-3), None)
    if factor is None:
        return False
    scaled = np.vstack([other.affine[:3] * factor, [0, 0, 0, 1]])
    return corner_offset(image.affine, scaled, image.array.shape) <= SAME_GRID_MM


def voxel_shape(image: Volume) -> Iterator[Remark]:
    """Voxels that are very long, volumes of a single slice."""
    spacing = image.spacing_mm
    if max(spacing) > EXTREME_ANISOTROPY * min(spacing):
        text = " x ".join(f"{s:.3g}" for s in spacing)
        what = f"voxels are very long ({text} mm)"
        yield Remark("anisotropy", "note", what, "nothing; slices are learnt one by one, or crop")
    if 1 in image.array.shape:
        what = f"the volume has one slice ({' x '.join(map(str, image.array.shape))} voxels)"
        yield Remark("one-slice", "note", what, "nothing if it is meant so; else stack the slices")


def sides(image: Volume, label: Volume, labels: Mapping[str, int]) -> Iterator[Remark]:
    """Organs on the wrong side. A left organ right of its right twin is wrong in everybody; a liver
    on the left may be a rare patient."""
    wrong = wrong_sides(label, labels, image)
    if wrong is None:
        return
    twins = {
        name: value
        for name, value in labels.items()
        if re.search(r"\b(left|right)\b", canonical_name(name))
    }
    certain = bool(twins) and wrong_sides(label, twins) is not None
    severity: Severity = "error" if certain else "warning"
    yield Remark("sides", severity, wrong.sentence, _SIDES_MEND, f"{wrong.off_mm:.0f} mm")


def _inspect(
    case: Case, dataset: Dataset, scan: ScanSummary, findings: list[Finding]
) -> tuple[ScanSummary, list[Finding]]:
    began = perf_counter()
    label = read(case, case.label, read_label_image, findings) if case.label else None
    spent = perf_counter() - began
    if label is not None:
        scan = _with_label(scan, label)
        findings += [r.of(case, label.path) for r in _label_remarks(label, scan, dataset)]
    first: Volume | None = None
    for number, path in enumerate(case.images):
        began = perf_counter()
        image = read(case, path, read_image, findings)
        spent += perf_counter() - began
        if image is None:
            continue
        name = dataset.channel_names[number] if number < len(dataset.channel_names) else ""
        findings += [r.of(case, path) for r in intensity.intensities(image, name)]
        if first is not None:
            findings += [r.of(case, path) for r in same_place(first, image, "channel")]
        else:
            scan = _with_image(scan, image)
            findings += [r.of(case, path) for r in voxel_shape(image)]
            if label is not None:
                findings += [r.of(case, label.path) for r in _pair(image, label, dataset)]
        scan = replace(
            scan,
            box=_joined(scan.box, image.array),
            digests=(*scan.digests, (digest(image), path)),
            stored=(*scan.stored, (_stored(image), path)),
        )
        # Of the first channel only the grid is needed from here on.
        empty = np.broadcast_to(np.uint8(0), image.array.shape)
        first = first or replace(image, array=empty, padding=None)
        del image
    return replace(scan, seconds=spent), findings


def _pair(image: Volume, label: Volume, dataset: Dataset) -> Iterator[Remark]:
    apart = list(same_place(image, label, "label"))
    yield from apart
    if not apart:
        yield from sides(image, label, dataset.labels)
        yield from labels.outside_body(image, label, dataset.labels)


def _label_remarks(label: Volume, scan: ScanSummary, dataset: Dataset) -> Iterator[Remark]:
    counts = scan.voxels or {}
    yield from labels.values(label, counts, dataset.labels, dataset.ignore)
    yield from labels.fragments(label, dataset.labels, counts)


def _with_label(scan: ScanSummary, label: Volume) -> ScanSummary:
    counts = count_values(label.array)
    return replace(
        scan,
        label=label.path,
        voxels=counts,
        label_digest=digest(label) if set(counts) - {0} else "",
        touches=labels.touches(label),
    )


def _with_image(scan: ScanSummary, image: Volume) -> ScanSummary:
    return replace(scan, lattice=lattice_of(image), axes="".join(nib.aff2axcodes(image.affine)))


def _joined(box: Box | None, array: np.ndarray) -> Box | None:
    """The box of a scan's channels together; a constant one does not count."""
    if array.min() == array.max():
        return box
    own = content_box([array])
    if box is None:
        return own
    a, b, c = (
        (min(start, first), max(stop, last))
        for (start, stop), (first, last) in zip(box, own, strict=True)
    )
    return a, b, c


def _stored(image: Volume) -> str:
    """The type in the file, where it is known."""
    dtype = image.array.dtype if image.header is None else image.header.get_data_dtype()
    return np.dtype(dtype).newbyteorder("=").name
