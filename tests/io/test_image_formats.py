"""NRRD, MetaImage and MGH against their own libraries; damage is refused; grids come back."""

import gzip
import zlib

import nibabel as nib
import numpy as np
import pytest

from unpaired.errors import DataError
from unpaired.io.meta_image import write_meta_image
from unpaired.io.mgh import write_mgh
from unpaired.io.nrrd import write_nrrd
from unpaired.io.raw import Names
from unpaired.io.read import format_of, read_image, read_label_image
from unpaired.io.volume import Volume, corner_offset

sitk = pytest.importorskip("SimpleITK", reason="the oracle for NRRD and MetaImage")
nrrd = pytest.importorskip("nrrd", reason="the oracle for NRRD")

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
A, B = np.radians([20, -35])
TURN = np.array([[np.cos(A), -np.sin(A), 0], [np.sin(A), np.cos(A), 0], [0, 0, 1]]) @ np.array(
    [[np.cos(B), 0, np.sin(B)], [0, 1, 0], [-np.sin(B), 0, np.cos(B)]]
)
AFFINE = np.eye(4)
AFFINE[:3, :3], AFFINE[:3, 3] = TURN * [0.9, 1.1, 3.0], (-80.25, 33.0, 12.5)
TYPES = (np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32, np.float64)


def noise(dtype=np.int16, shape=(9, 8, 7)):
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 120, shape).astype(dtype)


def by_itk(path, array, packed):
    lps = LPS @ AFFINE
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), packed)
    return path


def itk_reads(path):
    """Array [i j k] and RAS affine by ITK."""
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), LPS @ affine


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["x.mha", "x.mhd", "x.nrrd", "x.nhdr"])
@pytest.mark.parametrize("dtype", TYPES)
def test_what_itk_writes_is_read(tmp_path, name, packed, dtype):
    path = by_itk(tmp_path / name, noise(dtype), packed)
    volume = read_image(path)
    assert np.array_equal(volume.array, noise(dtype)) and volume.array.dtype == dtype
    assert np.abs(volume.affine - AFFINE).max() < 1e-9 and volume.notes == ()
    assert volume.array.flags.writeable and volume.array.dtype.isnative


