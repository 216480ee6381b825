"""Segmentations come back voxel for voxel on the right slices, in two readers."""

import warnings

import numpy as np
import pytest

from dicom_files import STUDY, pydicom, turned, voxels, write_enhanced, write_series

highdicom = pytest.importorskip("highdicom", reason="highdicom is an extra")

from unpaired.errors import DataError, UsageError  # noqa: E402
from unpaired.io.dicom import read_series, write_segmentation  # noqa: E402
from unpaired.io.dicom.codes import CODES, UNKNOWN, code_of, read_codes  # noqa: E402
from unpaired.io.dicom.segmentation import on_slices, read_mark  # noqa: E402
from unpaired.io.raw import Names  # noqa: E402
from unpaired.io.volume import Volume  # noqa: E402

CLASSES = ("background", "liver", "thing", "left kidney")
_SEGMENT = "SegmentIdentificationSequence"
FLIP = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 6], [0, 0, 0, 1.0]])


def some_labels(shape, seed=0):
    """Classes 1 and 3, and slices without any; never symmetric."""
    found = np.random.default_rng(seed).choice([0, 0, 1, 3], shape).astype(np.uint8)
    found[..., 2] = 0
    return found


def plainly(path):
    """{(label, SOP instance UID of the source slice): mask [row column]}, by pydicom alone."""
    found = pydicom.dcmread(path)
    count, size = int(found.NumberOfFrames), (int(found.Rows), int(found.Columns))
    bits = np.unpackbits(np.frombuffer(found.PixelData, np.uint8), bitorder="little")
    masks = bits[: count * size[0] * size[1]].reshape(count, *size).astype(bool)
    names = {int(one.SegmentNumber): one.SegmentLabel for one in found.SegmentSequence}
    out = {}
    for mask, item in zip(masks, found.PerFrameFunctionalGroupsSequence, strict=True):
        shared = found.SharedFunctionalGroupsSequence[0]  # holds what all frames have alike
        which = (item if "SegmentIdentificationSequence" in item else shared)[_SEGMENT][0]
        number = int(which.ReferencedSegmentNumber)
        source = item.DerivationImageSequence[0].SourceImageSequence[0]
        frame = source.get("ReferencedFrameNumber")
        key = (names[number], str(source.ReferencedSOPInstanceUID), frame and int(frame))
        place = [float(v) for v in item.PlanePositionSequence[0].ImagePositionPatient]
        assert key not in out
        out[key] = (mask, place)
    return out


def check_plainly(path, labels, volume):
    masks, found = plainly(path), 0
    several = len({frame.path for frame in volume.source.frames}) == 1
    for k, frame in enumerate(volume.source.frames):
        for value, name in enumerate(CLASSES[1:], 1):
            expected = np.equal(labels[..., k].T, value)
            key = (name, frame.instance, frame.index + 1 if several else None)
            assert (key in masks) == expected.any()
            if key in masks:
                mask, place = masks[key]
                assert np.array_equal(mask, expected)
                assert np.allclose(place, frame.position_mm, atol=1e-6)
                found += 1
    assert found == len(masks) > 2


@pytest.mark.parametrize("affine", [turned(), turned() @ FLIP, turned(degrees=(80, 5, -120))])
def test_a_segmentation_comes_back_on_the_same_slices(tmp_path, affine):
    names = np.random.default_rng(1).permutation(7)
    write_series(tmp_path / "in", voxels(), affine, name=lambda k: f"IM{names[k]}")
    volume = read_series(tmp_path / "in")
    labels, path = some_labels(volume.array.shape), tmp_path / "out" / "x_seg.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert write_segmentation(path, labels, volume, Names(CLASSES, mark="unpaired 12ab")) == ()
    check_plainly(path, labels, volume)
    assert read_mark(path) == "unpaired 12ab"

    seen = highdicom.seg.segread(path)
    instances = [frame.instance for frame in volume.source.frames]
    for number, value in ((1, 1), (2, 3)):
        got = seen.get_pixels_by_source_instance(instances, segment_numbers=[number])[..., 0]
        assert np.array_equal(got, (labels == value).transpose(2, 1, 0))
    # The geometry highdicom finds is the image's, not only the references.
    space = seen.get_volume(combine_segments=True)
    to_lps = np.diag([-1, -1, 1, 1.0]) @ volume.affine
    for value, index in zip(
        space.array[space.array > 0], np.argwhere(space.array > 0), strict=True
    ):
        world = space.affine @ [*index, 1]
        i, j, k = np.rint(np.linalg.inv(to_lps) @ world)[:3].astype(int)
        assert labels[i, j, k] == (1, 3)[int(value) - 1]


