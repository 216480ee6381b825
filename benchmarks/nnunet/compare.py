"""nnU-Net beside us: the same scans, the same split, the same processor time, MONAI's metrics.

    python benchmarks/nnunet/compare.py --name phantom --data ct=DIR --data mr=DIR \\
        --nnunet ENVIRONMENT/bin/python --minutes 10 --seeds 3 --out runs/nnunet

Trains, predicts and scores what has no record yet, then writes docs/benchmarks.md. README.md beside
this file says what is compared and how.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
from joblib import Parallel, delayed
from monai_scores import score_case
from raw import case_name, truth_of, write_images
from rows import ROWS, Job, is_done, jobs_of, store
from table import PAGE, STORE, write_page
from tools import NnUnet, Ours, Study

from unpaired.cli.options import parse_data
from unpaired.datasets.dataset import Dataset, class_names, source_files
from unpaired.datasets.sources import open_dataset
from unpaired.datasets.split_file import read_splits
from unpaired.errors import UnpairedError, UsageError
from unpaired.files import sha256_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _report import machine

SPLITS = Path(__file__).with_name("splits")
VERSIONS = ("torch", "monai", "numpy")


def one_job(job: Job, study: Study, python: Path | None, folder: Path) -> str:
    """Train, predict, score, store; what is there already is not done again."""
    if is_done(job, folder):
        return f"{job.name}: there"
    if job.row.optimizer and python is None:
        raise UsageError("nnU-Net's rows need --nnunet PYTHON; see benchmarks/nnunet/README.md.")
    tool = NnUnet(python, study) if job.row.optimizer and python else Ours(study)
    prepared = tool.prepare(job)
    trained = tool.train(job)
    labels = study.of(job) / job.part
    predicted = tool.predict(job, labels)
    costs = {"prepare": prepared, "train": trained, "predict": predicted}
    found = {
        "cost": {name: part.get("cost") for name, part in costs.items()},
        "steps": trained["steps"],
        "parameters": trained["parameters"],
        "training_seconds": trained.get("training_seconds"),
        "plan": prepared.get("plan"),
        "versions": {name: version(name) for name in VERSIONS} | trained.get("versions", {}),
        "machine": machine(VERSIONS),
        "scores": _scores(job, study, labels),
    }
    return f"{job.name}: {store(job, found, folder)}"


def _scores(job: Job, study: Study, labels: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Modality -> case -> class -> Dice, ASD, HD95, NSD."""
    classes = class_names(study.datasets)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for m in job.modalities:
        found[m] = {}
        known = {case.id: case for case in study.datasets[m].cases}
        for case in study.split.part(job.part)[m]:
            prediction = labels / m / f"{case_name(m, case)}.nii.gz"
            affine = nib.load(known[case].label).affine
            truth = truth_of(study.datasets, m, case)
            scores = score_case(prediction, truth, affine, classes)
            found[m][case] = {one.cls: list(one[1:]) for one in scores}
    return found


def opened(options: argparse.Namespace) -> Study:
    """Data sets and split, and the images to predict.

    Raises:
        UsageError, DataError: an option, a data set or the split is wrong.
    """
    roots = {m: root.resolve() for m, root in parse_data(options.data).items()}
    if len(roots) < 2:
        raise UsageError("give --data twice or more: one folder a modality.")
    datasets = {m: open_dataset(m, root) for m, root in roots.items()}
    split_file = options.split or SPLITS / f"{options.name}.json"
    folds = read_splits(split_file, {m: one.cases for m, one in datasets.items()})
    if len(folds) != 1 or not all(folds[0].part(options.part).values()):
        raise UsageError(
            f"{split_file} must be one fold with {options.part} cases of each modality."
        )
    out = options.out.resolve() / options.name
    study = Study(roots, datasets, folds[0], split_file.resolve(), out, options.through)
    write_images(datasets, folds[0], out, options.part)
    return study


def settings_of(options: argparse.Namespace, study: Study) -> dict[str, dict[str, Any]]:
    """Of each tool, whatever decides what its trainings compute."""
    own = {"split": sha256_of(study.split_file)[:16], "data": fingerprint(study.datasets)}
    return {
        "nnunet": {
            "configuration": options.configuration,
            "override": {"batch_size": options.batch} if options.batch else {},
            **own,
        },
        "ours": {"preset": options.preset, "overrides": options.ours, **own},
    }


def fingerprint(datasets: Mapping[str, Dataset]) -> str:
    """Of the cases and their files' sizes: other scans under the same names are other data."""
    names = [
        f"{m}/{case.id}/{Path(file['path']).name}/{file['size']}"
        for m, one in datasets.items()
        for case in one.cases
        for file in source_files(case)
    ]
    return sha256("\n".join(names).encode()).hexdigest()[:16]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--name", required=True, help="of the data set in records and table")
    add("--data", action="append", default=[], metavar="NAME=DIR")
    add("--split", type=Path, help="one fold with a test part; default: splits/<name>.json")
    add("--out", type=Path, default=Path("runs/nnunet"), help="raw, prepared, runs, predictions")
    add("--store", type=Path, default=STORE, help="where the records go")
    add("--page", type=Path, default=PAGE, help="where the table goes")
    add("--nnunet", type=Path, metavar="PYTHON", help="of nnU-Net's environment")
    add("--minutes", type=float, default=10.0, help="processor minutes a modality")
    add("--seeds", type=int, default=3)
    add("--jobs", type=int, default=1, help="trainings at a time")
    add("--only", action="append", choices=[*ROWS], metavar="ROW", help=", ".join(ROWS))
    add("--part", choices=["test", "val"], default="test", help="what is predicted")
    add("--configuration", default="2d", help="of nnU-Net: 2d or 3d_fullres")
    add("--batch", type=int, help="of nnU-Net, in place of its plan's")
    add("--preset", help="of ours; default: planned for the budget")
    add("--ours", action="append", default=[], metavar="KEY=VALUE", help="settings of ours")
    add("--through", type=shlex.split, default=[], help='put before each command: "nice -n 5"')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write the table."""
    options = parse(arguments)
    try:
        study = opened(options)
        settings = settings_of(options, study)
        jobs = jobs_of(
            options.name, [*study.datasets], options.only or [*ROWS], options.seeds,
            options.minutes, options.part, settings,
        )  # fmt: skip
        said = run_all(jobs, study, options)
    except UnpairedError as error:
        raise SystemExit(str(error)) from error
    write_page(options.store, options.page)
    if failed := sum(not ended for ended in said):
        raise SystemExit(f"{failed} of {len(said)} trainings failed; the reasons stand above.")


def run_all(jobs: Sequence[Job], study: Study, options: argparse.Namespace) -> list[bool]:
    """Whether each job ended. One that fails does not stop the others.

    Data are prepared first and one after the other: jobs that share them must not do it twice.
    """
    if options.nnunet:
        tool = NnUnet(options.nnunet, study)
        for job in {job.network: job for job in jobs if job.row.optimizer}.values():
            if not is_done(job, options.store):
                tool.prepare(job)
    work = (delayed(_ended)(job, study, options) for job in jobs)
    return list(Parallel(n_jobs=options.jobs, backend="threading")(work))


def _ended(job: Job, study: Study, options: argparse.Namespace) -> bool:
    try:
        print(one_job(job, study, options.nnunet, options.store), flush=True)
    except UnpairedError as error:
        print(f"{job.name} failed: {error}", file=sys.stderr, flush=True)
        return False
    return True


if __name__ == "__main__":
    main()