SPACES = {
    "RAS": (1, 1, 1),
    "right-anterior-superior": (1, 1, 1),
    "LPS": (-1, -1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "LAS": (-1, 1, 1),
    "Left-Anterior-Superior": (-1, 1, 1),
}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("dtype", [">i2", "<f4", "u1"])
def test_what_pynrrd_writes_is_read(tmp_path, space, encoding, dtype):
    signs = np.array(SPACES[space])
    header = {
        "space": space,
        "space directions": (signs[:, None] * AFFINE[:3, :3]).T,
        "space origin": signs * AFFINE[:3, 3],
        "encoding": encoding,
        "endian": "big" if dtype[0] == ">" else "little",
    }
    array = noise(np.dtype(dtype))
    nrrd.write(str(tmp_path / "x.nrrd"), array, header)
    volume = read_image(tmp_path / "x.nrrd")
    assert np.array_equal(volume.array, array)
    assert np.abs(volume.affine - AFFINE).max() < 1e-9


@pytest.mark.parametrize("name", ["x.mgz", "x.mgh"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_what_nibabel_writes_as_mgh_is_read(tmp_path, name, dtype):
    nib.save(nib.MGHImage(noise(dtype), AFFINE), tmp_path / name)
    volume = read_image(tmp_path / name)
    assert np.array_equal(volume.array, noise(dtype))
    assert corner_offset(volume.affine, nib.load(tmp_path / name).affine, (9, 8, 7)) < 1e-5


def test_content_decides_not_the_name(tmp_path):
    nib.save(nib.Nifti1Image(noise(), AFFINE), tmp_path / "n.nii.gz")
    nib.save(nib.MGHImage(noise(), AFFINE), tmp_path / "m.mgz")
    by_itk(tmp_path / "a.mha", noise(), True)
    by_itk(tmp_path / "b.nrrd", noise(), True)
    kinds = {"n.nii.gz": "nifti", "m.mgz": "mgh", "a.mha": "mha", "b.nrrd": "nrrd"}
    for name, kind in kinds.items():
        other = tmp_path / f"{kind}.dat"
        (tmp_path / name).rename(other)
        assert format_of(other) == kind
        assert np.array_equal(read_image(other).array, noise())
    with pytest.raises(DataError, match="does not exist"):
        read_image(tmp_path / "nowhere.nrrd")
    (tmp_path / "text.mha").write_text("hello there " * 50)
    with pytest.raises(DataError, match="is not a NIfTI file, or its header is damaged"):
        read_image(tmp_path / "text.mha")


def label():
    return (noise() % 3).astype(np.uint8)


def write_seg_nrrd(path, labels, like, mark=""):
    write_nrrd(path, labels, like, Names(mark=mark))


WRITERS = {"x.mha": write_meta_image, "x.seg.nrrd": write_seg_nrrd, "x.mgz": write_mgh}


@pytest.mark.parametrize("name", WRITERS)
def test_labels_come_back_on_the_grid_with_their_mark(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path, label(), Volume(noise(), AFFINE), mark="unpaired 12ab")
    volume = read_label_image(path)
    assert np.array_equal(volume.array, label()) and volume.array.dtype == np.uint8
    assert corner_offset(volume.affine, AFFINE, (9, 8, 7)) < 1e-4
    assert volume.source.mark == "unpaired 12ab"
    big = label().astype(np.int64) * 1000
    WRITERS[name](path, big, Volume(noise(), AFFINE))
    assert np.array_equal(read_label_image(path).array, big)
    if name == "x.mgz":
        seen = nib.load(path)
        array, affine = np.asarray(seen.dataobj), seen.affine
    else:
        array, affine = itk_reads(path)
    assert np.array_equal(array, big) and corner_offset(affine, AFFINE, (9, 8, 7)) < 1e-4


@pytest.mark.parametrize("name", WRITERS)
def test_a_grid_is_written_back_in_the_files_own_words(tmp_path, name):
    """No rounding: the geometry's text, or bytes, are those of the image."""
    image = tmp_path / f"image{name[1:]}"
    if name == "x.mgz":
        nib.save(nib.MGHImage(noise(), AFFINE), image)
    else:
        by_itk(image, noise(), True)
    volume = read_image(image)
    WRITERS[name](tmp_path / name, label(), volume)
    back = read_image(tmp_path / name)
    assert np.array_equal(back.affine, volume.affine)
    if name == "x.mgz":
        heads = [gzip.decompress(p.read_bytes())[28:90] for p in (image, tmp_path / name)]
        assert heads[0] == heads[1]
    else:
        assert back.source.geometry == volume.source.geometry
    elsewhere = Volume(volume.array, AFFINE @ np.diag([2, 1, 1, 1.0]), source=volume.source)
    WRITERS[name](tmp_path / name, label(), elsewhere)  # resampled by the caller
    assert corner_offset(read_image(tmp_path / name).affine, elsewhere.affine, (9, 8, 7)) < 1e-4


def test_segment_names_are_in_the_nrrd_header(tmp_path):
    path = tmp_path / "x.seg.nrrd"
    names, colours = ("background", "liver", "left \\ kidney"), [(0, 0, 0), (255, 0, 51), (1, 2, 3)]
    write_nrrd(path, label(), Volume(noise(), AFFINE), Names(names, colours, "m"))
    array, header = nrrd.read(str(path))
    assert np.array_equal(array, label())
    told = {key: header[key] for key in header if key.startswith("Segment")}
    assert told["Segment0_Name"] == "liver" and told["Segment0_LabelValue"] == "1"
    assert told["Segment1_LabelValue"] == "2" and told["Segment1_Layer"] == "0"
    assert [float(v) for v in told["Segment0_Color"].split()] == [1.0, 0.0, 0.2]
    assert told["Segment1_Extent"] == "0 8 0 7 0 6"
    assert told["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert "Segment2_Name" not in told


def files(tmp_path):
    """One small file of each kind, each of one file."""
    small = noise(shape=(6, 5, 4))
    for name, packed in (("a.mha", True), ("b.mha", False), ("c.nrrd", True), ("d.nrrd", False)):
        by_itk(tmp_path / name, small, packed)
    nib.save(nib.MGHImage(small, AFFINE), tmp_path / "e.mgz")
    nib.save(nib.MGHImage(small, AFFINE), tmp_path / "f.mgh")
    # nibabel ends a file with scan parameters, which are not the image's.
    plain = (tmp_path / "f.mgh").read_bytes()
    (tmp_path / "f.mgh").write_bytes(plain[: 284 + small.nbytes])
    return sorted(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    for path in files(tmp_path):
        whole = path.read_bytes()
        read_image(path)
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(DataError) as error:
                read_image(path)
            assert path.name in str(error.value)


def test_a_flipped_bit_in_compressed_voxels_is_refused(tmp_path):
    for path in files(tmp_path):
        if path.name in ("a.mha", "c.nrrd", "e.mgz"):
            whole = bytearray(path.read_bytes())
            for at in range(len(whole) - 60, len(whole), 7):
                whole[at] ^= 16
                path.write_bytes(whole)
                with pytest.raises(DataError):
                    read_image(path)
                whole[at] ^= 16


def test_flipped_bits_never_end_in_a_traceback(tmp_path):
    rng = np.random.default_rng(0)
    for path in files(tmp_path):
        whole, refused = path.read_bytes(), 0
        for _ in range(150):
            spoiled = bytearray(whole)
            for at in rng.integers(0, len(whole), 4):
                spoiled[at] ^= 1 << rng.integers(8)
            path.write_bytes(spoiled)
            try:
                read_image(path)
            except DataError:
                refused += 1
        assert refused > 15, path


HUGE = (60000, 60000, 60000)


def test_huge_headers_are_refused_before_memory_is_taken(tmp_path):
    for path in files(tmp_path):
        data = path.read_bytes()
        if path.suffix == ".mha":
            spoiled = data.replace(b"DimSize = 6 5 4", b"DimSize = 60000 60000 60000")
        elif path.suffix == ".nrrd":
            spoiled = data.replace(b"sizes: 6 5 4", b"sizes: 60000 60000 60000")
        else:
            plain = gzip.decompress(data) if path.suffix == ".mgz" else data
            plain = plain[:4] + np.array(HUGE, ">i4").tobytes() + plain[16:]
            spoiled = gzip.compress(plain) if path.suffix == ".mgz" else plain
        assert spoiled != data
        path.write_bytes(spoiled)
        with pytest.raises(DataError, match="60000 x 60000 x 60000 voxels, more than 2147483648"):
            read_image(path)
        with pytest.raises(DataError, match="too short for them"):
            read_image(path, max_voxels=1 << 50)


def test_whole_streams_with_too_few_voxels_are_refused(tmp_path):
    for path in files(tmp_path):
        data = path.read_bytes()
        data = data.replace(b"DimSize = 6 5 4", b"DimSize = 6 5 5")
        data = data.replace(b"sizes: 6 5 4", b"sizes: 6 5 5")
        if path.suffix == ".mgz":
            plain = gzip.decompress(data)[: 284 + 240]
            data = gzip.compress(plain[:4] + np.array((6, 5, 5), ">i4").tobytes() + plain[16:])
        if path.suffix != ".mgh":
            path.write_bytes(data)
            with pytest.raises(DataError, match=r"promises 300 bytes|too short"):
                read_image(path)


def test_decompression_bombs_are_stopped(tmp_path):
    paths = files(tmp_path)
    bomb = bytes(1 << 26)
    head = paths[0].read_bytes().split(b"LOCAL\n")[0] + b"LOCAL\n"
    paths[0].write_bytes(head.replace(b"CompressedDataSize", b"Comment") + zlib.compress(bomb))
    head = paths[2].read_bytes().split(b"\n\n")[0] + b"\n\n"
    paths[2].write_bytes(head + gzip.compress(bomb))
    for path in (paths[0], paths[2]):
        with pytest.raises(DataError, match="more data than the header promises"):
            read_image(path)


def edited(path, old, new):
    data = path.read_bytes()
    assert data.count(old) == 1, old
    path.write_bytes(data.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("b.mha", b"TransformMatrix", b"Foo", "left and right are a guess"),
        ("d.nrrd", b"space: left-posterior-superior", b"space: scanner-xyz", "left and right"),
        ("d.nrrd", b"encoding: raw", b"encoding: bzip2", "'bzip2' is not read"),
        ("d.nrrd", b"type: short", b"type: block", "'block' are not read"),
        ("d.nrrd", b"endian: little\n", b"", "lacks the byte order"),
        ("d.nrrd", b"sizes: 6 5 4", b"sizes: 6 5", "not 3 whole numbers"),
        ("d.nrrd", b"sizes: 6 5 4", b"sizes: 6 0 4", "6 x 0 x 4"),
        ("d.nrrd", b"dimension: 3", b"dimension: 2", "sizes"),
        ("d.nrrd", b"space origin: (", b"space origin: (nan", "space origin"),
        ("d.nrrd", b"type: short", b"type: short\ntype: short", "stands twice"),
        ("d.nrrd", b"type: short", b'type: short\nspace units: "m" "m" "m"', "units are m, m, m"),
        ("d.nrrd", b"type: short", b"type: short\nbyte skip: 4", "skipped bytes"),
        ("d.nrrd", b"NRRD0004", b"NRRD0009", "not an NRRD file of version"),
        ("b.mha", b"MET_SHORT", b"MET_FOO", "MET_FOO"),
        ("b.mha", b"ObjectType = Image", b"ObjectType = Tube", "is a Tube"),
        ("b.mha", b"BinaryData = True", b"BinaryData = False", "voxels as text"),
        ("b.mha", b"DimSize = 6 5 4", b"DimSize = 6 5 -4", "not 3 whole numbers"),
        ("b.mha", b"NDims = 3", b"NDims = 2", "DimSize"),
        ("b.mha", b"ElementSpacing", b"Foo", "lacks ElementSpacing"),
        ("b.mha", b"ElementType", b"ElementNumberOfChannels = 3\nElementType", "several channels"),
        ("b.mha", b"ElementType", b"HeaderSize = 12\nElementType", "skipped bytes"),
        ("b.mha", b"LOCAL", b"LIST", "several files"),
        ("b.mha", b"LOCAL", b"../x.raw", "beside the header"),
        ("b.mha", b"LOCAL", b"/etc/passwd", "beside the header"),
        ("b.mha", b"LOCAL", b"..", "beside the header"),
        ("b.mha", b"LOCAL", b"nowhere.raw", "nowhere.raw, which is not beside it"),
    ],
)
def test_unusable_headers_are_refused_or_told(tmp_path, name, old, new, words):
    files(tmp_path)
    path = edited(tmp_path / name, old, new)
    if "guess" in words:
        assert any(words in note for note in read_image(path).notes)
        return
    with pytest.raises(DataError, match=words):
        read_image(path)


def test_an_nrrd_without_space_is_taken_as_itk_takes_it_and_told(tmp_path):
    path = tmp_path / "x.nrrd"
    nrrd.write(str(path), noise(), {"spacings": [0.5, 0.75, 2.0]})
    volume = read_image(path)
    array, affine = itk_reads(path)
    assert np.array_equal(volume.array, array) and np.allclose(volume.affine, affine)
    assert any("left and right are a guess" in note for note in volume.notes)


def test_a_single_element_axis_is_dropped_and_a_longer_one_refused(tmp_path):
    path = tmp_path / "x.nrrd"
    directions = [[np.nan] * 3, *(LPS @ AFFINE)[:3, :3].T.tolist()]
    header = {"space": "LPS", "space directions": np.array(directions), "space origin": [0, 0, 0]}
    nrrd.write(str(path), noise()[None], header)
    assert np.array_equal(read_image(path).array, noise())
    nrrd.write(str(path), np.stack([noise()] * 2), header)
    with pytest.raises(DataError, match="4 axes"):
        read_image(path)


def test_not_a_number_and_shear_are_refused(tmp_path):
    spoiled = noise(np.float32)
    spoiled[2, 3, 4] = np.nan
    by_itk(tmp_path / "x.mha", spoiled, True)
    with pytest.raises(DataError, match=r"1 of 504 voxels are NaN or infinite.*\(2, 3, 4\)"):
        read_image(tmp_path / "x.mha")
    header = {"space": "LPS", "space directions": [[1, 0, 0], [0.3, 1, 0], [0, 0, 1]],
              "space origin": [0, 0, 0]}  # fmt: skip
    nrrd.write(str(tmp_path / "x.nrrd"), noise(), header)
    with pytest.raises(DataError, match="sheared"):
        read_image(tmp_path / "x.nrrd")


def test_several_frames_of_mgh_are_refused(tmp_path, shared):
    nib.save(nib.MGHImage(np.stack([noise()] * 2, -1), AFFINE), tmp_path / "x.mgz")
    for path in (tmp_path / "x.mgz", shared("data/odd/test.mgz")):
        with pytest.raises(DataError, match="2 frames"):
            read_image(path)