def test_a_multi_frame_source_is_pointed_at_frame_by_frame(tmp_path):
    path = write_enhanced(tmp_path / "x.dcm", voxels(), turned(), order=[3, 1, 6, 0, 2, 5, 4])
    volume = read_series(path)
    labels = some_labels(volume.array.shape)
    notes = write_segmentation(tmp_path / "y.dcm", labels, volume, Names(CLASSES))
    assert notes == ()
    check_plainly(tmp_path / "y.dcm", labels, volume)


def test_labels_on_a_resampled_grid_go_back_to_the_original_slices(tmp_path):
    """A box of 10 mm in the patient, over slices that are tilted and uneven."""
    affine = turned((0.8, 0.7, 2.5), (0, 0, 0), (0, 0, 0))

    def edit(one, k):
        one.ImagePositionPatient = ["0", f"{-0.9 * k:.6f}", f"{2.5 * k + 1.1 * (k > 3):.6f}"]

    write_series(tmp_path / "in", voxels((30, 30, 9)), affine, edit=edit)
    volume = read_series(tmp_path / "in", resample_slices=True)
    index = np.stack(np.meshgrid(*map(range, volume.array.shape), indexing="ij"), -1)
    world = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    middle = np.array([10.0, 8.0, 11.0])
    labels = (np.abs(world - middle).max(-1) < 5).astype(np.uint8)
    write_segmentation(tmp_path / "y.dcm", labels, volume, Names(CLASSES))
    masks = plainly(tmp_path / "y.dcm")
    for k, frame in enumerate(volume.source.frames):
        columns, rows = (one[..., None] for one in np.meshgrid(range(30), range(30)))
        here = frame.position_mm + 0.8 * columns * frame.axes[0] + 0.7 * rows * frame.axes[1]
        off = 5 - np.abs(here * [-1, -1, 1] - middle).max(-1)  # how far inside the box
        mask = masks.get(("liver", frame.instance, None), (np.zeros((30, 30), bool), None))[0]
        assert mask[off > 1.3].all() and not mask[off < -1.3].any(), k
    assert len(masks) >= 3


def test_patient_and_study_are_the_series_own(tmp_path):
    write_series(tmp_path, voxels(), turned())
    volume = read_series(tmp_path)
    labels = some_labels(volume.array.shape)
    write_segmentation(tmp_path / "y" / "s.dcm", labels, volume, Names(CLASSES, mark="m"))
    seen, source = pydicom.dcmread(tmp_path / "y" / "s.dcm"), pydicom.dcmread(tmp_path / "000.dcm")
    for tag in (
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID",
        "StudyDate", "StudyTime", "AccessionNumber", "FrameOfReferenceUID",
    ):  # fmt: skip
        assert seen[tag].value == source[tag].value, tag
    assert seen.Modality == "SEG" and seen.SegmentationType == "BINARY"
    assert seen.SeriesInstanceUID != source.SeriesInstanceUID and seen.SeriesNumber == 1002
    pointed = seen.ReferencedSeriesSequence[0]
    assert pointed.SeriesInstanceUID == f"{STUDY}.2"
    assert len(pointed.ReferencedInstanceSequence) == 7
    first = seen.SegmentSequence[0]
    algorithm = first.SegmentationAlgorithmIdentificationSequence[0]
    assert first.SegmentAlgorithmType == "AUTOMATIC" and algorithm.AlgorithmName == "unpaired"
    # A series with a segmentation beside it is still read as before.
    write_segmentation(tmp_path / "s.dcm", labels, volume, Names(CLASSES))
    again = read_series(tmp_path)
    assert np.array_equal(again.array, volume.array) and "(2 SEG)" in again.notes[0]


