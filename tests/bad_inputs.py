"""The 43 inputs that a check of data must survive, each built by a function of its own."""

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nifti_files import dataset, patch, save
from small_sets import straight

SHAPE = (24, 20, 17)
LABELS = {"background": 0, "liver": 1, "spleen": 2}
GRID = straight((3.0, 3.0, 3.0))


@dataclass
class Made:
    """What was built, and how it is handed in.

    Attributes:
        roots: modality -> data set; or `path`, a file or folder by itself.
        file: the odd file, for other readers; None if no single file is odd.
        deny: a file that may not be read (root may read anything, so tests act it).
    """

    roots: dict[str, Path] = field(default_factory=dict)
    path: Path | None = None
    file: Path | None = None
    splits: Path | None = None
    folds: int | None = None
    deny: Path | None = None


@dataclass(frozen=True)
class Bad:
    """One input: its number in the design, a name, the finding that must come, its builder.

    Attributes:
        severity: of the finding; "" where the input is read and nothing need be said.
        kind, words, amount: of the finding; words and amount stand in it.
    """

    number: str
    name: str
    severity: str
    kind: str
    words: str
    amount: str
    build: Callable[[Path], Made]

    @property
    def id(self) -> str:
        return f"{self.number} {self.name}".replace(" ", "-")


INPUTS: list[Bad] = []


def bad(number: str, name: str, severity: str, kind: str = "", words: str = "", amount: str = ""):
    """Register a builder."""

    def keep(build: Callable[[Path], Made]) -> Callable[[Path], Made]:
        INPUTS.append(Bad(number, name, severity, kind, words, amount, build))
        return build

    return keep


# ---- a good data set to spoil


def scan(seed: int, shape=SHAPE) -> np.ndarray:
    """A body in air, in Hounsfield units, int16; an organ on each side."""
    rng = np.random.default_rng(seed)
    image = np.full(shape, -1000, np.int16)
    inner = (*(slice(2, n - 2) for n in shape[:2]), slice(None))
    image[inner] = rng.integers(-100, 80, [*(n - 4 for n in shape[:2]), shape[2]])
    image[organs(seed, shape) > 0] += 60
    return image


