"""Series are found by header, chosen, and read to the right place with the right values."""

import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_files import STUDY, in_place, pydicom, turned, voxels, write_enhanced, write_series
from unpaired.errors import DataError, UsageError
from unpaired.io.dicom import DicomSource, list_series, read_series

FLAT = np.diag([-0.8, -0.7, 2.5, 1.0])


@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
    reverse=st.booleans(),
    seed=st.integers(0, 99),
)
def test_voxels_lie_where_the_header_says(tmp_path_factory, degrees, reverse, seed):
    """Any orientation; files named and numbered at random, slices stored in either order."""
    folder = tmp_path_factory.mktemp("series")
    affine, array = turned(degrees=degrees), voxels(seed=seed)
    if reverse:
        affine = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 6], [0, 0, 0, 1.0]])
    names = np.random.default_rng(seed).permutation(7)
    write_series(folder, array, affine, name=lambda k: f"IM{names[k]}")
    volume = read_series(folder)
    in_place(volume, affine, array)
    assert np.linalg.det(volume.affine) > 0 and volume.array.dtype == np.int16
    assert isinstance(volume.source, DicomSource)
    for k, frame in enumerate(volume.source.frames):
        stored = pydicom.dcmread(frame.path).pixel_array
        assert np.array_equal(stored.T, volume.array[..., k])


def test_slice_location_and_numbers_do_not_count(tmp_path):
    def edit(one, k):
        one.SliceLocation, one.InstanceNumber = str(-k * 7), [5, 2, 7, 1, 3, 6, 4][k]

    write_series(tmp_path, voxels(), FLAT, edit=edit)
    volume = read_series(tmp_path)
    in_place(volume, FLAT, voxels())
    assert any("InstanceNumber" in note for note in volume.notes)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (1, -1024), (2, 3), (0.5, -7.25)])
def test_values_are_rescaled(tmp_path, dtype, slope, intercept):
    array = voxels(dtype=dtype)
    write_series(tmp_path, array, FLAT, slope=slope, intercept=intercept)
    found = read_series(tmp_path).array
    assert np.array_equal(found, array.astype(np.float64) * slope + intercept)
    assert (found.dtype.kind == "i") == (slope != 0.5)


def test_each_slice_has_its_own_slope(tmp_path):
    """As PET and some MR do."""

    def edit(one, k):
        one.RescaleSlope, one.RescaleIntercept = f"{0.5 + k / 8}", f"{-k}"

    array = voxels()
    write_series(tmp_path, array, FLAT, edit=edit)
    expected = array * (0.5 + np.arange(7) / 8) - np.arange(7)
    assert np.allclose(read_series(tmp_path).array, expected, rtol=1e-6)


def test_values_beyond_16_bits_are_not_wrapped(tmp_path):
    write_series(tmp_path, np.full((4, 4, 3), 32767, np.int16), FLAT, intercept=1000)
    assert (read_series(tmp_path).array == 33767).all()


@pytest.mark.parametrize("signed", [0, 1])
def test_unused_high_bits_are_dropped_and_the_sign_extended(tmp_path, signed):
    true = voxels() % 2048 - 1024 * signed

    def edit(one, k):
        one.BitsStored, one.HighBit, one.PixelRepresentation = 12, 11, signed
        dirty = (true[..., k].T.astype(np.int64) & 0xFFF) | 0x5000
        one.PixelData = dirty.astype("<u2").tobytes()

    write_series(tmp_path, voxels(), FLAT, edit=edit)
    assert np.array_equal(read_series(tmp_path).array, true)


def test_big_endian_and_implicit_files_are_read(tmp_path):
    from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

    def implicit(one, path):
        one.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        one.save_as(path, enforce_file_format=True)

    def big(one, path):
        one.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        one.PixelData = np.frombuffer(one.PixelData, "<i2").astype(">i2").tobytes()
        one.save_as(path, enforce_file_format=True)

    for number, save in enumerate((implicit, big)):
        folder = tmp_path / str(number)
        write_series(folder, voxels(), FLAT, save=save)
        in_place(read_series(folder), FLAT, voxels())


def test_files_without_preamble_and_ending_are_found(tmp_path):
    paths = write_series(tmp_path, voxels(), FLAT, name=lambda k: f"IM{k}")
    for path in paths:
        path.write_bytes(path.read_bytes()[132:])
    in_place(read_series(tmp_path), FLAT, voxels())


@pytest.mark.parametrize("order", [None, [6, 5, 4, 3, 2, 1, 0], [3, 1, 6, 0, 2, 5, 4]])
def test_multi_frame_files_are_read_by_place(tmp_path, order):
    path = write_enhanced(tmp_path / "x", voxels(), turned(), order=order)
    for where in (path, tmp_path):
        volume = read_series(where)
        in_place(volume, turned(), 2 * voxels() - 5)
    assert [frame.index for frame in volume.source.frames] == list(np.argsort(order or range(7)))