def test_segments_carry_names_colours_and_codes(tmp_path):
    write_series(tmp_path, voxels(), turned())
    volume = read_series(tmp_path)
    labels = some_labels(volume.array.shape)
    path = tmp_path / "s.dcm"
    colours = [(0, 0, 0), (250, 20, 10), (0, 0, 0), (30, 60, 220)]
    write_segmentation(path, labels, volume, Names(CLASSES, colours), empty_segments=True)
    found = [
        (one.SegmentLabel, one.SegmentedPropertyTypeCodeSequence[0])
        for one in pydicom.dcmread(path).SegmentSequence
    ]
    assert [name for name, _ in found] == ["liver", "thing", "left kidney"]
    assert [code.CodeValue for _, code in found] == ["10200004", "85756007", "64033007"]
    side = found[2][1].SegmentedPropertyTypeModifierCodeSequence[0]
    assert (side.CodeValue, side.CodeMeaning) == ("7771000", "Left")
    seen = highdicom.seg.segread(path)
    back = highdicom.color.CIELabColor.from_dicom_value(
        seen.SegmentSequence[2].RecommendedDisplayCIELabValue
    ).to_rgb()
    assert np.abs(np.array(back) - colours[3]).max() <= 2
    instances = [frame.instance for frame in volume.source.frames]
    all_of = seen.get_pixels_by_source_instance(instances, combine_segments=True)
    assert np.array_equal(all_of, labels.transpose(2, 1, 0))  # now the numbers are the classes'


def test_nothing_found_is_a_whole_file_and_told(tmp_path):
    write_series(tmp_path / "in", voxels(), turned())
    volume = read_series(tmp_path / "in")
    path = tmp_path / "s.dcm"
    notes = write_segmentation(path, np.zeros(volume.array.shape, np.uint8), volume, Names(CLASSES))
    assert "nothing was found" in notes[0]
    seen = highdicom.seg.segread(path)
    assert seen.number_of_segments == 3
    assert not seen.get_pixels_by_source_instance([f.instance for f in volume.source.frames]).any()


def test_the_same_labels_are_the_same_object(tmp_path):
    write_series(tmp_path / "in", voxels(), turned())
    volume = read_series(tmp_path / "in")

    def uids(labels, mark=""):
        write_segmentation(tmp_path / "s.dcm", labels, volume, Names(CLASSES, mark=mark))
        seen = pydicom.dcmread(tmp_path / "s.dcm")
        assert pydicom.uid.UID(seen.SOPInstanceUID).is_valid and len(seen.SOPInstanceUID) <= 64
        return seen.SOPInstanceUID, seen.SeriesInstanceUID

    one, other = some_labels(volume.array.shape), some_labels(volume.array.shape, 1)
    first = uids(one)
    assert first == uids(one) and first[0] != first[1]
    assert not set(first) & set(uids(other)) and not set(first) & set(uids(one, "model"))


def test_anonymised_series_are_completed_or_refused(tmp_path):
    def strip(one, k):
        for tag in ("PatientName", "PatientBirthDate", "StudyDate", "StudyTime", "StudyID",
                    "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID",
                    "SeriesNumber"):  # fmt: skip
            delattr(one, tag)

    def no_study(one, k):
        del one.StudyInstanceUID

    write_series(tmp_path / "a", voxels(), turned(), edit=strip)
    volume = read_series(tmp_path / "a")
    labels = some_labels(volume.array.shape)
    notes = write_segmentation(tmp_path / "s.dcm", labels, volume, Names(CLASSES))
    assert "frame of reference" in notes[0]
    check_plainly(tmp_path / "s.dcm", labels, volume)
    write_series(tmp_path / "b", voxels(), turned(), edit=no_study)
    with pytest.raises(DataError, match="write NIfTI instead"):
        write_segmentation(tmp_path / "t.dcm", labels, read_series(tmp_path / "b"), Names(CLASSES))
    assert not (tmp_path / "t.dcm").exists()
    with pytest.raises(UsageError, match="no DICOM series; write NIfTI"):
        write_segmentation(tmp_path / "t.dcm", labels, Volume(labels, turned()), Names(CLASSES))


