"""CHAOS in miniature: DICOM folders and PNG pictures, named and ordered as downloaded."""

import numpy as np
from PIL import Image

from datasets.abdomen import grid, image, organs
from datasets.dicom_slices import write_slices

MR_NAMES = [f"IMG-0004-{n:05d}.dcm" for n in range(1, 17)]
CT_NAMES = [f"i{n:04d},0000b.dcm" for n in range(16)]
T1 = 40  # its scans are brighter, so that no two images are the same
GREY = {"liver": 63, "right kidney": 126, "left kidney": 189, "spleen": 252}


def pictures(folder, label, names):
    """One PNG a slice, label [column row slice]."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(label[..., number].T.astype(np.uint8)).save(folder / name)


def write_ct(patient, number=0, axes="LPI", grey=255):
    """From head to feet by name, as CHAOS has it; DICOM_anon and Ground/liver_GT_000.png."""
    matrix = grid(number, axes)
    write_slices(patient / "DICOM_anon", image(matrix), matrix, CT_NAMES, intercept=-1024)
    label = organs(matrix, {"liver": grey}, dtype=np.uint8)
    pictures(patient / "Ground", label, [f"liver_GT_{n:03d}.png" for n in range(16)])


def write_mr(patient, number=0, axes="LPS", ground=True):
    """T2SPIR and T1DUAL (InPhase, OutPhase), whose greys scatter inside their ranges."""
    rng = np.random.default_rng(number)
    for scan, turn in (("T2SPIR", axes), ("T1DUAL", axes[:2] + "SI"["IS".index(axes[2])])):
        matrix = grid(number, turn)
        base = patient / scan / "DICOM_anon"
        phases = {"InPhase": T1, "OutPhase": T1 + 10} if scan == "T1DUAL" else {".": 0}
        for phase, offset in phases.items():
            write_slices(base / phase, image(matrix, offset=offset), matrix, MR_NAMES)
        if ground:
            label = organs(matrix, GREY, dtype=np.int16)
            label = np.where(label > 0, label + rng.integers(-3, 3, label.shape), 0)
            names = [name.replace(".dcm", ".png") for name in MR_NAMES]
            pictures(patient / scan / "Ground", label, names)


def write_chaos(root):
    train, test = root / "CHAOS_Train_Sets" / "Train_Sets", root / "CHAOS_Test_Sets" / "Test_Sets"
    write_ct(train / "CT" / "2", 1)
    write_mr(train / "MR" / "1", 2, "LPS")
    write_mr(train / "MR" / "39", 3, "LPI")
    write_mr(test / "MR" / "3", 4, "LPS", ground=False)
    return root
