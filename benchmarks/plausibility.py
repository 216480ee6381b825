"""How often `predict` calls a result odd: of sound test cases, and of cases broken on purpose.

    python benchmarks/plausibility.py [--out DIR] [--real FOLDER]

Trains a small network on 16 CT-like and 16 MR-like scans of the phantom (4 + 4 validate), predicts
20 + 20 others, and breaks five of each in the ways of `BREAKS`. A case has failed where a class
that its truth holds is below Dice 0.5; "odd" is what makes `predict --strict` exit with 3. FOLDER
holds real scans of two modalities in the nnU-Net layout, a folder each: a second network.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter

import numpy as np

from _report import interleave, record
from unpaired.config import load_config
from unpaired.datasets.dataset import Case, value_table
from unpaired.datasets.sources import open_dataset
from unpaired.inference.predictor import Predictor
from unpaired.io.read import read_image, read_label_image
from unpaired.io.volume import Volume
from unpaired.metrics import dice
from unpaired.phantom import write_phantom
from unpaired.plausibility.measure import levels_of, measure_classes
from unpaired.run import RunFolder
from unpaired.training.fit import train

SETTINGS = ("model.options.base_width=8", "train.steps=400", "train.steps_per_epoch=100")
REAL = (
    *("data.spacing_mm=none", "data.slice_axis=auto", "loss.class_weights=none"),
    *("predict.largest_component=[]", "data.split=[0.44,0.19,0.37]"),
)
BROKEN = 5
COUNTS = {"ct": 40, "mr": 40}
"""Of seed 1: the limits were chosen on other phantoms."""
Scan = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Image [i j k], class indices, affine."""