def test_losslessly_compressed_slices_are_read(tmp_path):
    pytest.importorskip("jpeg_ls", reason="pyjpegls comes with highdicom")
    from pydicom.uid import JPEGLSLossless, RLELossless

    for syntax in (RLELossless, JPEGLSLossless):
        folder = tmp_path / syntax

        def save(one, path, syntax=syntax):
            one.compress(syntax, generate_instance_uid=False)
            one.save_as(path, enforce_file_format=True)

        array = voxels(dtype=np.uint16)
        write_series(folder, array, FLAT, save=save)
        in_place(read_series(folder), FLAT, array)


def test_a_missing_decoder_is_named(tmp_path):
    def save(one, path):
        one.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        one.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"  # JPEG 2000, lossless
        one.save_as(path, enforce_file_format=True)

    write_series(tmp_path, voxels(), FLAT, save=save)
    decoder = pydicom.pixels.get_decoder("1.2.840.10008.1.2.4.90")
    if decoder.is_available:
        pytest.skip("a decoder of JPEG 2000 is installed here")
    with pytest.raises(UsageError, match=r"JPEG 2000.*pip install pylibjpeg pylibjpeg-openjpeg"):
        read_series(tmp_path)


def test_several_series_are_listed_and_chosen(tmp_path):
    other = f"{STUDY}.3"
    write_series(tmp_path / "a", voxels(), FLAT)
    write_series(tmp_path / "b", voxels(seed=1), FLAT, uid=other, number=5, modality="MR")
    with pytest.raises(UsageError) as error:
        read_series(tmp_path)
    for words in (
        "2 image series",
        "2: series 2, CT, 7 slices",
        f"5: series 5, MR, 7 slices, UID {other}",
    ):
        assert words in str(error.value)
    for wanted in ("5", other):
        volume = read_series(tmp_path, wanted)
        in_place(volume, FLAT, voxels(seed=1))
        assert any("another series is not read" in note for note in volume.notes)
    with pytest.raises(UsageError, match="no series '7'"):
        read_series(tmp_path, "7")
    assert [one.number for one in list_series(tmp_path).series] == ["2", "5"]


def test_slices_with_a_series_each_are_joined_on_request(tmp_path):
    def edit(one, k):
        one.SeriesInstanceUID = f"{STUDY}.4.{k}"

    write_series(tmp_path, voxels((9, 8, 30)), FLAT, edit=edit)
    with pytest.raises(UsageError, match=r"30 image series.*--series all joins them[^$]*\.\.\."):
        read_series(tmp_path)
    in_place(read_series(tmp_path, "all"), FLAT, voxels((9, 8, 30)))


def test_localizers_derived_images_and_other_objects_are_passed_over(tmp_path):
    def scout(one, k):
        one.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    def derived(one, k):
        one.ImageType = ["DERIVED", "SECONDARY", "MPR"]

    def dose(one, k):
        one.Modality = "RTDOSE"

    def odd_one(one, k):
        if k == 3:
            one.ImageType = ["DERIVED", "SECONDARY"]
            one.ImagePositionPatient = ["1", "2", "999"]

    other = turned((1, 1, 50), (90, 0, 0))
    write_series(tmp_path / "1", voxels((9, 8, 2)), other, uid=f"{STUDY}.5", number=1, edit=scout)
    write_series(tmp_path / "2", voxels((5, 5, 5)), other, uid=f"{STUDY}.6", number=6, edit=derived)
    write_series(tmp_path / "3", voxels((5, 5, 1)), other, uid=f"{STUDY}.7", number=7, edit=dose)
    paths = write_series(tmp_path / "4", voxels((9, 8, 4)), FLAT, edit=odd_one)
    (tmp_path / "LICENCE").write_text("nothing " * 40)
    (tmp_path / ".hidden.dcm").write_bytes(b"x")
    shutil.copy(paths[0], tmp_path / "DICOMDIR")
    volume = read_series(tmp_path)
    in_place(volume, FLAT, voxels((9, 8, 4))[..., :3])
    told = "\n".join(volume.notes)
    for words in (
        "derived images of the series are left out (1)",
        "localizer, UID",
        "derived, UID",
        "1 RTDOSE",
        "LICENCE",
    ):
        assert words in told
    in_place(read_series(tmp_path, "6"), other, voxels((5, 5, 5)))


def test_one_slice_is_a_volume_of_depth_one(tmp_path):
    (path,) = write_series(tmp_path, voxels((9, 8, 1)), FLAT)
    volume = read_series(path)
    assert volume.array.shape == (9, 8, 1) and "thickness 2.5 mm" in volume.notes[0]
    in_place(volume, FLAT, voxels((9, 8, 1)))


