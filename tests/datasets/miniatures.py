"""Faithful miniatures of the official layouts: names and folders as downloaded, tiny scans."""

import json

import nibabel as nib
import numpy as np

from datasets.abdomen import grid, image, organs, scan, truth
from nifti_files import save
from unpaired.datasets import amos_total, mmwhs_btcv

TURNS = ("LPS", "RAS", "PIR", "RSA")
# The heart's miniature wears the abdomen's shapes under the heart's values.
HEART = {"liver": 420, "spleen": 205, "right kidney": 500, "left kidney": 820}


def write_mmwhs(root, numbers=(1001, 1003, 1007)):
    """ct_train/ct_train_1001_image.nii.gz, ...; ct_test without labels; a stray 421."""
    for turn, key in enumerate(("ct", "mr")):
        for number in numbers:
            folder, name = root / f"{key}_train", f"{key}_train_{number}"
            matrix = scan(folder / f"{name}_image.nii.gz", number + turn, TURNS[number % 4])
            label = organs(matrix, HEART, dtype=np.int16)
            if (key, number) == ("mr", 1001):
                first = tuple(axis[0] for axis in np.nonzero(label == 420))
                label[first] = 421
            save(folder / f"{name}_label.nii.gz", label, matrix)
        scan(root / f"{key}_test" / f"{key}_test_2001_image.nii.gz", 2 + turn, "LAS")
    assert set(HEART.values()) < set(mmwhs_btcv.MMWHS_LABELS.values())
    return root


def write_btcv(root, numbers=(1, 2, 9)):
    """RawData/Training/img/img0001.nii.gz, RawData/Training/label/label0001.nii.gz, Testing."""
    training = root / "RawData" / "Training"
    for n in numbers:
        matrix = scan(training / "img" / f"img{n:04d}.nii.gz", n, TURNS[n % 4])
        truth(training / "label" / f"label{n:04d}.nii.gz", matrix, mmwhs_btcv.BTCV_LABELS)
    scan(root / "RawData" / "Testing" / "img" / "img0061.nii.gz")
    return root


AMOS_NAMES = [
    "background", "spleen", "right kidney", "left kidney", "gall bladder", "esophagus", "liver",
    "stomach", "arota", "postcava", "pancreas", "right adrenal gland", "left adrenal gland",
    "duodenum", "bladder", "prostate/uterus",
]  # fmt: skip


def write_amos(root, about=True):
    """amos22/imagesTr/amos_0001.nii.gz and so on, with the spelling of its dataset.json."""
    base, values = root / "amos22", {n: v for v, n in enumerate(amos_total.NAMES)}
    for end, numbers in (("Tr", (1, 4, 507)), ("Va", (8, 554)), ("Ts", (500, 600))):
        for n in numbers:
            name = f"amos_{n:04d}.nii.gz"
            matrix = scan(base / f"images{end}" / name, n, TURNS[n % 4])
            if end != "Ts":
                truth(base / f"labels{end}" / name, matrix, values)
    if about:
        content = {
            "name": "AMOS",
            "modality": {"0": "CT"},
            "labels": {str(v): name for v, name in enumerate(AMOS_NAMES)},
            "training": [{"image": "./imagesTr/amos_0001.nii.gz", "label": "x"}],
        }
        (base / "dataset.json").write_text(json.dumps(content))
    return root


MASKS = {"liver": "liver", "spleen": "spleen", "kidney_right": "right kidney",
         "kidney_left": "left kidney"}  # fmt: skip


def write_totalsegmentator(root, image_name="ct.nii.gz", subjects=("s0000", "s0001", "s0002")):
    """s0000/ct.nii.gz, s0000/segmentations/liver.nii.gz, meta.csv with a byte-order mark."""
    lines = ["image_id;age;gender;institute;study_type;split;manufacturer"]
    for number, subject in enumerate(subjects):
        matrix = scan(root / subject / image_name, number, TURNS[number % 4])
        for stem, organ in MASKS.items():
            if (subject, stem) != ("s0001", "spleen"):  # not in this scan
                truth(root / subject / "segmentations" / f"{stem}.nii.gz", matrix, {organ: 1})
        lines.append(f"{subject};60;m;A;ct;{('train', 'val', 'test')[number % 3]};x")
    (root / "meta.csv").write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    return root


DECATHLON = {"liver": 1, "spleen": 2}


