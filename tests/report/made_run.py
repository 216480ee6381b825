"""A run folder as training, prediction and evaluation leave it, with small synthetic volumes."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from unpaired.evaluation.scores import Labels, evaluate_pairs
from unpaired.files import write_json, write_text
from unpaired.io.nifti import write_volume
from unpaired.io.volume import Volume
from unpaired.run.scores import Evaluation, write_evaluation

CLASSES = ("background", "spleen", "right kidney", "left kidney", "liver")
VALUES = {0: 0, 6: 4, 2: 2, 3: 3, 1: 1}
Subject = Callable[[str, int], tuple[np.ndarray, np.ndarray, np.ndarray]]


def small_subject(modality: str, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image [i j k], class indices, affine (RAS): four balls in a body."""
    rng = np.random.default_rng([number, len(modality)])
    shape = (48, 40, 12)
    x, y, z = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
    label = np.zeros(shape, np.uint8)
    # +x is the patient's left in this LPS-like array; the affine says so.
    centres = {1: (0.5, 0.2), 2: (-0.4, 0.5), 3: (0.35, 0.55), 4: (-0.35, -0.1)}
    for cls, (cx, cy) in centres.items():
        radius = (0.35 if cls == 4 else 0.2) * rng.uniform(0.8, 1.2)
        label[(x - cx) ** 2 + (y - cy) ** 2 + (z * 0.6) ** 2 < radius**2] = cls
    body = x**2 + (y / 0.8) ** 2 + 0 * z < 0.9
    image = np.where(body, 40 + 20 * label, -900 if modality == "ct" else 0)
    image = image + rng.normal(0, 8, shape)
    return image.astype(np.int16), label, np.diag([-2.5, -2.0, 6.0, 1.0])


def imperfect(label: np.ndarray, seed: int) -> np.ndarray:
    """A prediction: the truth shifted a little, a class lost now and then, some wrong voxels."""
    rng = np.random.default_rng(seed)
    moved = np.roll(label, rng.integers(-2, 3, 2), (0, 1))
    if seed % 4 == 3:
        moved[moved == 1] = 0
    return moved


def make_run(
    folder: Path, count: int = 4, subject: Subject = small_subject, steps: int = 400
) -> Path:
    """Write a whole run folder with `count` test cases per modality; returns it."""
    run = folder / "run"
    write_text(run / "config.toml", CONFIG.replace("STEPS", str(steps)))
    write_json(run / "plan.json", plan())
    known, pairs = {}, []
    for m in ("ct", "mr"):
        cases = {}
        for number in range(count):
            name = f"{m}_{number:03d}"
            image, label, affine = subject(m, number)
            files = volumes(folder, run, m, name, image, label, affine, number)
            cases[name] = {"images": [str(files[0])], "label": str(files[1]), "patient": name}
            pairs.append((m, name, files[2], files[1]))
        values = {str(value): index for value, index in VALUES.items()}
        known[m] = {"root": str(folder / m), "channel_names": [m.upper()], "values": values,
                    "cases": cases}  # fmt: skip
    write_json(run / "data.json", {"classes": CLASSES, "prepared": "x", "modalities": known})
    scores = evaluate_pairs(pairs, Labels(CLASSES, dict.fromkeys(("ct", "mr"), VALUES)))
    write_evaluation(Evaluation(tuple(scores)), run / "evaluation")
    names = [f"{m}/{m}_{n:03d}" for m in ("ct", "mr") for n in range(count)]
    train = [f"{m}/t{n}" for m in ("ct", "mr") for n in range(7)]
    write_json(run / "splits_final.json", [{"train": train, "val": ["ct/v", "mr/v"],
                                            "test": names}])  # fmt: skip
    write_json(run / "floor.json", {m: {c: 0.5 + 0.05 * i for i, c in enumerate(CLASSES[1:])}
                                    for m in ("ct", "mr")})  # fmt: skip
    write_json(run / "environment.json", ENVIRONMENT)
    extra = {"step": steps, "parameters": {"training": 31_204_512, "test": 27_171_110}}
    write_json(run / "model" / "model.json", {"parameters": 27_171_110, "extra": extra})
    write_log(run / "log.jsonl", steps)
    write_semantics(run / "semantics.npz")
    return run