def halved(scan: Scan) -> Scan:
    """The lower half of the slices is missing."""
    image, label, affine = scan
    return image[:, :, image.shape[2] // 2 :], label[:, :, image.shape[2] // 2 :], affine


def stretched(scan: Scan) -> Scan:
    """The header says that rows and columns are twice as far apart."""
    return scan[0], scan[1], scan[2] @ np.diag([2.0, 2.0, 1.0, 1.0])


def mirrored(scan: Scan) -> Scan:
    """Left and right exchanged, the header as it was."""
    return scan[0][::-1], scan[1][::-1], scan[2]


def upside_down(scan: Scan) -> Scan:
    """The last slice first, the header as it was."""
    return scan[0][:, :, ::-1], scan[1][:, :, ::-1], scan[2]


def noisy(scan: Scan) -> Scan:
    """Noise as strong as the image's own contrast."""
    image = scan[0].astype(float)
    noise = np.random.default_rng(0).normal(0, image.std(), image.shape)
    return (image + noise).round().astype(np.int16), *scan[1:]


def negative(scan: Scan) -> Scan:
    """Dark is bright and bright is dark."""
    image = scan[0].astype(np.int32)
    return (image.max() + image.min() - image).astype(np.int16), *scan[1:]


def without_contrast(scan: Scan) -> Scan:
    """The largest organ as dark as fluid or air: it cannot be told from what is around it."""
    image, label, affine = scan
    largest = np.bincount(label.reshape(-1))[1:].argmax() + 1
    out = image.copy()
    out[label == largest] = np.percentile(image, 20)
    return out, label, affine


BREAKS: dict[str, Callable[[Scan], Scan]] = {
    "half of the scan": halved,
    "spacing twice as large in the header": stretched,
    "left and right exchanged": mirrored,
    "upside down": upside_down,
    "noise": noisy,
    "negative": negative,
    "an organ dark": without_contrast,
}


def scan_of(case: Case, table: Mapping[int, int]) -> Scan:
    """Its image and class indices."""
    image = read_image(case.images[0])
    label = read_label_image(case.label or Path()).array
    indices = np.zeros(label.shape, np.uint8)
    for value, index in table.items():
        indices[label == value] = index
    return image.array, indices, image.affine


def judged(predictor: Predictor, scan: Scan, modality: str) -> tuple[float, bool, str]:
    """Lowest Dice of a class that is there, whether the result is odd, and what is said."""
    image, truth, affine = scan
    found = predictor.predict(Volume(np.ascontiguousarray(image), affine), modality)
    there = [z for z in range(1, len(predictor.classes)) if (truth == z).any()]
    worst = min((dice(found.labels == z, truth == z) for z in there), default=float("nan"))
    return float(worst), found.plausibility.odd, found.plausibility.line


class Tally:
    """Counts of one kind of scans."""

    def __init__(self, name: str) -> None:
        self.name, self.found = name, list[tuple[float, bool]]()

    def add(self, name: str, worst: float, odd: bool, line: str) -> None:
        self.found.append((worst, odd))
        print(f"  {self.name}, {name}: worst Dice {worst:.2f}, {line or '-'}", flush=True)

    def row(self) -> dict[str, object]:
        failed = [odd for worst, odd in self.found if worst < 0.5]
        sound = [odd for worst, odd in self.found if worst >= 0.5]
        return {
            "scans": self.name,
            "failed": len(failed),
            "of these odd": sum(failed),
            "sound": len(sound),
            "of them odd": sum(sound),
        }


Rows = list[dict[str, object]]


def compare(name: str, roots: Mapping[str, Path], out: Path, settings: tuple[str, ...]) -> Rows:
    """Train, predict sound and broken test cases; a row a kind."""
    config = load_config("demo", None, ["data.workers=0", *settings])
    if not set(config.modalities) >= set(roots):  # the demo's intensities are of others
        config = config.model_copy(update={"modalities": {}})
    early = config.replace(train={"steps": 25})
    train(config, roots, out / "run")
    train(early, roots, out / "early", prepared=out / "run" / "prepared")
    predictor = Predictor.from_folder(out / "run", device="cpu")
    untrained = Predictor.from_folder(out / "early", device="cpu")
    run, rows = RunFolder(out / "run"), [Tally(f"{name}, as they are")]
    kinds = {kind: Tally(f"{name}, {kind}") for kind in (*BREAKS, "other modality", "25 steps")}
    names = list(roots)
    for m, cases in run.cases("test").items():
        table = value_table(open_dataset(m, roots[m]), predictor.classes)
        for n, case in enumerate(cases.values()):
            scan = scan_of(case, table)
            rows[0].add(case.id, *judged(predictor, scan, m))
            if n >= BROKEN:
                continue
            for kind, break_ in BREAKS.items():
                kinds[kind].add(case.id, *judged(predictor, break_(scan), m))
            other = names[(names.index(m) + 1) % len(names)]
            kinds["other modality"].add(case.id, *judged(predictor, scan, other))
            kinds["25 steps"].add(case.id, *judged(untrained, scan, m))
    return [tally.row() for tally in (*rows, *kinds.values())]


def cost_ms() -> float:
    """Of the measures of a 512 x 512 x 200 volume with four classes."""
    labels = np.zeros((200, 512, 512), np.uint8)
    for z in range(1, 5):
        labels[40:160, 60 * z : 60 * z + 50, 100:300] = z
    image = np.random.default_rng(0).normal(size=(1, 200, 512, 512)).astype(np.float32)

    def measure() -> None:
        measure_classes(labels, image, (2.0, 0.8, 0.8), 4)
        levels_of(image)

    return 1e3 * interleave({"measure": measure}, 5)["measure"]


def main() -> None:
    """Print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--real", type=Path)
    given = parser.parse_args()
    began = perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        out = given.out or Path(temporary)
        roots = write_phantom(
            out / "data", COUNTS, level="benchmark", quality=2.0, seed=1, workers=1
        )
        split = ("data.split=[0.4,0.1,0.5]",)
        rows = compare("phantom", roots, out / "phantom", (*SETTINGS, *split))
        if given.real is not None:
            real = {p.name: p for p in sorted(given.real.iterdir()) if p.is_dir()}
            rows += compare(given.real.name, real, out / "real", (*SETTINGS, *REAL))
    for row in rows:
        print(row)
    print(f"512 x 512 x 200 voxels: {cost_ms():.0f} ms; all: {perf_counter() - began:.0f} s")
    record("plausibility", rows, ("torch", "numpy"))


if __name__ == "__main__":
    main()
