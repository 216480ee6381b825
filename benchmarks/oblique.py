"""What it costs that scans lie oblique to the body: nothing, if each keeps its own slices.

    python benchmarks/oblique.py --data NAME=DIR --data NAME=DIR --out runs/oblique --jobs 2

Trains the demo's network on the scans as they are, and on the same scans with the rotation taken
out of their affines, where the file's axes are the patient's and nothing has to be decided; the
same split and seeds. Scores are those of the test cases, on the files' own grids. Runs what
is missing, stores the scores in docs/oblique.json, and writes the section of docs/results.md from
that file alone (`--write`).
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import nibabel as nib
import numpy as np
from joblib import Parallel, delayed

from recipe_search import write_section
from unpaired.cli.options import parse_data
from unpaired.config import load_config
from unpaired.evaluation.evaluate import evaluate
from unpaired.files import read_json, write_json, write_text
from unpaired.io.volume import canonical_orientation
from unpaired.run import RunFolder
from unpaired.training.fit import train

DOCS = Path(__file__).resolve().parents[1] / "docs"
STORED = DOCS / "oblique.json"
AS_STORED, STRAIGHT = "as acquired, oblique", "rotation taken out"
SEEDS = (0, 1)
STEPS = 800
SETTINGS = (
    f"train.steps={STEPS}",
    "train.steps_per_epoch=200",
    "train.threads=1",
    "data.workers=1",
    "data.slice_axis=auto",
    "data.spacing_mm=none",
    "data.split=[0.5, 0.125, 0.375]",
    "predict.largest_component=[]",
    "loss.class_weights=none",
)


def take_rotation_out(folder: Path, out: Path) -> Path:
    """The data set with affines along the file's own axes: spacing only."""
    for path in sorted(folder.rglob("*.nii.gz")):
        image = nib.load(path)
        target = out / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        affine = np.diag([-1, -1, 1, 1]) @ np.diag([*image.header.get_zooms()[:3], 1.0])
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), target)
    write_text(out / "dataset.json", (folder / "dataset.json").read_text())
    return out


def run_one(kind: str, seed: int, data: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Train once; what is stored of it."""
    demo = load_config("demo", None, [*SETTINGS, f"train.seed={seed}"])
    config = demo.model_copy(update={"modalities": {}})  # those are of CT and MR
    name = "oblique" if kind == AS_STORED else "straight"
    run = out / f"{name}-{seed}"
    train(config, data, run, prepared=out / f"prepared-{name}")
    scores = evaluate(run)["native"].scores
    folder = RunFolder(run)
    shapes = {
        m: sorted({tuple(case.shape) for case in cases.values()})
        for m, cases in folder.prepared.items()
    }
    return {
        "kind": kind,
        "seed": seed,
        "dice": {m: [s.dice for s in scores if s.modality == m] for m in data},
        "cases": {m: len({s.case for s in scores if s.modality == m}) for m in data},
        "spacing_mm": folder.plan.spacing_mm,
        "slices": {m: [min(s[0] for s in found), max(s[0] for s in found)]
                   for m, found in shapes.items()},
    }  # fmt: skip


def axes_of(data: Mapping[str, Path]) -> dict[str, dict[str, int]]:
    """Modality -> patient axis closest to the slices -> scans."""
    found: dict[str, dict[str, int]] = {}
    for m, folder in data.items():
        counts = dict.fromkeys("SPL", 0)
        for path in sorted((folder / "imagesTr").glob("*.nii.gz")):
            affine = nib.load(path).affine
            through = int(np.linalg.norm(affine[:3, :3], axis=0).argmax())
            counts["SPL"[canonical_orientation(affine).axes.index(through)]] += 1
        found[m] = counts
    return found


def section(stored: Mapping[str, Any]) -> str:
    """Both tables of docs/results.md."""
    runs = stored["runs"]
    names = list(runs[0]["dice"])
    counts = ", ".join(f"{count} {m}" for m, count in runs[0]["cases"].items())
    lines = [
        f"{STEPS} steps of the demo's network (one for {' and '.join(names)}), "
        f"seeds {', '.join(str(seed) for seed in SEEDS)}; mean Dice in % of the test cases "
        f"({counts}) on the files' own grids.",
        "",
        f"| scans | {' | '.join(f'{m} Dice %, by seed' for m in names)} |",
        f"|---|{'---|' * len(names)}",
        *_scores(runs, names),
        "",
        "| scans | spacing, mm | " + " | ".join(f"slices of {m}" for m in names) + " |",
        f"|---|---|{'---|' * len(names)}",
        *_grids(runs, names),
        "",
        "Patient axis closest to a scan's slices: "
        + "; ".join(f"{m} " + ", ".join(f"{a} {n}" for a, n in counts.items() if n)
                    for m, counts in stored["axes"].items()) + ".",
    ]  # fmt: skip
    return "\n".join(lines)


def _scores(runs: list[dict[str, Any]], names: list[str]) -> Iterator[str]:
    for kind in (AS_STORED, STRAIGHT):
        own = [run for run in runs if run["kind"] == kind]
        cells = []
        for m in names:
            each = [100 * float(np.nanmean(run["dice"][m])) for run in own]
            cells.append(f"{mean(each):.1f} ({', '.join(f'{value:.1f}' for value in each)})")
        yield f"| {kind} | {' | '.join(cells)} |"


def _grids(runs: list[dict[str, Any]], names: list[str]) -> Iterator[str]:
    for kind in (AS_STORED, STRAIGHT):
        one = next(run for run in runs if run["kind"] == kind)
        spacing = " x ".join(f"{mm:.3g}" for mm in one["spacing_mm"])
        slices = [f"{low} to {high}" for low, high in (one["slices"][m] for m in names)]
        yield f"| {kind} | {spacing} | {' | '.join(slices)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/oblique"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="only write the section")
    options = parser.parse_args()
    if not options.write:
        data = parse_data(options.data)
        if not data:
            parser.error("name the data sets, --data NAME=DIR (or --write for the section alone)")
        control = {m: take_rotation_out(root, options.out / "data" / m) for m, root in data.items()}
        kinds = {AS_STORED: data, STRAIGHT: control}
        jobs = [(kind, seed) for seed in SEEDS for kind in kinds]
        found = Parallel(n_jobs=options.jobs)(
            delayed(run_one)(kind, seed, kinds[kind], options.out) for kind, seed in jobs
        )
        write_json(STORED, {"axes": axes_of(data), "runs": found})
    write_section(DOCS / "results.md", section(read_json(STORED)), "oblique")


if __name__ == "__main__":
    main()