def volumes(folder, run, m, name, image, label, affine, number):
    values = np.zeros(5, np.uint8)
    for value, index in VALUES.items():
        values[index] = value
    files = (
        folder / m / "imagesTr" / f"{name}_0000.nii.gz",
        folder / m / "labelsTr" / f"{name}.nii.gz",
        run / "predictions" / m / f"{name}.nii.gz",
    )
    arrays = image, values[label], imperfect(label, number)
    for path, array in zip(files, arrays, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(path, array, Volume(array, affine))
    return files


def plan() -> dict:
    window = {"kind": "window", "low": -160.0, "high": 240.0}
    percentile = {"kind": "percentile", "low": 0.5, "high": 99.5}
    return {
        "version": 1, "classes": CLASSES, "spacing_mm": [6.0, 2.0, 2.5], "slice_axis": "S",
        "patch": [128, 128], "context": 3, "order": 3,
        "modalities": {
            "ct": {"channel_names": ["CT"], "clip": [window], "zscore": "volume"},
            "mr": {"channel_names": ["MR"], "clip": [percentile], "zscore": "volume"},
        },
        "reasons": {
            "spacing_mm": "The median over the cases of all modalities, axis by axis.",
            "slice_axis": "Slices lie along the coarsest axis, here from foot to head.",
            "patch": "The median image is 124 x 121 voxels; the next multiple of 32 is 128 x 128.",
            "context": "A slice and its two neighbours.",
            "modalities.ct": "The channel is CT: a window from the labelled voxels.",
            "modalities.mr": "Units differ from scan to scan: percentiles of each volume.",
            "mirror": "Left-right mirroring is off: right kidney and left kidney are classes.",
        },
    }  # fmt: skip


def write_log(path: Path, steps: int) -> None:
    rng = np.random.default_rng(0)
    lines = []
    for step in range(1, steps + 1, max(1, steps // 200)):
        t = step / steps
        terms = {f"seg/{m}": 0.15 + 1.8 * math.exp(-5 * t) for m in ("ct", "mr")}
        terms.update({f"aux/{m}": 0.6 + 3 * math.exp(-4 * t) for m in ("ct", "mr")})
        terms.update({"mcr": 5 * math.exp(-6 * t) + 0.02, "icr": 0.25 * math.exp(-3 * t) + 0.03})
        terms = {name: value * math.exp(rng.normal(0, 0.12)) for name, value in terms.items()}
        weights = {"seg": 1.0, "aux": 0.4, "mcr": 0.1, "icr": 0.1}
        weighted = {name: weights[name.split("/")[0]] * v for name, v in terms.items()}
        lines.append({"kind": "step", "step": step, "epoch": step / 40, "lr": 1e-3,
                      "loss": sum(weighted.values()), "terms": terms, "weighted": weighted,
                      "gain_distance": 1.4 * (1 - math.exp(-4 * t)), "seconds": step})  # fmt: skip
        if (step - 1) % max(1, steps // 20) == 0:
            dice = {
                m: {c: 0.95 - 0.03 * i - 0.8 * math.exp(-(4 + i) * t)
                    for i, c in enumerate(CLASSES[:0:-1])}
                for m in ("ct", "mr")
            }  # fmt: skip
            mean = {m: float(np.mean(list(found.values()))) for m, found in dice.items()}
            lines.append({"kind": "validation", "step": step, "epoch": step // 40, "dice": dice,
                          "mean": mean, "score": 0.9})  # fmt: skip
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "st')


def write_semantics(path: Path) -> None:
    rng = np.random.default_rng(1)
    shared = rng.normal(size=(5, 32))
    arrays = {f"embedding/{m}": shared + 0.5 * rng.normal(size=(5, 32)) for m in ("ct", "mr")}
    for scale in (1, 2, 3):
        common = rng.normal(size=(5, 5)) + 2 * np.eye(5)
        for m in ("ct", "mr"):
            arrays[f"correlation/{m}/{scale}"] = common + 0.15 * rng.normal(size=(5, 5))
    arrays["described/norm"] = np.array([[40.0, 12.5, 3.25], [50.0, 10.0, 2.0]])
    arrays["described/entropy"] = np.array([[0.15, 0.87, 1.1], [0.2, 0.9, 1.2]])
    arrays["described/within"] = np.array([[2.0, 0.0, 0.07], [4.0, 0.0, 0.03]])
    arrays["described/across"] = np.array([18.0, 4.4, 1.25])
    np.savez_compressed(path, **arrays)


ENVIRONMENT = {
    "python": "3.11.7", "platform": "Linux", "cpu": "a processor", "cores": 2, "memory_gib": 23.5,
    "gpu": None, "versions": {"unpaired": "0.1.0", "torch": "2.13.0", "numpy": "2.3.0"},
    "command": ["unpaired", "train", "--out", "run"],
}  # fmt: skip

CONFIG = """
[data]
slice_axis = "auto"
context = 3
split = [0.7, 0.1, 0.2]

[model]
backbone = "swin_unet"
variant = "V3"

[loss]
alpha = 0.4
beta = 0.1
gamma = 0.1
tau = 4.0

[train]
steps = STEPS
batch_size = 12
learning_rate = 0.001
deterministic = false
"""
