"""What groups of frames leave out stands in the data set; images of a series are told apart."""

import numpy as np
import pytest

from dicom_files import STUDY, Dataset, in_place, pydicom, turned, voxels, write_enhanced
from dicom_files import write_series as write
from unpaired.checks.check import check_path
from unpaired.errors import DataError, UsageError
from unpaired.io.dicom import read_series
from unpaired.io.raw import Names
from unpaired.io.write import write_labels

FLAT = np.diag([-0.8, -0.7, 2.5, 1.0])
KINDS = {
    "Enhanced CT": ("CT", "1.2.840.10008.5.1.4.1.1.2.1"),
    "Enhanced MR": ("MR", "1.2.840.10008.5.1.4.1.1.4.1"),
    "Legacy Converted Enhanced CT": ("CT", "1.2.840.10008.5.1.4.1.1.2.2"),
    "Legacy Converted Enhanced MR": ("MR", "1.2.840.10008.5.1.4.1.1.4.4"),
    "Multi-frame Grayscale Word Secondary Capture": ("OT", "1.2.840.10008.5.1.4.1.1.7.3"),
}
STORED = np.clip(voxels((9, 8, 7)) + 1024, 24, 2498).astype(np.int16)


def group(frame, name, **tags):
    """A functional group of a frame, or of all."""
    item = Dataset()
    for tag, value in tags.items():
        setattr(item, tag, value)
    setattr(frame, f"{name}Sequence", [item])


def of_kind(kind, then=lambda one: None):
    """An edit that makes a multi-frame file one of another class, without its rescale."""

    def edit(one):
        one.Modality, one.SOPClassUID = KINDS[kind]
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
        del one.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
        then(one)

    return edit


def top_level(one):
    one.RescaleSlope, one.RescaleIntercept = "1", "-1024"