def test_codes_are_the_standards_own():
    """Against the dictionary of SNOMED CT codes that pydicom takes from the standard."""
    from pydicom.sr._concepts_dict import concepts

    known = {}
    for entry in concepts["SCT"].values():
        for value, (meaning, *_) in entry.items():
            known.setdefault(value, set()).add(meaning)
    for name, code in CODES.items():
        for part in (code.category, code.type):
            if name == "myocardium" and part is code.type:
                continue  # in SNOMED CT, not in the standard's lists
            assert part.meaning in known[part.value], (name, part)
            assert part.scheme == "SCT"


@pytest.mark.parametrize(
    ("name", "value", "side"),
    [
        ("Liver", "10200004", None),
        ("kidney_right", "64033007", "Right"),
        ("Left-Kidney", "64033007", "Left"),
        ("right adrenal gland", "23451007", "Right"),
        ("left ventricle", "87878005", None),
        ("gall_bladder", "28231008", None),
        ("Postcava", "64131007", None),
        ("tumour", "108369006", None),
        ("left", "85756007", None),
        ("something else", "85756007", None),
    ],
)
def test_names_find_their_codes(name, value, side):
    found = code_of(name)
    assert found.type.value == value
    assert (found.modifier and found.modifier.meaning) == side
    assert (found == UNKNOWN) == (value == "85756007")


def test_own_codes_come_first(tmp_path):
    table = tmp_path / "codes.toml"
    table.write_text(
        '[thing]\ntype = ["T-1", "99LAB", "Thing"]\ncategory = ["85756007", "SCT", "Tissue"]\n'
        '[Liver]\ntype = ["L-9", "99LAB", "Our liver"]\nmodifier = ["M", "99LAB", "Half"]\n'
    )
    own = read_codes(table)
    assert code_of("thing", own).type == ("T-1", "99LAB", "Thing")
    assert code_of("liver", own).modifier == ("M", "99LAB", "Half")
    assert code_of("spleen", own) == CODES["spleen"]
    write_series(tmp_path / "in", voxels(), turned())
    volume = read_series(tmp_path / "in")
    labels = some_labels(volume.array.shape)
    write_segmentation(tmp_path / "s.dcm", labels, volume, Names(CLASSES), codes=own)
    first = pydicom.dcmread(tmp_path / "s.dcm").SegmentSequence[0]
    assert first.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99LAB"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.toml", "liver = 3", "needs `type`"),
        ("a.toml", '[liver]\ntype = ["1", "SCT"]', "three texts"),
        ("a.toml", '[liver]\ntype = ["12345678901234567", "SCT", "x"]', "16 characters"),
        ("a.toml", '[liver]\ntyp = ["1", "SCT", "x"]', "needs `type`"),
        ("a.toml", "[liver", "not valid TOML"),
        ("a.json", "[]", "write a table"),
    ],
)
def test_damaged_code_tables_are_refused(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=words):
        read_codes(tmp_path / name)
    with pytest.raises(DataError):
        read_codes(tmp_path / "nowhere.toml")


def test_on_slices_of_an_unchanged_grid_is_a_transpose(tmp_path):
    write_series(tmp_path, voxels(), turned())
    volume = read_series(tmp_path)
    labels = some_labels(volume.array.shape)
    assert np.array_equal(on_slices(labels, volume, volume.source), labels.transpose(2, 1, 0))