def write_decathlon(root, channels=("CT",)):
    """Task09_Toy/dataset.json, imagesTr/toy_1.nii.gz (4D with several channels), labelsTr."""
    base = root / "Task09_Toy"
    entries, tests = [], []
    for number, part in ((1, "Tr"), (2, "Tr"), (3, "Ts")):
        name, matrix = f"toy_{number}.nii.gz", grid(number, TURNS[number])
        planes = [image(matrix, offset=10 * k) for k in range(len(channels))]
        array = planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)
        save(base / f"images{part}" / name, array, matrix)
        if part == "Tr":
            truth(base / "labelsTr" / name, matrix, DECATHLON)
            entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
        else:
            tests.append(f"./imagesTs/{name}")
    about = {
        "name": "Toy",
        "tensorImageSize": "4D" if len(channels) > 1 else "3D",
        "modality": {str(i): name for i, name in enumerate(channels)},
        "labels": {"0": "background", **{str(v): name for name, v in DECATHLON.items()}},
        "numTraining": 2,
        "training": entries,
        "test": tests,
    }
    (base / "dataset.json").write_text(json.dumps(about))
    return root


MANIFEST = {"liver": 1, "left kidney": 5}


def write_manifest(root, lines=None, between=","):
    """scans.csv and scans.json, files in folders of their own."""
    for number, name in enumerate(("a", "b", "c", "d")):
        matrix = scan(root / "images" / f"{name}.nii.gz", number, TURNS[number])
        truth(root / "masks" / f"{name}.nii.gz", matrix, MANIFEST)
    if lines is None:
        lines = [
            "case,image,label,modality,patient,split",
            "a,images/a.nii.gz,masks/a.nii.gz,ct,p1,train",
            "b,images/b.nii.gz,masks/b.nii.gz,mr,p1,train",
            "c,images/c.nii.gz,masks/c.nii.gz,mr,p2,",
            f"d,{root / 'images' / 'd.nii.gz'},masks/d.nii.gz,ct,p3,test",
        ]
    text = "\n".join(lines).replace(",", between)
    (root / "scans.csv").write_text("\ufeff" + text + "\n", encoding="utf-8")
    labels = {"background": 0, **MANIFEST}
    about = {
        "ct": {"channel_names": {"0": "CT"}, "labels": labels},
        "mr": {"channel_names": {"0": "T2"}, "labels": labels},
    }
    (root / "scans.json").write_text(json.dumps(about))
    return root / "scans.csv"


BIDS = {"liver": 100, "spleen": 102}


def write_bids(root, kinds=("T1w",)):
    """sub-01/anat/sub-01_T1w.nii.gz, derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz."""
    derived = root / "derivatives" / "manual"
    for number, subject in enumerate(("sub-01", "sub-02_ses-a", "sub-02_ses-b")):
        folder = "/".join(subject.split("_")) + "/anat"
        for shift, kind in enumerate(kinds):
            matrix = scan(root / folder / f"{subject}_{kind}.nii.gz", number, TURNS[number],
                          10 * shift)  # fmt: skip
        truth(derived / folder / f"{subject}_dseg.nii.gz", matrix, BIDS)
        mask = organs(matrix, {"liver": 1})
        save(derived / folder / f"{subject}_label-liver_mask.nii.gz", mask, matrix)
    table = "index\tname\tabbreviation\n100\tliver\tLIV\n102\tspleen\tSPL\n"
    (derived / "dseg.tsv").write_text(table)
    about = {"Name": "toy", "BIDSVersion": "1.8.0", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(about))
    return root


NNUNET = {"liver": 1, "spleen": 2, "right kidney": 3, "left kidney": 4}


def write_nnunet(root, ending=".nii.gz"):
    """Dataset042_Toy with a region, an ignore label in one case, and two channels."""
    base = root / "Dataset042_Toy"
    for number, name in enumerate(("toy_001", "toy_002", "toy_003", "toy_004")):
        matrix = grid(number, TURNS[number])
        label = organs(matrix, NNUNET)
        if number == 3:
            label[0, 0, :] = 5
        for channel in (0, 1):
            array = image(matrix, offset=10 * channel)
            save(base / "imagesTr" / f"{name}_{channel:04d}{ending}", array, matrix)
        save(base / "labelsTr" / f"{name}{ending}", label, matrix)
    about = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "liver": [1], "spleen": 2, "kidneys": [3, 4], "ignore": 5},
        "numTraining": 4,
        "file_ending": ending,
    }
    (base / "dataset.json").write_text(json.dumps(about))
    return root


def spoil(path):
    """Cut a file short, as a broken download is."""
    path.write_bytes(path.read_bytes()[:-40])


def mirror(path):
    """Turn a NIfTI file's geometry left for right; the voxels stay."""
    found = nib.load(path)
    array = np.asarray(found.dataobj)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = 24.0
    save(path, array, flip @ found.affine)
