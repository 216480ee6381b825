"""What fuzzing found, each as one small file: refused in a sentence, without taking memory."""

import gzip
import json
import struct
import tracemalloc
import warnings

import nibabel as nib
import numpy as np
import pytest

from fuzzing.damage import elements
from fuzzing.seeds import ABOUT, ROWS, make, write
from nifti_files import affine, noise, patch, save
from unpaired import inflate
from unpaired.config import load_config
from unpaired.datasets.decathlon import looks_like
from unpaired.datasets.manifest import open_manifest, read_rows
from unpaired.datasets.nnunet import open_nnunet
from unpaired.errors import DataError, UnpairedError, UsageError
from unpaired.io.read import read_image
from unpaired.io.volume import canonical_orientation

MIB = 1 << 20


def peak_of(path):
    """Memory that refusing a file takes at most."""
    tracemalloc.start()
    with pytest.raises(DataError):
        read_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


# ---- memory


def test_a_promise_takes_no_memory_before_bytes_come(tmp_path):
    """A header of 64 MiB on a stream of 300 KiB, which might hold them: what comes is kept."""
    plain = save(tmp_path / "a.nii", noise((4, 4, 4))).read_bytes()
    body = np.random.default_rng(0).bytes(300 << 10)
    (tmp_path / "b.nii").write_bytes(plain[:352] + body)
    lying = patch(tmp_path / "b.nii", "dim", (3, 512, 512, 128, 1, 1, 1, 1)).read_bytes()
    for trailer in (b"", struct.pack("<I", 1 << 26)):
        (tmp_path / "c.nii.gz").write_bytes(gzip.compress(lying, 1)[: -4 if trailer else None])
        with (tmp_path / "c.nii.gz").open("ab") as file:
            file.write(trailer)
        assert peak_of(tmp_path / "c.nii.gz") < 6 * MIB


def test_growing_memory_gives_the_same_bytes():
    """Several members, whose last trailer says too little, and a stream without a trailer."""
    data = np.random.default_rng(0).integers(0, 4, 9 << 20, np.uint8).tobytes()
    parts = b"".join(
        gzip.compress(data[i : i + (1 << 20)], 1) for i in range(0, len(data), 1 << 20)
    )
    for limit in (len(data), len(data) + 4096):
        found, foreign = inflate.inflate(parts, limit)
        assert found.tobytes() == data and not foreign
    with pytest.raises(inflate.InflateError, match="more data"):
        inflate.inflate(parts, len(data) - 1)


def test_the_room_for_tags_of_an_mgz_is_not_taken(tmp_path):
    target = write(make("mgz", tmp_path / "made"), tmp_path / "true")
    data = bytearray(target.read_bytes())
    data[-4:] = b"\xff\xff\xff\x7f"  # the trailer's length
    target.write_bytes(data)
    assert peak_of(target) < 3 * MIB


def test_an_element_that_says_it_has_4_gb_takes_none(tmp_path):
    target = write(make("dicom", tmp_path / "made"), tmp_path / "true") / "series"
    path = target / "001.dcm"
    data = path.read_bytes()
    _, start, _, long = next(e for e in elements(data) if e[3])
    assert long
    path.write_bytes(data[: start - 4] + struct.pack("<I", 0xFFFFFFF0) + data[start:])
    assert peak_of(target) < 6 * MIB


# ---- numbers


@pytest.mark.parametrize("field", ["scl_slope", "srow_x", "qoffset_x", "vox_offset"])
def test_numbers_beyond_all_bounds_raise_no_warning(tmp_path, field):
    image = nib.Nifti2Image(noise((4, 4, 4)), affine())
    image.set_qform(affine(), 1)
    image.set_sform(affine(), 1)
    data = bytearray(image.to_bytes())
    header = np.frombuffer(data, nib.Nifti2Header.template_dtype, 1)
    header[field][0] = 10**18 if field == "vox_offset" else 1e300
    (tmp_path / "a.nii").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            volume = read_image(tmp_path / "a.nii")
        except DataError as error:
            assert "a.nii" in str(error)
        else:  # a qform that the sform overrules
            assert field == "qoffset_x" and "differ by up to inf mm" in volume.notes[0]


@pytest.mark.parametrize("where", [1e30, -2e5])
def test_an_image_a_hundred_metres_away_is_refused(tmp_path, where):
    path = save(tmp_path / "a.nii", noise((4, 4, 4)), affine(origin=(0, where, 0)), codes=(0, 1))
    with pytest.raises(
        DataError, match=r"a\.nii: the first voxel lies at .* the header is damaged"
    ):
        read_image(path)


