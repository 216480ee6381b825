"""True files to damage: a small one of every format, and what reading it gives."""

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from dicom_files import pydicom, voxels, write_enhanced, write_series
from nifti_files import affine, noise

SMALL, LARGE = (6, 5, 4), (160, 128, 96)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
IMAGES = (
    "nii", "nii-float", "nii-2", "nii-scaled", "nii.gz", "nrrd", "nrrd-gzip", "nhdr", "mha",
    "mha-zlib", "mhd", "mgh", "mgz", "dicom", "dicom-rle", "dicom-frames",
)  # fmt: skip
TEXTS = ("manifest", "manifest-json", "dataset-json", "decathlon-json", "splits-json", "toml")
PACKED = {"nii.gz": "gzip", "mgz": "gzip", "nrrd-gzip": "gzip", "mha-zlib": "zlib"}
"""Kinds whose voxels lie in a stream with a checksum."""


@dataclass(frozen=True)
class Seed:
    """A true input.

    Attributes:
        files: name -> bytes; those of a DICOM series lie in a folder.
        target: what is handed to the reader: a name, or "" for the folder itself.
        damaged: the names that damage may touch.
        content: bytes of the voxels, unpacked.
    """

    kind: str
    files: dict[str, bytes]
    target: str
    damaged: tuple[str, ...]
    content: int


def write(seed: Seed, folder: Path) -> Path:
    """Put the files into a folder of their own; the path to read."""
    for name, data in seed.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / seed.target if seed.target else folder


def make(kind: str, folder: Path, shape: tuple[int, int, int] = SMALL) -> Seed:
    """The true input of a kind; `folder` is empty and may be written to."""
    made = _MAKERS[kind](kind, folder, shape)
    names = tuple(made) if kind not in ("nhdr", "mhd") else ("scan.nhdr", "scan.mhd", "scan.raw")
    if kind in TEXTS:
        names = (_TEXT_NAMES[kind],)
    target = "" if kind.startswith("dicom") else next(iter(made))
    content = 0 if kind in TEXTS else 8 * int(np.prod(shape)) if kind == "nii-float" else 0
    content = content or (0 if kind in TEXTS else 2 * int(np.prod(shape)))
    return Seed(kind, made, target, tuple(n for n in names if n in made), content)


def _nifti(kind: str, folder: Path, shape: tuple[int, int, int]) -> dict[str, bytes]:
    form = nib.Nifti2Image if kind == "nii-2" else nib.Nifti1Image
    wide = kind == "nii-float"
    array = noise(shape, np.float64 if wide else np.int16)
    header = form.header_class(endianness=">" if wide else "<")
    image = form(array, affine(), header)
    image.header.set_data_dtype(array.dtype.newbyteorder(">" if wide else "<"))
    image.set_qform(affine(), 1)
    image.set_sform(None if wide else affine(), 0 if wide else 2)
    image.header.set_xyzt_units("mm")
    data = bytearray(image.to_bytes())
    if kind == "nii-scaled":
        np.frombuffer(data, nib.Nifti1Header.template_dtype, 1)["scl_slope"][0] = 0.5
        np.frombuffer(data, nib.Nifti1Header.template_dtype, 1)["scl_inter"][0] = -1024
    if kind == "nii.gz":
        return {"scan.nii.gz": gzip.compress(bytes(data), 4, mtime=0)}
    return {"scan.nii": bytes(data)}


def _nrrd(
    kind: str,
    folder: Path,
    shape: tuple[int, int, int],
    array: np.ndarray | None = None,
    place: np.ndarray | None = None,
) -> dict[str, bytes]:
    lps = LPS @ (affine() if place is None else place)
    body = (noise(shape) if array is None else array).astype("<i2").tobytes("F")
    vectors = [f"({','.join(repr(float(v)) for v in lps[:3, axis])})" for axis in range(4)]
    head = ["NRRD0004", "type: short", "dimension: 3", "space: left-posterior-superior"]
    head += [f"sizes: {' '.join(map(str, shape))}", f"space directions: {' '.join(vectors[:3])}"]
    head += ["kinds: domain domain domain", "endian: little"]
    head += [f"encoding: {'gzip' if 'gzip' in kind else 'raw'}", f"space origin: {vectors[3]}"]
    if kind == "nhdr":
        text = "\n".join([*head, "data file: scan.raw", "", ""])
        return {"scan.nhdr": text.encode(), "scan.raw": body}
    body = gzip.compress(body, 4, mtime=0) if "gzip" in kind else body
    return {"scan.nrrd": "\n".join([*head, "", ""]).encode() + body}


