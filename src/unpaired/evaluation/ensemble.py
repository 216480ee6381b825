"""Evaluation of models that predict together: folds, and runs that were chosen."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from unpaired.artifact.chosen import choice_path, read_choice
from unpaired.artifact.places import folds_without_model
from unpaired.datasets.dataset import Case
from unpaired.errors import DataError
from unpaired.evaluation.evaluate import NATIVE, Scoring, Steps, evaluate, scale_of
from unpaired.files import printable
from unpaired.inference.predictor import Predictor
from unpaired.leftovers import sweep
from unpaired.names import some
from unpaired.progress import Progress
from unpaired.run import RunFolder
from unpaired.run.folder import Part, RunFiles
from unpaired.run.folds import fold_names
from unpaired.run.scores import Evaluation, Score, write_evaluation

log = logging.getLogger(__name__)
Cases = dict[str, dict[str, Case]]


def is_ensemble(root: Path) -> bool:
    """Whether the folder is a cross-validation or a choice: models that predict together."""
    return choice_path(root) is not None or bool(
        fold_names(root) and not (root / "config.toml").exists()
    )


def trained_runs(root: Path) -> list[RunFolder]:
    """The run that `root` is; of a cross-validation those of its folds that hold a model.

    Raises:
        DataError: there is none.
    """
    if not is_ensemble(root):
        return [RunFolder(root)]
    folds = [RunFolder(root / name) for name in fold_names(root)]
    done = [run for run in folds if run.files.model.is_dir()]
    if not done:
        raise DataError(
            f"{printable(root)}: none of its {len(folds)} folds holds a model yet. Go on with its "
            "training: the same command resumes."
        )
    return done


def evaluate_ensemble(
    root: Path,
    *,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[Part, Evaluation]:
    """Score folds on the cases that each of them held out, pooled; and the test cases, where the
    split has them, by the mean of all models.

    It writes `root`/evaluation_val, `root`/evaluation and `root`/predictions, beside what
    `evaluate` writes into each fold. A choice (best.json) is scored on its test cases only: the
    others made it.

    Returns:
        "val" and "test", those that there are.

    Raises:
        DataError: no model, or no case of either kind.
    """
    sweep(root)
    folder = choice_path(root)
    root = root if folder is None else folder.parent
    members = [root] if folder is None else read_choice(folder).runs
    runs = [run for one in members for run in trained_runs(one)]
    held = [run for run in runs if any(run.cases("val").values())] if folder is None else []
    test, notes = common_cases(runs, "test")
    if missing := folds_without_model(root):
        notes.append(missing)
    tested = sum(map(len, test.values()))
    if not (held or tested):
        raise DataError(
            f"{printable(root)}: the split has no case that was held out or is to test."
        )
    count = sum(len(cases) for run in held for cases in run.cases("val").values()) + tested
    steps, found = Steps(progress, 2 * count), dict[Part, Evaluation]()
    if held:
        parts = [
            evaluate(run.root, "val", device=device, overwrite=overwrite, progress=steps.named())
            for run in held
        ]
        found["val"] = pooled([part[NATIVE] for part in parts], notes)
    if tested:
        scoring = Scoring(
            Predictor.from_folder(root, device=device), scale_of(runs[0]), overwrite, steps
        )
        found["test"] = scoring.evaluate(test, RunFiles(root).predictions(), notes)
    for part, evaluation in found.items():
        write_evaluation(evaluation, RunFiles(root).evaluation(part))
    return found


def common_cases(runs: Sequence[RunFolder], part: Part) -> tuple[Cases, list[str]]:
    """The cases of a part that all runs share, by modality; a note where some do not."""
    each = [run.cases(part) for run in runs]
    shared: Cases = {
        m: {i: case for i, case in cases.items() if all(i in other.get(m, {}) for other in each)}
        for m, cases in each[0].items()
    }
    named = {f"{m}/{i}" for known in each for m, cases in known.items() for i in cases}
    left = sorted(named - {f"{m}/{i}" for m, cases in shared.items() for i in cases})
    if not left:
        return shared, []
    note = (
        f"Left out, since not every fold has them as {part} cases: {some(left)}; "
        "the others may have learnt from them."
    )
    log.warning("%s", note)
    return shared, [note]


def pooled(parts: Sequence[Evaluation], notes: Sequence[str] = ()) -> Evaluation:
    """The scores of all folds as one evaluation; a case that several folds held out counts once."""
    scores: dict[tuple[str, str, str], Score] = {}
    for part in parts:
        for one in part.scores:
            scores.setdefault((one.modality, one.case, one.cls), one)
    failures: dict[str, str] = {}
    for part in parts:
        failures |= part.failures
    every = dict.fromkeys([*notes, *_notes_of(parts)])
    missing = tuple(case for part in parts for case in part.missing)
    return Evaluation(
        tuple(scores.values()), failures, missing, parts[0].tolerance_mm, tuple(every)
    )


def _notes_of(parts: Sequence[Evaluation]) -> Iterator[str]:
    for part in parts:
        yield from part.notes