def seen_by_simple_itk(path):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is an extra of the tests")
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(2, 1, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rescale_in_the_data_set_counts(tmp_path, kind):
    path = write_enhanced(tmp_path / "a.dcm", STORED, FLAT, edit=of_kind(kind, top_level))
    found = read_series(path)
    in_place(found, FLAT, STORED - 1024)
    assert found.array.dtype == np.int16 and not any("slope" in note for note in found.notes)
    assert np.array_equal(seen_by_simple_itk(path), found.array)


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_goes_before_the_data_set(tmp_path, kind):
    def both(one):
        top_level(one)
        for k, frame in enumerate(one.PerFrameFunctionalGroupsSequence):
            group(frame, "PixelValueTransformation", RescaleSlope="2", RescaleIntercept=f"{-k}")

    path = write_enhanced(tmp_path / "a.dcm", STORED, FLAT, edit=of_kind(kind, both))
    in_place(read_series(path), FLAT, 2 * STORED - np.arange(7))


@pytest.mark.parametrize("kind", ["Legacy Converted Enhanced CT", "Legacy Converted Enhanced MR"])
@pytest.mark.parametrize("shared", [True, False])
def test_what_a_converter_could_not_place_counts(tmp_path, kind, shared):
    def unassigned(one):
        name = "UnassignedSharedConvertedAttributes" if shared else (
            "UnassignedPerFrameConvertedAttributes"
        )  # fmt: skip
        frames = one.PerFrameFunctionalGroupsSequence
        for frame in one.SharedFunctionalGroupsSequence if shared else frames:
            group(frame, name, RescaleSlope="1", RescaleIntercept="-1024")

    path = write_enhanced(tmp_path / "a.dcm", STORED, FLAT, edit=of_kind(kind, unassigned))
    in_place(read_series(path), FLAT, STORED - 1024)


def to_the_data_set(one):
    """Spacing, direction, thickness and rescale beside the groups; of one frame also its place."""
    shared = one.SharedFunctionalGroupsSequence[0]
    one.PixelSpacing, one.SliceThickness = shared.PixelMeasuresSequence[0].PixelSpacing, "2"
    one.ImageOrientationPatient = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    del one.SharedFunctionalGroupsSequence
    top_level(one)
    frames = one.PerFrameFunctionalGroupsSequence
    if len(frames) == 1:
        one.ImagePositionPatient = frames[0].PlanePositionSequence[0].ImagePositionPatient
        del frames[0].PlanePositionSequence


@pytest.mark.parametrize("slices", [7, 1])
def test_every_group_may_stand_in_the_data_set(tmp_path, slices):
    stored = STORED[..., :slices]
    path = write_enhanced(tmp_path / "a.dcm", stored, turned(), edit=to_the_data_set)
    found = read_series(path)
    in_place(found, turned(), stored - 1024)
    said = "2 mm thick and 3 mm apart, with gaps" if slices > 1 else "thickness 2 mm counts"
    assert any(said in note for note in found.notes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slices", [7, 1])
@pytest.mark.parametrize("empty", [True, False])
def test_a_segmentation_completes_the_groups(tmp_path, kind, slices, empty):
    """What is missing in the header is in the segmentation, which lies where the image lies."""
    highdicom = pytest.importorskip("highdicom", reason="highdicom is an extra")

    def edit(one):
        to_the_data_set(one)
        if empty:  # groups that are there, and say nothing
            one.SharedFunctionalGroupsSequence = [Dataset()]
            group(one.SharedFunctionalGroupsSequence[0], "PixelMeasures", SpacingBetweenSlices="3")

    stored = STORED[..., :slices]
    path = write_enhanced(tmp_path / "a.dcm", stored, turned(), edit=of_kind(kind, edit))
    found = read_series(path)
    labels = np.zeros(found.array.shape, np.uint8)
    labels[2:4, 1:4, : slices // 2 + 1] = 1
    write_labels(tmp_path / "seg.dcm", labels, found, Names(("background", "liver")))
    seen = highdicom.seg.segread(tmp_path / "seg.dcm")
    measures = seen.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert np.allclose([float(v) for v in measures.PixelSpacing], (1.1, 0.9))
    assert len(seen.PerFrameFunctionalGroupsSequence) == slices // 2 + 1
    for frame in seen.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        meant = found.source.frames[int(source.get("ReferencedFrameNumber", 1)) - 1]
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose([float(v) for v in place], meant.position_mm)


def test_a_single_frame_with_shared_groups_alone_is_read(tmp_path):
    def edit(one):
        (frame,) = one.PerFrameFunctionalGroupsSequence
        shared = one.SharedFunctionalGroupsSequence[0]
        shared.PlanePositionSequence = frame.PlanePositionSequence
        del one.PerFrameFunctionalGroupsSequence

    path = write_enhanced(tmp_path / "a.dcm", STORED[..., :1], turned(), edit=edit)
    in_place(read_series(path), turned(), 2 * STORED[..., :1] - 5)


def test_a_table_in_the_data_set_is_refused(tmp_path):
    def edit(one):
        item = Dataset()
        item.LUTDescriptor, item.ModalityLUTType, item.LUTData = [4, 0, 16], "HU", bytes(8)
        one.ModalityLUTSequence = [item]

    path = write_enhanced(tmp_path / "a.dcm", STORED, FLAT, edit=of_kind("Enhanced CT", edit))
    with pytest.raises(DataError, match="maps its values by a table"):
        read_series(path)


@pytest.mark.parametrize("kind", ["Enhanced CT", "Legacy Converted Enhanced CT", "Enhanced MR"])
def test_a_ct_without_any_slope_is_told(tmp_path, kind):
    path = write_enhanced(tmp_path / "a.dcm", STORED, FLAT, edit=of_kind(kind))
    told = any("no rescale slope" in note for note in read_series(path).notes)
    assert told == kind.endswith("CT")
    assert any(f.kind == "rescale" and f.severity == "warning" for f in check_path(path)) == told


@pytest.mark.parametrize("where", ["shared", "frame", "data set", "single"])
def test_a_map_to_hounsfield_units_serves_a_ct_that_has_nothing_else(tmp_path, where):
    def mapping(unit="[hnsf'U]"):
        item, code = Dataset(), Dataset()
        item.RealWorldValueFirstValueMapped, item.RealWorldValueLastValueMapped = 0, 4095
        item.RealWorldValueSlope, item.RealWorldValueIntercept, item.LUTLabel = 1.0, -1024.0, "HU"
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", unit
        item.MeasurementUnitsCodeSequence = [code]
        return [item]

    def put(one, *_, maps=None):
        maps = mapping() if maps is None else maps
        frames = one.get("PerFrameFunctionalGroupsSequence")
        shared = one.get("SharedFunctionalGroupsSequence")
        places = {"shared": shared, "frame": frames, "data set": [one], "single": [one]}
        for place in places[where]:
            place.RealWorldValueMappingSequence = maps

    def single(one, k):
        del one.RescaleSlope, one.RescaleIntercept
        put(one)

    if where == "single":
        write(tmp_path, STORED, FLAT, edit=single)
    else:
        write_enhanced(tmp_path / "a.dcm", STORED, FLAT, edit=of_kind("Enhanced CT", put))
    found = read_series(tmp_path)
    in_place(found, FLAT, STORED - 1024)
    if where == "shared":  # not in Hounsfield units: the stored values stay, and it is told
        other = of_kind("Enhanced CT", lambda one: put(one, maps=mapping("mg/mL")))
        found = read_series(write_enhanced(tmp_path / "a.dcm", STORED, FLAT, edit=other))
        in_place(found, FLAT, STORED)
        assert any("no rescale slope" in note for note in found.notes)


# ---- several images in one series

SHAPE = (6, 5, 20)
ODD = (5, 11, 13)


def interleaved(tag, usual, other, odd=ODD):
    def edit(one, k):
        setattr(one, tag, other if k in odd else usual)

    return edit


HALVES = tuple(range(10, 20))
EVEN = tuple(range(0, 20, 2))
PHASE = ["ORIGINAL", "PRIMARY", "P", "ND"], ["ORIGINAL", "PRIMARY", "M", "ND"]
IN_MR = [
    ("ImageType", *PHASE, ODD),
    ("ImageType", *PHASE, HALVES),
    ("ImageType", ["ORIGINAL", "PRIMARY", "M", "WATER"], ["ORIGINAL", "PRIMARY", "M", "FAT"], EVEN),
    ("EchoTime", "4.76", "9.52", ODD),
    ("EchoTime", "4.76", "9.52", HALVES),
    ("EchoNumbers", 1, 2, ODD),
    ("DiffusionBValue", 0.0, 800.0, ODD),
    ("DiffusionBValue", 50.0, 800.0, HALVES),
    ("FlipAngle", "5", "15", ODD),
    ("InversionTime", "300", "900", ODD),
    ("AcquisitionNumber", 1, 2, EVEN),
    ("AcquisitionNumber", 1, 2, ODD),
    ("TemporalPositionIdentifier", 1, 2, EVEN),
    ("TriggerTime", "15", "420", EVEN),
    ("TriggerTime", "100", "140", ODD),
    ("ScanOptions", "PFP", ["PFP", "MT"], ODD),
    ("SequenceName", "*tfl3d1", "*fl2d1", ODD),
    ("ScanningSequence", "SE", "GR", ODD),
    ("ComplexImageComponent", "MAGNITUDE", "PHASE", ODD),
    ("ContrastBolusAgent", "", "Gadovist", ODD),
    ("FrameOfReferenceUID", "1.2.3", "1.2.4", HALVES),
    ("StudyInstanceUID", "1.2.3", "1.2.4", ODD),
]
IN_CT = [
    ("ImageType", [*PHASE[0][:2], "AXIAL"], [*PHASE[0][:2], "AXIAL", "MONO_E"], ODD),
    ("ConvolutionKernel", "B30f", "B70f", EVEN),
    ("KVP", "80", "140", EVEN),
    ("FrameOfReferenceUID", "1.2.3", "1.2.4", HALVES),
]  # fmt: skip


@pytest.mark.parametrize(
    ("modality", "tag", "usual", "other", "odd"),
    [("MR", *one) for one in IN_MR] + [("CT", *one) for one in IN_CT],
)
def test_interleaved_images_are_refused_and_can_be_chosen(
    tmp_path, modality, tag, usual, other, odd
):
    edit = interleaved(tag, usual, other, odd)
    array = voxels(SHAPE)
    write(tmp_path, array, FLAT, modality=modality, edit=edit)
    with pytest.raises(DataError) as error:
        read_series(tmp_path)
    for words in ("holds 2 images in one series", f"differ in {tag}", "--series 2:1 or 2:2"):
        assert words in str(error.value)
    assert "\n" not in str(error.value)
    counts = {f"{20 - len(odd)} slices with {tag} ", f"{len(odd)} slices with {tag} "}
    assert any(count in str(error.value) for count in counts)
    (found,) = (f for f in check_path(tmp_path) if f.severity == "error")
    assert tag in found.what and "choose one" in found.mend
    together = read_series(tmp_path, "2:all")
    in_place(together, FLAT, array)
    assert any("2 images are read as one" in note for note in together.notes)
    with pytest.raises(UsageError, match="no image '3'; it holds 2"):
        read_series(tmp_path, "2:3")
    if odd == HALVES:
        chosen = read_series(tmp_path, "2:1")
        assert chosen.array.shape == (6, 5, 10)
        assert any("image 1 of 2 of the series is read" in note for note in chosen.notes)


@pytest.mark.parametrize("by", ["IMA", "GE", "Philips"])
def test_private_b_values_tell_images_apart(tmp_path, by):
    about = {
        "IMA": (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", ["0", "800"]),
        "GE": (0x0043, "GEMS_PARM_01", 0x39, "IS", [[1000000000, 8, 0, 0], [1000000800, 8, 0, 0]]),
        "Philips": (0x2001, "Philips Imaging DD 001", 0x03, "FL", [0.0, 800.0]),
    }[by]

    def edit(one, k):
        where, creator, element, vr, values = about
        one.private_block(where, creator, create=True).add_new(element, vr, values[k in ODD])

    write(tmp_path, voxels(SHAPE), FLAT, modality="MR", edit=edit)
    with pytest.raises(DataError, match=r"17 slices with DiffusionBValue 0, 3 with .* 800"):
        read_series(tmp_path)


def test_the_phase_images_of_ge_are_told_by_a_private_tag(tmp_path):
    def edit(one, k):
        block = one.private_block(0x0043, "GEMS_PARM_01", create=True)
        block.add_new(0x2F, "SS", int(k in ODD))

    write(tmp_path, voxels(SHAPE), FLAT, modality="MR", edit=edit)
    with pytest.raises(DataError, match="differ in ComplexImageComponent"):
        read_series(tmp_path)


def test_an_image_without_diffusion_that_says_no_b_value_is_one_of_b_zero(tmp_path):
    def edit(one, k):
        if k in ODD:
            one.DiffusionBValue = 800.0

    write(tmp_path, voxels(SHAPE), FLAT, modality="MR", edit=edit)
    with pytest.raises(DataError, match="17 slices with DiffusionBValue"):
        read_series(tmp_path)


SOUND = [
    ("MR", "AcquisitionNumber", lambda k: k + 1),  # a breath-hold a slice
    ("MR", "TriggerTime", lambda k: f"{(37 * k * k) % 811}"),  # a localizer, as the heart beats
    ("MR", "TriggerTime", lambda k: f"{600 + 2.5 * (k % 3)}"),  # a stack of one phase
    ("MR", "EchoTime", lambda k: f"{4.76 + 0.001 * (k % 2)}"),  # rounded
    ("MR", "InstanceNumber", lambda k: (7 * k) % 20 + 1),
    ("MR", "SliceLocation", lambda k: f"{3 * (k % 4)}"),
    ("MR", "WindowCenter", lambda k: f"{500 + (k % 5)}"),
    ("MR", "RepetitionTime", lambda k: f"{900 + 13 * (k % 5)}"),  # gated
    ("MR", "ContentTime", lambda k: f"1201{k % 5:02d}"),
    ("MR", "FrameOfReferenceUID", lambda k: f"{STUDY}.4.{k}"),  # anonymised slice by slice
    ("CT", "XRayTubeCurrent", lambda k: 100 + 10 * (k % 4)),
    ("CT", "ExposureTime", lambda k: 500 + 10 * (k % 4)),
]


@pytest.mark.parametrize(("modality", "tag", "value"), SOUND, ids=[f"{s[0]}-{s[1]}" for s in SOUND])
def test_what_varies_slice_by_slice_is_no_other_image(tmp_path, modality, tag, value):
    def edit(one, k):
        setattr(one, tag, value(k))

    write(tmp_path, voxels(SHAPE), FLAT, modality=modality, edit=edit)
    found = read_series(tmp_path)
    in_place(found, FLAT, voxels(SHAPE))
    assert not any("differs among" in note for note in found.notes)


@pytest.mark.parametrize(
    ("modality", "tag", "usual", "other", "odd"),
    [
        ("CT", "AcquisitionNumber", 1, 2, EVEN),
        ("CT", "AcquisitionNumber", 1, 2, HALVES),
        ("MR", "AcquisitionNumber", 1, 2, HALVES),  # two breath-holds, one after the other
        ("MR", "InversionTime", "300", "310", HALVES),  # set anew as the contrast washes out
        ("CT", "ImageType", ["ORIGINAL", "PRIMARY", "AXIAL"],
         ["ORIGINAL", "PRIMARY", "AXIAL", "ADD"], HALVES),  # a head, thicker slices below
        ("CT", "KVP", "120", "140", HALVES),
    ],
)  # fmt: skip
def test_doubts_are_warnings(tmp_path, modality, tag, usual, other, odd):
    edit = interleaved(tag, usual, other, odd)
    write(tmp_path, voxels(SHAPE), FLAT, modality=modality, edit=edit)
    in_place(read_series(tmp_path), FLAT, voxels(SHAPE))
    (found,) = (f for f in check_path(tmp_path) if f.kind == "interleaved")
    assert found.severity == "warning" and f"{tag} differs among the slices" in found.what
    assert "in 10" in found.what


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_two_images_at_every_place_can_be_chosen(tmp_path, modality):
    tag = "EchoTime" if modality == "MR" else "AcquisitionNumber"
    first, second = voxels((6, 5, 8)), voxels((6, 5, 8), seed=1)
    for n, array in enumerate((first, second)):

        def edit(one, k, n=n):
            setattr(one, tag, n + 1)
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"{STUDY}.{n}.{k}"

        write(tmp_path, array, FLAT, modality=modality, edit=edit, name=lambda k, n=n: f"{k}{n}")
    with pytest.raises(DataError, match=rf"2 images of every slice \(they differ in {tag}\)"):
        read_series(tmp_path)
    in_place(read_series(tmp_path, "2:1"), FLAT, first)
    in_place(read_series(tmp_path, f"{STUDY}.2:2"), FLAT, second)
    in_place(read_series(tmp_path, ":2"), FLAT, second)


def test_derived_slices_that_leave_gaps_are_named(tmp_path):
    edit = interleaved("ImageType", PHASE[0], ["DERIVED", "PRIMARY", "PHASE MAP"])
    write(tmp_path, voxels(SHAPE), FLAT, modality="MR", edit=edit)
    with pytest.raises(DataError, match=r"missing \(3\).*; derived images of the series"):
        read_series(tmp_path)


def test_fields_that_say_the_same_are_named_once(tmp_path):
    def edit(one, k):
        one.EchoTime, one.EchoNumbers = ("4.76", 1) if k % 2 else ("9.52", 2)

    write(tmp_path, voxels(SHAPE), FLAT, modality="MR", edit=edit)
    with pytest.raises(DataError, match=r"differ in EchoTime\): 10 slices with EchoTime 4.76, 10"):
        read_series(tmp_path)


def test_two_fields_make_four_images(tmp_path):
    def edit(one, k):
        one.EchoTime, one.ImageType = ("4.76", "9.52")[k % 2], PHASE[k // 2 % 2]

    write(tmp_path, voxels(SHAPE), FLAT, modality="MR", edit=edit)
    with pytest.raises(DataError, match=r"holds 4 images .* ImageType, EchoTime\).*2:1 to 2:4"):
        read_series(tmp_path)
    many = interleaved("EchoTime", "1", "2")
    write(tmp_path, voxels(SHAPE), FLAT, modality="MR", edit=lambda o, k: (
        many(o, k), setattr(o, "EchoTime", f"{k % 10 + 1}")))  # fmt: skip
    with pytest.raises(DataError, match=r"EchoTime 5, \.\.\.; choose"):
        read_series(tmp_path)


FRAMES = {
    "EchoTime": lambda frame, odd: group(frame, "MREcho", EffectiveEchoTime=2.3 * (1 + odd)),
    "ImageType": lambda frame, odd: group(
        frame, "MRImageFrameType", FrameType=PHASE[odd], ComplexImageComponent="MIXED",
        AcquisitionContrast="T1",
    ),
    "DiffusionBValue": lambda frame, odd: group(frame, "MRDiffusion", DiffusionBValue=800.0 * odd),
    "InversionTime": lambda frame, odd: group(frame, "MRModifier", InversionTimes=3e2 + 500 * odd),
    "FlipAngle": lambda frame, odd: group(
        frame, "MRTimingAndRelatedParameters", FlipAngle=5.0 + 10 * odd
    ),
    "TemporalPositionIdentifier": lambda frame, odd: setattr(
        frame.FrameContentSequence[0], "TemporalPositionIndex", 1 + odd
    ),
    "AcquisitionNumber": lambda frame, odd: setattr(
        frame.FrameContentSequence[0], "FrameAcquisitionNumber", 1 + odd
    ),
    "TriggerTime": lambda frame, odd: group(
        frame, "CardiacSynchronization", NominalCardiacTriggerDelayTime=10.0 + 400 * odd
    ),
    "StackID": lambda frame, odd: setattr(frame.FrameContentSequence[0], "StackID", str(1 + odd)),
}  # fmt: skip


@pytest.mark.parametrize("tag", FRAMES)
def test_frames_of_a_file_are_compared_too(tmp_path, tag):
    array = voxels((6, 5, 12))

    def edit(one):
        for k, frame in enumerate(one.PerFrameFunctionalGroupsSequence):
            FRAMES[tag](frame, k in (2, 5, 6))

    path = write_enhanced(tmp_path / "a.dcm", array, FLAT, edit=edit)
    with pytest.raises(DataError, match=rf"differ in {tag}\): 9 slices with {tag}|3 slices with"):
        read_series(path)
    same = write_enhanced(tmp_path / "b.dcm", array, FLAT, edit=lambda one: [
        FRAMES[tag](frame, False) for frame in one.PerFrameFunctionalGroupsSequence
    ])  # fmt: skip
    in_place(read_series(same), FLAT, 2 * array - 5)


def test_an_echo_of_a_multi_frame_file_is_read_and_segmented(tmp_path):
    """Two echoes of every slice in one file: each is an image that a segmentation points at."""

    def edit(one):
        for n, frame in enumerate(one.PerFrameFunctionalGroupsSequence):
            FRAMES["EchoTime"](frame, n % 2)
            frame.FrameContentSequence[0].DimensionIndexValues = [n // 2 + 1]

    order = [0, 0, 1, 1, 2, 2, 3, 3]
    array = voxels((6, 5, 4))
    path = write_enhanced(tmp_path / "a.dcm", array, turned(), order=order, edit=edit)
    with pytest.raises(DataError, match=r"2 images of every slice \(they differ in EchoTime\)"):
        read_series(path)
    found = read_series(path, "9:2")
    in_place(found, turned(), 2 * array - 5)
    assert [frame.index % 2 for frame in found.source.frames] == [1] * 4
    pytest.importorskip("highdicom", reason="highdicom is an extra")
    labels = np.zeros(found.array.shape, np.uint8)
    labels[2:4, 1:4, 1:3] = 1
    write_labels(tmp_path / "seg.dcm", labels, found, Names(("background", "liver")))
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    frames = [
        item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for item in written.PerFrameFunctionalGroupsSequence
    ]
    assert sorted(frames) == sorted(
        f.index + 1 for k, f in enumerate(found.source.frames) if labels[..., k].any()
    )