def test_an_axis_midway_is_one_axis_however_it_is_stored():
    """nibabel takes the first of two equally near axes, which is another one in a turned file."""
    midway = np.eye(4)
    midway[:2, :2] = np.array([[1, -1], [1, 1]]) / np.sqrt(2)
    swapped = midway[:, [1, 0, 2, 3]]
    one, other = canonical_orientation(midway), canonical_orientation(swapped)
    assert [(1, 0, 2)[axis] for axis in other.axes] == list(one.axes)
    assert one.flips == other.flips


# ---- text headers


def edited(tmp_path, kind, old, new):
    seed = make(kind, tmp_path / "made")
    target = write(seed, tmp_path / "true")
    data = target.read_bytes()
    assert data.count(old) == 1
    target.write_bytes(data.replace(old, new))
    return target


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"space directions: (", b"space directions: 7) (", "space directions"),
        (b" (0.46", b"12 (0.46", "space directions"),
        (b"space origin: (80", b"space origin: ((80", "space origin"),
        (b"space origin: (80.0,-33.0,12.5)", b"space origin: 80 -33 12.5", "space origin"),
        (b"endian", b"line skip: abc\nendian", "skipped bytes"),
        (b"endian", b"byte skip: -1\nendian", "skipped bytes"),
    ],
)
def test_damaged_words_of_an_nrrd_are_refused(tmp_path, old, new, words):
    with pytest.raises(DataError, match=words):
        read_image(edited(tmp_path, "nrrd", old, new))


@pytest.mark.parametrize("kind", ["nhdr", "mhd"])
def test_a_file_beside_with_an_impossible_name(tmp_path, kind):
    with pytest.raises(DataError, match="not beside it"):
        read_image(edited(tmp_path, kind, b"scan.raw", b"x" * 300))


# ---- tables, JSON, TOML


def manifest(tmp_path, text, about=ABOUT):
    path = tmp_path / "scans.csv"
    path.write_text(text, encoding="utf-8", newline="")
    path.with_suffix(".json").write_text(json.dumps(about))
    return path


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-here/a.nii.gz", "a\0b"])
def test_files_that_cannot_be_are_not_there(tmp_path, name):
    path = manifest(tmp_path, ROWS.replace("a.nii.gz", name))
    with pytest.raises(DataError, match=r"scans\.csv names .* which is not there"):
        open_manifest("ct", path)
    listed = {"training": [{"image": name, "label": name}], **ABOUT}
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    assert not looks_like(tmp_path)


def test_only_line_ends_end_a_line(tmp_path):
    """Quoted cells may hold them, and a next-line character ends none."""
    rows = 'case,image,modality,patient\r\na,a.nii,ct,"p\n1"\r\nb,b.nii,ct,q\x852\r\n'
    assert [row["patient"] for row in read_rows(manifest(tmp_path, rows))] == ["p\n1", "q\x852"]


def test_what_a_file_says_cannot_steer_the_terminal(tmp_path):
    path = manifest(tmp_path, "case,image,\x1b[2Jmodality\na,b,c\n")
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert "\\x1b[2jmodality" in str(caught.value) and str(caught.value).isprintable()
    # A line ends only where a list of the message goes on.
    assert str(UnpairedError("a\tb\n  c\nd")) == "a\\tb\n  c\\nd"
    long = str(UnpairedError(f"{'/folder' * 500}/name.nii is bad"))
    assert len(long) < 700 and long.endswith("/name.nii is bad")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("channel_names", {"0": None}, "must be texts"),
        ("channel_names", {"0": ["CT"]}, "must be texts"),
        ("labels", {"background": 0, "liver": "9" * 5000}, "must be an integer"),
    ],
)
def test_odd_values_of_dataset_json(tmp_path, key, value, words):
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "dataset.json").write_text(json.dumps({**ABOUT, key: value}))
    with pytest.raises(DataError, match=words):
        open_nnunet("ct", tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"[train]\nsteps = 0x{'f' * 5000}\n", "train.steps: the number does not fit"),
        ("[train]\nsteps = 9223372036854775808\n", "train.steps: the number does not fit"),
        (f"[model.options]\ndepths = [1, 0, 0o{'7' * 50}]\n", "model.options.depths"),
        ("[train]\nsteps = true\n", "steps is no switch"),
        ("[data]\nsplit = [0.5, true, 0.2]\n", "split is no switch"),
    ],
)
def test_numbers_that_are_none(tmp_path, text, words):
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        load_config(None, tmp_path / "run.toml")
    assert "run.toml" in str(caught.value)