def _meta(
    kind: str,
    folder: Path,
    shape: tuple[int, int, int],
    array: np.ndarray | None = None,
    place: np.ndarray | None = None,
) -> dict[str, bytes]:
    lps = LPS @ (affine() if place is None else place)
    body = (noise(shape) if array is None else array).astype("<i2").tobytes("F")
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    packed = zlib.compress(body, 4) if kind == "mha-zlib" else body

    def words(values: np.ndarray) -> str:
        return " ".join(repr(float(v)) for v in values.ravel())

    head = ["ObjectType = Image", "NDims = 3", "BinaryData = True"]
    head += [f"CompressedData = {kind == 'mha-zlib'}"]
    head += [f"CompressedDataSize = {len(packed)}"] if kind == "mha-zlib" else []
    head += [
        f"TransformMatrix = {words((lps[:3, :3] / spacing).T)}",
        f"Offset = {words(lps[:3, 3])}",
    ]
    head += [f"ElementSpacing = {words(spacing)}", f"DimSize = {' '.join(map(str, shape))}"]
    head += ["ElementType = MET_SHORT"]
    if kind == "mhd":
        text = "\n".join([*head, "ElementDataFile = scan.raw", ""])
        return {"scan.mhd": text.encode(), "scan.raw": packed}
    return {"scan.mha": "\n".join([*head, "ElementDataFile = LOCAL", ""]).encode() + packed}


def _mgh(kind: str, folder: Path, shape: tuple[int, int, int]) -> dict[str, bytes]:
    data = nib.MGHImage(noise(shape), affine().astype(np.float32)).to_bytes()
    return {"scan.mgz": gzip.compress(data, 4, mtime=0)} if kind == "mgz" else {"scan.mgh": data}


def _dicom(kind: str, folder: Path, shape: tuple[int, int, int]) -> dict[str, bytes]:
    array = voxels(shape if shape == SMALL else (288, 256, 6))
    if kind == "dicom-frames":
        paths = [write_enhanced(folder / "x.dcm", array, affine())]
    elif kind == "dicom-rle":

        def save(one: pydicom.Dataset, path: Path) -> None:
            one.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
            one.save_as(path, enforce_file_format=True)

        paths = write_series(folder, array, affine(), slope=0.5, intercept=-3, save=save)
    else:
        paths = write_series(folder, array, affine(), intercept=-24)
    return {f"series/{path.name}": path.read_bytes() for path in paths}


ABOUT = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "right kidney": 2}}
ROWS = """case,image,label,modality,patient,split
a,a.nii.gz,a_label.nii.gz,ct,p1,train
b,b.nii.gz,b_label.nii.gz,ct,p1,train
c,c.nii.gz,,ct,p3,test
m,a.nii.gz,b_label.nii.gz,mr,p4,
"""
TOML = """[data]
spacing_mm = [3.0, 1.5, 1.5]
patch = [64, 64]
context = 3
split = [0.7, 0.1, 0.2]

[model]
variant = "V3"
heads = 4
options = {embed_dim = 12, depths = [1, 1, 2]}

[modalities.ct]
clip = "window"
low = -200.0
high = 300.0

[train]
steps = 100
learning_rate = 5e-4
deterministic = true
"""


def _text(kind: str, folder: Path, shape: tuple[int, int, int]) -> dict[str, bytes]:
    one = b"not read here"
    about = json.dumps(ABOUT, indent=1).encode()
    if kind in ("manifest", "manifest-json"):
        images = {f"{name}.nii.gz": one for name in ("a", "b", "c", "a_label", "b_label")}
        return {"scans.csv": ROWS.encode(), "scans.json": about, **images}
    if kind == "toml":
        return {"run.toml": TOML.encode()}
    folds = [{"train": ["ct/a", "ct/b"], "val": ["ct/c"], "test": ["mr/d"]}] * 2
    if kind == "splits-json":
        return {"splits_final.json": json.dumps(folds).encode()}
    files = {f"{p}Tr/{n}{e}.nii.gz": one for n in "ab" for p, e in (("images", ""), ("labels", ""))}
    if kind == "dataset-json":
        files = {name.replace(".nii", "_0000.nii") if name[0] == "i" else name: b""
                 for name in files}  # fmt: skip
        return {"dataset.json": about, **files}
    listed = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in "ab"]
    whole = {**ABOUT, "training": listed, "test": ["./imagesTs/c.nii.gz"]}
    return {"dataset.json": json.dumps(whole).encode(), **files, "imagesTs/c.nii.gz": one}


_TEXT_NAMES = {
    "manifest": "scans.csv",
    "manifest-json": "scans.json",
    "dataset-json": "dataset.json",
    "decathlon-json": "dataset.json",
    "splits-json": "splits_final.json",
    "toml": "run.toml",
}
_MAKERS: dict[str, Callable[[str, Path, tuple[int, int, int]], dict[str, bytes]]] = {
    **dict.fromkeys([k for k in IMAGES if k.startswith("nii")], _nifti),
    **dict.fromkeys(("nrrd", "nrrd-gzip", "nhdr"), _nrrd),
    **dict.fromkeys(("mha", "mha-zlib", "mhd"), _meta),
    **dict.fromkeys(("mgh", "mgz"), _mgh),
    **dict.fromkeys([k for k in IMAGES if k.startswith("dicom")], _dicom),
    **dict.fromkeys(TEXTS, _text),
}


def write_detached(folder: Path, kind: str, array: np.ndarray, affine: np.ndarray) -> Path:
    """An image as a header ("nhdr" or "mhd") with its voxels in a file beside it."""
    made = {"nhdr": _nrrd, "mhd": _meta}[kind](kind, folder, array.shape, array, affine)
    for name, data in made.items():
        (folder / f"{kind}-{name}").write_bytes(
            data.replace(b"scan.raw", f"{kind}-scan.raw".encode())
        )
    return folder / f"{kind}-scan.{kind}"