def organs(number: int, shape=SHAPE) -> np.ndarray:
    """Liver (1) at the patient's right, spleen (2) at the left; no two numbers alike."""
    label = np.zeros(shape, np.uint8)
    label[5:10, 6:14, 5:12] = 1
    label[15:19, 6:13, 5:11] = 2
    label[5 + number % 5, 14, 5 + number // 5 % 7] = 1
    return label


def cases(count=4, seed=0, mr=False, shape=SHAPE):
    out = {}
    for n in range(count):
        image = scan(seed + n, shape)
        out[f"c{n}"] = ([(image + 1000) // 2 if mr else image], organs(seed + n, shape), GRID)
    return out


def ct(root: Path, found=None, **more) -> Path:
    return dataset(root / "ct", found or cases(), labels=LABELS, **more)


def mr(root: Path, found=None, **more) -> Path:
    return dataset(
        root / "mr", found or cases(seed=20, mr=True), labels=LABELS, channels=("T1",), **more
    )


def image_of(root: Path, case="c1") -> Path:
    return root / "imagesTr" / f"{case}_0000.nii.gz"


def label_of(root: Path, case="c1") -> Path:
    return root / "labelsTr" / f"{case}.nii.gz"


def image(root: Path, array=None, matrix=None, **more) -> Made:
    """The data set with another image for c1."""
    base = ct(root)
    file = save(image_of(base), scan(1) if array is None else array,
                GRID if matrix is None else matrix, **more)  # fmt: skip
    return Made({"ct": base}, file=file)


def label(root: Path, array=None, matrix=None, **more) -> Made:
    """The data set with another label for c1."""
    base = ct(root)
    file = save(label_of(base), organs(1) if array is None else array,
                GRID if matrix is None else matrix, **more)  # fmt: skip
    return Made({"ct": base}, file=file)


def content(root: Path, data: bytes) -> Made:
    """The data set with other bytes for c1's image."""
    base = ct(root)
    image_of(base).write_bytes(data)
    return Made({"ct": base}, file=image_of(base))


def header(root: Path, changes: dict, *, label_too=False, matrix=None, codes=(1, 1)) -> Made:
    """The data set with other header fields for c1's image."""
    base = ct(root)
    files = [image_of(base), *([label_of(base)] if label_too else [])]
    for file, array in zip(files, (scan(1), organs(1)), strict=False):
        plain = save(root / "plain.nii", array, GRID if matrix is None else matrix, codes=codes)
        for name, value in changes.items():
            patch(plain, name, value)
        file.write_bytes(gzip.compress(plain.read_bytes()))
    return Made({"ct": base}, file=files[0])


def about(root: Path, text: str | bytes) -> Made:
    """The data set with another dataset.json."""
    base = ct(root)
    data = text.encode() if isinstance(text, str) else text
    (base / "dataset.json").write_bytes(data)
    return Made({"ct": base}, file=None)


def split_file(root: Path, *folds) -> Path:
    file = root / "splits_final.json"
    file.write_text(json.dumps(folds))
    return file


# ---- files


@bad("1", "truncated gzip", "error", "file", "ends too early", "bytes")
def _(root):
    good = image_of(ct(root)).read_bytes()
    return content(root, good[: len(good) * 2 // 3])


@bad("2", "flipped bit", "error", "file", "damaged", "bytes")
def _(root):
    data = bytearray(image_of(ct(root)).read_bytes())
    data[-8] ^= 1  # of the checksum
    return content(root, bytes(data))


@bad("3", "empty file", "error", "file", "is empty", "bytes")
def _(root):
    return content(root, b"")


@bad("4", "web page", "error", "file", "a web page, not an image", "bytes")
def _(root):
    return content(root, b"<!DOCTYPE html><html><body>Sign in</body></html>")


@bad("4", "LFS pointer", "error", "file", "a Git LFS pointer", "bytes")
def _(root):
    return content(root, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


@bad("5", "plain NIfTI named .gz", "note", "file-name", "plain NIfTI, though the name ends in .gz")
def _(root):
    return content(root, gzip.decompress(image_of(ct(root)).read_bytes()))


@bad("6", "more voxels promised", "error", "file", "the header promises", "1920352 bytes")
def _(root):
    return header(root, {"dim": (3, 24, 20, 2000, 1, 1, 1, 1)})


@bad("7", "huge dimensions", "error", "file", "more than 2147483648", "voxels")
def _(root):
    return header(root, {"dim": (3, 32767, 32767, 32767, 1, 1, 1, 1)})


@bad("8", "decompression bomb", "error", "file", "more data than the header promises")
def _(root):
    good = gzip.decompress(image_of(ct(root)).read_bytes())
    return content(root, gzip.compress(good + bytes(1 << 26), 1))


@bad("9", "RGB", "error", "file", "type RGB are not supported")
def _(root):
    return image(root, np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]))


@bad("9", "complex", "error", "file", "type complex64 are not supported")
def _(root):
    return image(root, scan(1).astype(np.complex64))


@bad("9", "unknown type", "error", "file", "the voxel type 3 is unknown")
def _(root):
    return header(root, {"datatype": 3})


@bad("10", "int64", "note", "voxel-type", "1 image file of int64 voxels", "8 bytes")
def _(root):
    return image(root, scan(1).astype(np.int64))


@bad("10", "uint32", "note", "voxel-type", "1 image file of uint32 voxels", "4 bytes")
def _(root):
    base = mr(root)
    return Made({"mr": base}, file=save(image_of(base), (scan(1) + 1000).astype(np.uint32), GRID))


@bad("10", "float64", "note", "voxel-type", "1 image file of float64 voxels", "8 bytes")
def _(root):
    return image(root, scan(1).astype(np.float64))


@bad("11", "4D with one volume", "note", "axes", "the trailing ones of size 1", "4 axes")
def _(root):
    return image(root, scan(1)[..., None])


@bad("11", "4D with two volumes", "error", "file", "more than one volume", "4 axes")
def _(root):
    return image(root, np.stack([scan(1), scan(2)], -1))


@bad("12", "picture", "error", "file", "is a picture of 24 x 20")
def _(root):
    return image(root, scan(1)[..., 8])


@bad("13", "axis of size 0", "error", "file", "an axis has no voxels")
def _(root):
    return header(root, {"dim": (3, 24, 0, 17, 1, 1, 1, 1)})


@bad("13", "one slice", "note", "one-slice", "the volume has one slice", "24 x 20 x 1 voxels")
def _(root):
    made = image(root, scan(1)[..., 8:9])
    save(label_of(made.roots["ct"]), organs(1)[..., 8:9], GRID)
    return made


@bad("14", "unreadable", "error", "file", "may not be read by this user")
def _(root):
    base = ct(root)
    return Made({"ct": base}, file=image_of(base), deny=image_of(base))


@bad("15", "dangling link", "error", "file", "is a link to")
def _(root):
    base = ct(root)
    image_of(base).unlink()
    image_of(base).symlink_to(root / "gone.nii.gz")
    return Made({"ct": base}, file=image_of(base))


@bad("15", "link loop", "error", "file", "cannot read")
def _(root):
    base = ct(root)
    image_of(base).unlink()
    image_of(base).symlink_to(image_of(base))
    return Made({"ct": base}, file=image_of(base))


def renamed(root: Path, name: str) -> Made:
    base = ct(root)
    image_of(base).rename(image_of(base, name))
    label_of(base).rename(label_of(base, name))
    return Made({"ct": base}, file=image_of(base, name))


@bad("16", "space in the name", "")
def _(root):
    return renamed(root, "case one")


@bad("16", "emoji in the name", "")
def _(root):
    return renamed(root, "heart\U0001fac0")


@bad("16", "newline in the name", "warning", "case-name", "cannot be printed", "1 character")
def _(root):
    return renamed(root, "new\nline")


@bad("16", "name not UTF-8", "warning", "case-name", "cannot be printed", "1 character")
def _(root):
    return renamed(root, os.fsdecode(b"caf\xe9"))


@bad("16", "very long name", "error", "case-name", "the case's name has 235 bytes")
def _(root):
    return renamed(root, "x" * 235)


@bad("17", "a.nii beside a.nii.gz", "error", "twins", "lies beside", "2 files")
def _(root):
    base = ct(root)
    save(image_of(base).with_suffix(""), scan(9), GRID)
    return Made({"ct": base}, file=image_of(base))


@bad("18", "hidden files", "note", "hidden", "2 hidden files are passed over", "2 files")
def _(root):
    base = ct(root)
    (base / "imagesTr" / "._c1_0000.nii.gz").write_bytes(b"\0\5\x16\7")
    (base / "labelsTr" / ".DS_Store").write_bytes(b"\0")
    return Made({"ct": base}, file=base / "imagesTr" / "._c1_0000.nii.gz")


# ---- geometry


@bad("19", "label of another shape", "error", "label-shape", "the label has 24 x 20 x 16 voxels",
     "24 x 20 x 16 voxels")  # fmt: skip
def _(root):
    return label(root, organs(1)[..., :16])


def moved(mm: float) -> np.ndarray:
    out = GRID.copy()
    out[0, 3] += mm
    return out


@bad("20", "label 0.0005 mm off", "")
def _(root):
    return label(root, matrix=moved(0.0005))


@bad("20", "label 0.02 mm off", "error", "label-grid", "lies up to 0.02 mm off", "0.02 mm")
def _(root):
    return label(root, matrix=moved(0.02))


@bad("20", "label 7.5 mm off", "error", "label-grid", "lies up to 7.5 mm off", "7.5 mm")
def _(root):
    return label(root, matrix=moved(7.5))


@bad("21", "NaN in the affine", "error", "file", "holds NaN or infinity")
def _(root):
    return header(root, {"srow_x": (np.nan, 0, 0, 0)})


@bad("21", "singular affine", "error", "file", "the spacing is 4.243 x 0 x 3 mm", "mm")
def _(root):
    return header(root, {"srow_y": (-3, 0, 0, 0), "srow_x": (-3, 0, 0, 0)})


@bad("22", "zero spacing", "error", "file", "the spacing is 3 x 0 x 3 mm", "3 x 0 x 3 mm")
def _(root):
    return header(root, {"pixdim": (1, 3, 0, 3, 0, 0, 0, 0)}, codes=(0, 0))


@bad(
    "22", "negative spacing", "warning", "pixdim", "is negative, taken as positive", "3 x -3 x 3 mm"
)
def _(root):
    return header(root, {"pixdim": (1, 3, -3, 3, 0, 0, 0, 0)}, label_too=True, codes=(0, 0))


@bad("22", "NaN spacing", "error", "file", "holds NaN or infinity")
def _(root):
    return header(root, {"pixdim": (1, 3, np.nan, 3, 0, 0, 0, 0)}, codes=(0, 0))


@bad("22", "absurd spacing", "error", "file", "outside 0.01 to 100 mm", "3000 x 3000 x 3000 mm")
def _(root):
    return image(root, matrix=straight((3000.0, 3000.0, 3000.0)))


@bad("22", "zero pixdim, sound sform", "note", "pixdim", "disagrees with the sform's spacing")
def _(root):
    return header(root, {"pixdim": (1, 3, 0, 3, 0, 0, 0, 0)}, codes=(0, 1))


@bad("23", "shear", "error", "file", "sheared by", "degrees")
def _(root):
    bent = GRID.copy()
    bent[1, 2] = 0.8
    return header(root, {}, matrix=bent, codes=(0, 1))


@bad("24", "qform and sform differ", "warning", "two-geometries", "differ by up to 9 mm", "9 mm")
def _(root):
    return header(root, {"qoffset_x": 9.0}, label_too=True)


@bad("24", "no orientation stored", "warning", "orientation", "left and right are a guess")
def _(root):
    return header(root, {}, label_too=True, codes=(0, 0))


@bad("25", "mixed orientations", "note", "directions", "LPS 3, RAS 1", "1 of 4 cases")
def _(root):
    found = cases()
    one = found["c1"]
    turned = GRID @ np.diag([-1.0, -1.0, 1.0, 1.0])
    turned[:2, 3] = -3.0 * (np.array(SHAPE[:2]) - 1)
    flipped = [a[::-1, ::-1] for a in (one[0][0], one[1])]
    found["c1"] = ([flipped[0]], flipped[1], turned)
    base = ct(root, found)
    return Made({"ct": base}, file=image_of(base))


@bad("26", "channels on different grids", "error", "channel-grid", "the channel lies up to 4 mm",
     "4 mm")  # fmt: skip
def _(root):
    found = {n: ([i[0], i[0] + 5], lab, m) for n, (i, lab, m) in cases(mr=True).items()}
    base = dataset(root / "mr", found, labels=LABELS, channels=("T1", "T2"))
    file = save(base / "imagesTr" / "c1_0001.nii.gz", found["c1"][0][1], moved(4.0))
    return Made({"mr": base}, file=file)


@bad("27", "extreme anisotropy", "note", "anisotropy", "voxels are very long (1 x 1 x 9 mm)",
     "1 x 1 x 9 mm")  # fmt: skip
def _(root):
    long = straight((1.0, 1.0, 9.0))
    made = image(root, matrix=long)
    save(label_of(made.roots["ct"]), organs(1), long)
    return made


@bad("27", "image smaller than the others", "warning", "size", "the scan covers", "12 x 12 x 12 mm")
def _(root):
    small = (slice(8, 12),) * 3
    made = image(root, scan(1)[small])
    one = np.zeros((4, 4, 4), np.uint8)
    one[1:3, 1:3, 1:3] = 1
    save(label_of(made.roots["ct"]), one, GRID)
    return made


# ---- intensities and labels


def spoilt(root: Path, value: float) -> Made:
    array = scan(1).astype(np.float32)
    array[4, 5, 6:9] = value
    return image(root, array)


@bad("28", "NaN", "error", "file", "3 of 8160 voxels are NaN or infinite",
     "3 of 8160 voxels")  # fmt: skip
def _(root):
    return spoilt(root, np.nan)


@bad("28", "infinity", "error", "file", "3 of 8160 voxels are NaN or infinite",
     "3 of 8160 voxels")  # fmt: skip
def _(root):
    return spoilt(root, np.inf)


@bad("29", "constant image", "error", "constant", "every voxel is 5", "8160 voxels")
def _(root):
    return image(root, np.full(SHAPE, 5, np.int16))


@bad("29", "one black slice", "warning", "blank-slice", "1 of 17 slices inside the volume",
     "1 of 17 slices")  # fmt: skip
def _(root):
    array = scan(1)
    array[..., 9] = -1000
    return image(root, array)


@bad("29", "a slice twice", "warning", "same-slice", "equal the slice before", "1 of 17 slices")
def _(root):
    array = scan(1)
    array[..., 9] = array[..., 8]
    return image(root, array)


@bad("30", "CT without its intercept", "warning", "hounsfield", "(-1024) was forgotten", "%")
def _(root):
    return image(root, scan(1) + 1024)


@bad("30", "MR declared as CT", "warning", "hounsfield", "neither air nor fat, as in an MR", "%")
def _(root):
    return image(root, (scan(1) + 1000) // 2)


@bad("30", "CT declared as MR", "warning", "hounsfield", "look like a CT's")
def _(root):
    base = mr(root)
    return Made({"mr": base}, file=save(image_of(base), scan(1), GRID))


def valued(root: Path, value: float, dtype=np.float64) -> Made:
    array = organs(1).astype(dtype)
    array[6, 7, 8:11] = value
    return label(root, array)


@bad("31", "unknown label value", "error", "label-value", "does not name: 7 (3 voxels)", "3 voxels")
def _(root):
    return valued(root, 7, np.uint8)


@bad("32", "label 0.9999999", "note", "float-label", "float labels, rounded by up to 1e-07")
def _(root):
    return valued(root, 0.9999999)


@bad("32", "label 0.5", "error", "file", "a label holds fractions (such as 0.5)")
def _(root):
    return valued(root, 0.5)


@bad("33", "negative label", "error", "file", "negative values (down to -1)")
def _(root):
    return valued(root, -1, np.int16)


@bad("34", "empty label", "warning", "label-empty", "the label is empty", "0 voxels")
def _(root):
    return label(root, np.zeros(SHAPE, np.uint8))


@bad("35", "class absent from a modality", "warning", "class-absent", "no label holds 'spleen'",
     "0 of 4 cases")  # fmt: skip
def _(root):
    found = cases()
    for _, one, _ in found.values():
        one[one == 2] = 0
    return Made({"ct": ct(root, found)})


@bad("35", "class absent from a fold", "error", "split-class",
     "fold 0: no train label of ct holds spleen", "0 of 3 cases")  # fmt: skip
def _(root):
    found = cases()
    for name in ("c0", "c1", "c2"):
        one = found[name][1]
        one[one == 2] = 0
    file = split_file(root, {"train": ["c0", "c1", "c2"], "val": ["c3"]})
    return Made({"ct": ct(root, found)}, splits=file)


@bad("36", "JSON with a key twice", "error", "dataset-json", "the key 'labels' appears twice")
def _(root):
    return about(root, '{"channel_names": {"0": "CT"}, "labels": {"a": 1}, "labels": {"b": 1}}')


@bad("36", "JSON with NaN", "error", "dataset-json", "NaN is not JSON")
def _(root):
    return about(root, '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": NaN}}')


@bad("36", "JSON with wrong types", "error", "dataset-json", "must be an integer, not 1.5")
def _(root):
    return about(root, '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1.5}}')


@bad("36", "JSON with a byte-order mark", "")
def _(root):
    text = (ct(root) / "dataset.json").read_text()
    return about(root, b"\xef\xbb\xbf" + text.encode())


# ---- data sets


@bad("37", "modality without a case", "error", "layout", "holds no <case>_0000.nii.gz")
def _(root):
    base = ct(root)
    for file in base.rglob("*.nii.gz"):
        file.unlink()
    return Made({"ct": base, "mr": mr(root)})


@bad("37", "modality with one case", "warning", "cases", "there is one labelled case", "1 case")
def _(root):
    return Made({"ct": ct(root, cases(1))})


@bad("37", "none of a modality in training", "error", "split-empty",
     "fold 0: no case of mr is in train", "0 cases")  # fmt: skip
def _(root):
    everything = [f"ct/c{n}" for n in range(3)]
    file = split_file(root, {"train": everything, "val": ["ct/c3", "mr/m0", "mr/m1"]})
    found = {f"m{n}": one for n, one in enumerate(cases(2, seed=20, mr=True).values())}
    return Made({"ct": ct(root), "mr": mr(root, found)}, splits=file)


@bad("38", "fewer patients than folds", "error", "folds", "ct has 4 patients, too few for 5 folds",
     "4 patients")  # fmt: skip
def _(root):
    return Made({"ct": ct(root)}, folds=5)


@bad("39", "one image as two cases", "error", "copy", "the same image as", "100 %")
def _(root):
    return image(root, scan(0))


@bad("39", "one image, other type and axes", "error", "copy", "the same image as", "100 %")
def _(root):
    turned = GRID @ np.diag([-1.0, 1.0, -1.0, 1.0])
    made = image(root, scan(0)[::-1, :, ::-1].astype(np.float32), turned)
    save(label_of(made.roots["ct"]), organs(1)[::-1, :, ::-1], turned)
    return made


@bad("39", "one image in CT and in MR", "error", "copy", "the same image as", "100 %")
def _(root):
    found = cases(seed=20, mr=True)
    found["c2"] = cases()["c2"]
    base = mr(root, found)
    return Made({"ct": ct(root), "mr": base}, file=image_of(base, "c2"))


@bad("39", "a patient in training and test", "error", "split-patient",
     "fold 0: the patient p7 is in train (ct/c0) and test (ct/c1)", "1 patient")  # fmt: skip
def _(root):
    base = ct(root)
    known = json.loads((base / "dataset.json").read_text())
    known["patients"] = {"c0": "p7", "c1": "p7"}
    (base / "dataset.json").write_text(json.dumps(known))
    file = split_file(root, {"train": ["c0", "c2"], "val": ["c3"], "test": ["c1"]})
    return Made({"ct": base}, splits=file)


@bad("40", "image without a label", "error", "no-label", "there is no label in labelsTr", "1 case")
def _(root):
    base = ct(root)
    label_of(base).unlink()
    return Made({"ct": base})


@bad("40", "label without an image", "error", "no-image", "there is no image in imagesTr", "1 case")
def _(root):
    base = ct(root)
    image_of(base).unlink()
    return Made({"ct": base})


def listed(root: Path, case: str) -> Made:
    """A manifest with a case of that name."""
    base = ct(root)
    (base / "scans.json").write_text((base / "dataset.json").read_text())
    lines = ["case,image,label,modality"]
    for n, name in enumerate(("c0", case, "c2")):
        lines.append(f"{name},imagesTr/c{n}_0000.nii.gz,labelsTr/c{n}.nii.gz,ct")
    (base / "scans.csv").write_text("\n".join(lines))
    return Made({"ct": base / "scans.csv"})


@bad("41", "case id with ../", "error", "case-name", "no safe file name", "1 case")
def _(root):
    return listed(root, "../c1")


@bad("41", "absolute case id", "error", "case-name", "no safe file name", "1 case")
def _(root):
    return listed(root, "/tmp/c1")


@bad("41", "reserved case id", "error", "case-name", "no safe file name", "1 case")
def _(root):
    return renamed(root, "con")


@bad("41", "ids that differ by case", "error", "case-name", "upper and lower case only", "2 cases")
def _(root):
    return renamed(root, "C0")


# ---- DICOM


def series(root: Path, edit=None, **more) -> Made:
    from dicom_files import write_series

    folder = root / "series"
    files = write_series(folder, scan(1) + 1000, GRID, intercept=-1000, edit=edit, **more)
    return Made(path=folder, file=files[8])


@bad(
    "42",
    "missing slice",
    "error",
    "file",
    "the first after slice 7",
    "mm",
)
def _(root):
    made = series(root)
    made.file.unlink()
    return made


@bad("42", "slice twice", "error", "file", "lie where another one lies")
def _(root):
    def edit(one, k):
        if k == 8:
            one.ImagePositionPatient[2] = f"{3 * 7:g}"

    return series(root, edit)


@bad("42", "uneven slices", "error", "file", "the gaps between slices are uneven", "mm")
def _(root):
    def edit(one, k):
        if k == 8:
            one.ImagePositionPatient[2] = f"{3 * 8 + 1.2:g}"

    return series(root, edit)


@bad("42", "truncated slice", "error", "file", "008.dcm")
def _(root):
    made = series(root)
    made.file.write_bytes(made.file.read_bytes()[:-200])
    return made


@bad("43", "two series in a folder", "error", "file", "holds 2 image series")
def _(root):
    from dicom_files import STUDY, write_series

    made = series(root)
    write_series(made.path, scan(2) + 1000, GRID, uid=f"{STUDY}.3", number=3,
                 name=lambda k: f"b{k:03d}.dcm")  # fmt: skip
    return made


@bad("43", "localiser in the series", "note", "read", "localizer images of the series are left out")
def _(root):
    def edit(one, k):
        if k == 0:
            one.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    return series(root, edit)


@bad("43", "mixed orientation", "error", "file", "different directions", "90.0 degrees")
def _(root):
    def edit(one, k):
        if k == 8:
            one.ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]

    return series(root, edit)


@bad("43", "mixed size", "error", "file", "different sizes")
def _(root):
    def edit(one, k):
        if k == 8:
            one.Rows, one.Columns = one.Columns, one.Rows

    return series(root, edit)


@bad("43", "enhanced multi-frame", "")
def _(root):
    from dicom_files import write_enhanced

    file = write_enhanced(root / "series" / "one.dcm", scan(1) + 1000, GRID)
    return Made(path=root / "series", file=file)


@bad("43", "no rescale slope", "warning", "rescale", "no rescale slope is stored")
def _(root):
    def edit(one, k):
        del one.RescaleSlope, one.RescaleIntercept

    return series(root, edit)


@bad("43", "enhanced CT without slope", "warning", "rescale", "no rescale slope is stored")
def _(root):
    from dicom_files import CLASSES, write_enhanced

    def edit(one):
        one.Modality, one.SOPClassUID = "CT", CLASSES["enhanced CT"]
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
        del one.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence

    file = write_enhanced(root / "series" / "one.dcm", scan(1) + 1000, GRID, edit=edit)
    return Made(path=root / "series", file=file)


@bad("43", "enhanced CT, slope beside the groups", "")
def _(root):
    from dicom_files import CLASSES, write_enhanced

    def edit(one):
        one.Modality, one.SOPClassUID = "CT", CLASSES["enhanced CT"]
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
        del one.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
        one.RescaleSlope, one.RescaleIntercept = "1", "-1000"

    file = write_enhanced(root / "series" / "one.dcm", scan(1) + 1000, GRID, edit=edit)
    return Made(path=root / "series", file=file)


def interleaved(root: Path, modality: str, tag: str, values, odd=(5, 11, 13)) -> Made:
    """A series of which some slices are of another image."""

    def edit(one, k):
        setattr(one, tag, values[k in odd])

    return series(root, edit, modality=modality)


@bad("43", "phase among magnitude", "error", "file", "holds 2 images in one series (they differ in "
     "ImageType)", "slices")  # fmt: skip
def _(root):
    kinds = [["ORIGINAL", "PRIMARY", part] for part in "MP"]
    return interleaved(root, "MR", "ImageType", kinds)


@bad("43", "another echo among the slices", "error", "file", "differ in EchoTime", "slices")
def _(root):
    return interleaved(root, "MR", "EchoTime", ["4.76", "9.52"])


@bad("43", "another b-value among the slices", "error", "file", "differ in DiffusionBValue",
     "slices")  # fmt: skip
def _(root):
    return interleaved(root, "MR", "DiffusionBValue", [0.0, 800.0])


@bad(
    "43", "MR acquisitions that alternate", "error", "file", "differ in AcquisitionNumber", "slices"
)
def _(root):
    return interleaved(root, "MR", "AcquisitionNumber", [1, 2], range(0, 17, 2))


@bad("43", "CT acquisitions that alternate", "warning", "interleaved",
     "AcquisitionNumber differs among the slices")  # fmt: skip
def _(root):
    return interleaved(root, "CT", "AcquisitionNumber", [1, 2], range(0, 17, 2))


@bad("43", "declared padding", "note", "padding", "of the voxels are declared padding", "%")
def _(root):
    def edit(one, k):
        array = scan(1)[..., k] + 1000
        array[np.add.outer(np.arange(24), np.arange(20)) < 12] = -2000
        one.PixelData, one.PixelPaddingValue = array.T.astype("<i2").tobytes(), -2000

    return series(root, edit)


@bad("43", "padding alone", "error", "file", "every voxel is padding")
def _(root):
    def edit(one, k):
        one.PixelData, one.PixelPaddingValue = np.full(480, -2000, "<i2").tobytes(), -2000

    return series(root, edit)


@bad("43", "MONOCHROME1", "error", "file", "MONOCHROME1")
def _(root):
    def edit(one, k):
        one.PhotometricInterpretation = "MONOCHROME1"

    return series(root, edit)


@bad("43", "codec that is not there", "error", "file", "JPEG 2000")
def _(root):
    from pydicom.uid import RLELossless

    def save(one, path):
        one.compress(RLELossless, generate_instance_uid=False)
        one.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"  # high-throughput JPEG 2000
        one.save_as(path, enforce_file_format=True)

    return series(root, save=save)


# ---- what the design does not number


@bad("+", "loose pieces of an organ", "warning", "fragments", "liver 2 pieces of 3 voxels",
     "3 voxels, 0.6")  # fmt: skip
def _(root):
    array = organs(1)
    array[20, 16, 3:5] = array[3, 3, 14] = 1
    return label(root, array)


@bad("+", "left and right swapped", "error", "sides", "swapped", "29 mm")
def _(root):
    named = {"background": 0, "left kidney": 1, "right kidney": 2}
    base = dataset(root / "ct", cases(), labels=named)
    return Made({"ct": base}, file=label_of(base, "c0"))


@bad("+", "mirrored label", "warning", "sides", "to the right of the", "mm")
def _(root):
    return label(root, organs(1)[::-1].copy())


@bad("+", "label outside the body", "warning", "outside", "lies in the air around the body", "%")
def _(root):
    array = scan(1)
    array[:13] = -1000
    made = image(root, array)
    return Made(made.roots, file=label_of(made.roots["ct"]))


@bad("+", "label of another case", "warning", "label-copy", "the same label as c0's", "100 %")
def _(root):
    return label(root, organs(0))


@bad("+", "organ at the edge", "note", "edge", "the edge of the image cuts spleen in 1 of 4 cases",
     "42 voxels")  # fmt: skip
def _(root):
    array = organs(1)
    array[15:24, 6:13, 5:11] = 2
    return label(root, array)


@bad("+", "organ of an odd size", "warning", "organ-size", "liver has 0.648 ml", "0.648 ml")
def _(root):
    base = ct(root, cases(6))
    array = organs(1)
    array[array == 1] = 0
    array[5:9, 6:9, 5:7] = 1
    return Made({"ct": base}, file=save(label_of(base), array, GRID))


@bad("+", "spacing outlier", "warning", "spacing", "is far from the usual 3 x 3 x 3 mm",
     "9 x 3 x 3 mm")  # fmt: skip
def _(root):
    long = straight((3.0, 3.0, 9.0))
    made = image(root, matrix=long)
    save(label_of(made.roots["ct"]), organs(1), long)
    return made


@bad("+", "lengths in microns", "note", "units", "in microns, and converted to mm (8 files)",
     "8 files")  # fmt: skip
def _(root):
    base = ct(root)
    for n in range(4):
        for file in (image_of(base, f"c{n}"), label_of(base, f"c{n}")):
            in_microns(file)
    return Made({"ct": base}, file=None)


@bad("+", "label without the image's unit", "error", "label-grid", "lengths are in another unit",
     "mm")  # fmt: skip
def _(root):
    base = ct(root)
    in_microns(image_of(base), factor=10)
    in_microns(label_of(base), "unknown", factor=10)
    return Made({"ct": base}, file=label_of(base))


def in_microns(file: Path, unit: str = "micron", factor: float = 1000) -> None:
    """The same voxels, the file's lengths times a factor in another unit."""
    import nibabel as nib

    old = nib.load(file)
    grid = np.vstack([old.affine[:3] * factor, [0, 0, 0, 1]])
    save(file, np.asarray(old.dataobj), grid, edit=lambda header: header.set_xyzt_units(unit))


@bad("+", "plain .nii that is packed", "note", "file-name", "compressed, though the name")
def _(root):
    path = root / "a.nii"
    path.write_bytes(gzip.compress(save(root / "b.nii", scan(1), GRID).read_bytes()))
    (root / "b.nii").unlink()
    return Made(path=path, file=path)