def test_gaps_between_slices_and_a_missing_slope_are_told(tmp_path):
    def edit(one, k):
        one.SliceThickness = "2"
        del one.RescaleSlope, one.RescaleIntercept

    write_series(tmp_path, voxels(), FLAT, edit=edit)
    volume = read_series(tmp_path)
    assert "slices are 2 mm thick and 2.5 mm apart, with gaps between them" in volume.notes
    assert any("Hounsfield" in note for note in volume.notes)
    assert np.array_equal(volume.array, voxels()[..., :])


def set_tag(name, value):
    def edit(one, k):
        if k == 2:
            setattr(one, name, value)

    return edit


def drop_tag(name):
    def edit(one, k):
        if k == 2:
            delattr(one, name)

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (set_tag("PhotometricInterpretation", "MONOCHROME1"), "MONOCHROME1"),
        (set_tag("SamplesPerPixel", 3), "colour"),
        (set_tag("RescaleSlope", "0"), "slope is 0"),
        (set_tag("NumberOfFrames", 2), "2 frames without their places"),
        (set_tag("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "right angles"),
        (set_tag("ImageOrientationPatient", [0, 0, 0, 0, 0, 0]), "right angles"),
        (set_tag("ImagePositionPatient", [1, 2]), "no ImagePositionPatient"),
        (set_tag("BitsAllocated", 64), "64 bits"),
        (drop_tag("ImagePositionPatient"), "no ImagePositionPatient"),
        (drop_tag("ImageOrientationPatient"), "no ImageOrientationPatient"),
        (drop_tag("PixelSpacing"), "no PixelSpacing"),
        (drop_tag("SeriesInstanceUID"), "names no series"),
        (drop_tag("Rows"), "lacks Rows"),
        (drop_tag("PixelData"), "ends before its voxels"),
        (drop_tag("SOPClassUID"), "header ends too early"),
    ],
)  # fmt: skip
def test_unusable_headers_are_refused_with_the_file(tmp_path, edit, words):
    def save(one, path):
        one.preamble = b"\0" * 128
        one.save_as(path)

    write_series(tmp_path, voxels(), FLAT, edit=edit, save=save)
    with pytest.raises(DataError, match=words) as error:
        read_series(tmp_path)
    assert "002.dcm" in str(error.value)


def test_huge_headers_are_refused_before_memory_is_taken(tmp_path):
    def huge(one, k):
        one.Rows = one.Columns = 65535

    write_series(tmp_path, voxels(), FLAT, edit=huge)
    with pytest.raises(DataError, match="more than 2147483648"):
        read_series(tmp_path)
    with pytest.raises(DataError, match="cut short"):
        read_series(tmp_path / "000.dcm", max_voxels=1 << 40)

    def bomb(one, path):
        one.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        one.Rows = one.Columns = 30000
        one.save_as(path, enforce_file_format=True)

    write_series(tmp_path / "rle", voxels((9, 8, 1), dtype=np.uint16), FLAT, save=bomb)
    with pytest.raises(DataError, match="far more than"):
        read_series(tmp_path / "rle")


def test_deflated_files_are_refused(tmp_path):
    def save(one, path):
        one.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        one.save_as(path, enforce_file_format=True)

    write_series(tmp_path, voxels(), FLAT, save=save)
    with pytest.raises(DataError, match="deflated"):
        read_series(tmp_path)


def test_a_slice_cut_short_anywhere_is_refused(tmp_path):
    path = write_series(tmp_path, voxels(), FLAT)[-1]  # the last: no gap would give it away
    whole = path.read_bytes()
    for length in {*range(0, len(whole), 23), *range(len(whole) - 5, len(whole))}:
        path.write_bytes(whole[:length])
        with pytest.raises(DataError) as error:
            read_series(tmp_path)
        assert path.name in str(error.value), length
    path.write_bytes(whole)
    assert read_series(tmp_path).array.shape == (9, 8, 7)


def test_flipped_bits_never_pass_as_a_traceback(tmp_path):
    path = write_series(tmp_path, voxels((4, 4, 3)), FLAT)[1]
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        spoiled = bytearray(whole)
        for at in rng.integers(0, len(whole) - 32, 3):
            spoiled[at] ^= 1 << rng.integers(8)
        path.write_bytes(spoiled)
        try:
            read_series(tmp_path)
        except (DataError, UsageError):
            refused += 1
    assert refused > 20


def test_a_folder_without_images_says_so(tmp_path):
    with pytest.raises(DataError, match="holds no DICOM image"):
        read_series(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(DataError, match="is not DICOM"):
        read_series(tmp_path / "a.txt")
    with pytest.raises(DataError):
        read_series(tmp_path / "nowhere")


def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch):
    write_series(tmp_path, voxels(), FLAT)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(UsageError, match=r'pip install "unpaired\[dicom\]"'):
        read_series(tmp_path)
