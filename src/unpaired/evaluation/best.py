"""Which of several runs to use, or the mean of which two: by the cases that they held out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from unpaired.artifact.chosen import Choice, choice_path
from unpaired.artifact.members import check_alike
from unpaired.artifact.model import Model
from unpaired.artifact.places import folds_without_model
from unpaired.errors import DataError, UsageError
from unpaired.evaluation.cost import flops_of_a_scan
from unpaired.evaluation.ensemble import is_ensemble, pooled, trained_runs
from unpaired.evaluation.evaluate import NATIVE, Scoring, Steps, evaluate, scale_of
from unpaired.files import printable, write_text
from unpaired.inference.predictor import Predictor
from unpaired.leftovers import sweep
from unpaired.names import file_name, some
from unpaired.progress import Progress
from unpaired.run import RunFolder
from unpaired.run.scores import Evaluation
from unpaired.tables import Table, printed

Cases = dict[tuple[str, str], float]
"""(modality, case) -> mean Dice over the classes that its truth has."""


@dataclass(frozen=True)
class Candidate:
    """A run, or two whose scores are averaged.

    Attributes:
        flops: floating-point operations for one scan, over all its networks.
        dice: of the held-out cases.
    """

    name: str
    runs: tuple[Path, ...]
    flops: float
    dice: Cases

    @property
    def by_modality(self) -> dict[str, float]:
        """The mean over the cases of each."""
        groups: dict[str, list[float]] = {}
        for (m, _), value in self.dice.items():
            groups.setdefault(m, []).append(value)
        return {m: float(np.mean(values)) for m, values in groups.items()}

    @property
    def mean(self) -> float:
        """The mean over the modalities, whatever their numbers of cases."""
        return float(np.mean(list(self.by_modality.values())))


@dataclass(frozen=True, repr=False)
class Best:
    """The choice, and what it was made from.

    Attributes:
        candidates: the best first.
        chosen: the cheapest of those that the spread does not tell from the best.
        notes: what could not be compared, sentences.
        file: best.json, which `--model` takes.
    """

    candidates: tuple[Candidate, ...]
    chosen: Candidate
    notes: tuple[str, ...]
    file: Path

    def __repr__(self) -> str:
        return "\n".join([*self.table.markdown(), "", self.sentence])

    @property
    def table(self) -> Table:
        """A row a candidate."""
        best, how = self.candidates[0], printed("dice")
        names = list(best.by_modality)
        unit = how.heading
        head = ("model", *(f"{m}: {unit}" for m in names), "mean", "behind", "spread",
                "TFLOP a scan", "")  # fmt: skip
        rows = []
        for one in self.candidates:
            behind, spread = behind_by(best, one)
            cells = [*(how.number(one.by_modality[m]) for m in names), how.number(one.mean)]
            cells += ["", ""] if one is best else [how.number(behind), how.number(spread)]
            rows.append([one.name, *cells, f"{one.flops / 1e12:.3g}",
                         "chosen" if one is self.chosen else ""])  # fmt: skip
        return Table(head, rows, "Cases that were held out")

    @property
    def sentence(self) -> str:
        """What was chosen, and why."""
        best, count = self.candidates[0], len(self.chosen.dice)
        how = printed("dice")
        cases = f"{count} case{'s' * (count != 1)} held out"
        if self.chosen is best:
            return f"{best.name} is the best on {cases}: {how.number(best.mean)} % mean Dice."
        behind, spread = behind_by(best, self.chosen)
        return (
            f"{self.chosen.name} is chosen: on {cases} it is {how.difference(behind)} behind "
            f"{best.name}, no more than the spread of that difference ({how.number(spread)}), at "
            f"{100 * self.chosen.flops / best.flops:.0f} % of the cost."
        )


def find_best(
    runs: Sequence[Path], out: Path, *, device: str = "auto", progress: Progress | None = None
) -> Best:
    """Compare runs, and the mean of every two, and write the choice to `out`/best.json.

    A cross-validation is scored on what each fold held out, by that fold, and a single run on its
    validation cases. Test cases are not read. The highest mean Dice wins (the mean over classes,
    cases, modalities); where a cheaper one is behind by no more than the standard error of the
    case-by-case difference, that is chosen. The same call goes on after an interruption.

    Args:
        progress: called with (done, all, "modality/case").

    Raises:
        UsageError: fewer than two runs, or one twice.
        DataError: a run has no model, or the runs share no cases, labels or modalities.
    """
    if len(runs) < 2 or len({path.resolve() for path in runs}) < len(runs):
        raise UsageError("a choice needs two runs or more, each once: unpaired best RUN RUN.")
    contestants = [_contestant(path, name) for path, name in zip(runs, _names(runs), strict=True)]
    for other in contestants[1:]:
        _check_same(contestants[0], other)
    pairs, notes = _pairs(contestants)
    count = sum(len(c) for run in contestants[0].folds for c in run.cases("val").values())
    steps = Steps(progress, 2 * count * (len(contestants) + len(pairs)))
    sweep(out)
    found = [_alone(one, device, steps) for one in contestants]
    found += [_together(pair, out, device, steps) for pair in pairs]
    ranked = tuple(sorted(found, key=lambda one: (-one.mean, one.flops)))
    chosen = choose(ranked)
    by_root = {one.root: one for one in contestants}
    choice = Choice(
        chosen.name,
        chosen.runs,
        tuple(by_root[root].digests for root in chosen.runs),
        {"candidates": [_facts(ranked[0], one) for one in ranked], "notes": notes},
    )
    best = Best(ranked, chosen, tuple(notes), choice.write(out))
    write_text(out / "best.md", f"{best}\n")
    return best


def choose(ranked: Sequence[Candidate]) -> Candidate:
    """The cheapest that the spread does not tell from the first (one standard error: Breiman et
    al., Classification and Regression Trees (1984), 3.4.3)."""
    best = ranked[0]
    tied = [one for one in ranked if one is best or _within(*behind_by(best, one))]
    return min(tied, key=lambda one: (one.flops, -one.mean))


def _within(behind: float, spread: float) -> bool:
    return behind <= 0 or behind <= spread  # nan, the spread of a single case, ties nothing


def behind_by(best: Candidate, other: Candidate) -> tuple[float, float]:
    """How much lower the other's mean is, and the standard error of that, over the same cases.

    nan where a modality has one case.
    """
    by_modality: dict[str, list[float]] = {}
    for (m, case), value in best.dice.items():
        by_modality.setdefault(m, []).append(value - other.dice[m, case])
    errors = [np.var(d, ddof=1) / len(d) if len(d) > 1 else math.nan for d in by_modality.values()]
    spread = math.sqrt(sum(errors)) / len(errors)
    return best.mean - other.mean, spread


@dataclass(frozen=True)
class _Contestant:
    """A run, or the runs of its folds; `model` is the first of them."""

    name: str
    root: Path
    folds: tuple[RunFolder, ...]
    model: Model
    digests: tuple[str, ...]

    @property
    def flops(self) -> float:
        return flops_of_a_scan(self.model, self.folds[0]) * len(self.folds)


def _names(runs: Sequence[Path]) -> list[str]:
    names = [path.resolve().name for path in runs]
    return names if len(set(names)) == len(names) else [str(path) for path in runs]


def _contestant(root: Path, name: str) -> _Contestant:
    if choice_path(root) is not None:
        raise DataError(f"{printable(root)} is a choice itself; name the runs that it chose from.")
    if is_ensemble(root) and (missing := folds_without_model(root)):
        raise DataError(f"{missing} A choice needs all folds of every run.")
    folds = tuple(trained_runs(root))
    models = [Model.load(run.files.model) for run in folds]
    if not any(cases for run in folds for cases in run.cases("val").values()):
        raise DataError(
            f"{printable(root)} held out no case to choose by. Train with a validation part "
            "(data.split), or with --folds."
        )
    return _Contestant(name, root, folds, models[0], tuple(model.digest for model in models))


def _check_same(a: _Contestant, b: _Contestant) -> None:
    """Raise DataError where two runs cannot be compared, naming what they do not share."""
    both = f"{printable(a.root)} and {printable(b.root)}"
    if a.model.plan.classes != b.model.plan.classes:
        raise DataError(
            f"{both} have other classes: {', '.join(a.model.plan.classes[1:])} and "
            f"{', '.join(b.model.plan.classes[1:])}. Compare runs of one label set."
        )
    channels = [
        {m: part.channel_names for m, part in one.model.plan.modalities.items()} for one in (a, b)
    ]
    if channels[0] != channels[1]:
        raise DataError(
            f"{both} have other modalities or channels: {', '.join(channels[0])} and "
            f"{', '.join(channels[1])}. Compare runs of the same modalities."
        )
    if len(a.folds) != len(b.folds):
        raise DataError(
            f"{both} have {len(a.folds)} and {len(b.folds)} folds. Train both with one file of "
            f"splits: --folds {len(a.folds)} data.splits={a.root / 'splits_final.json'}."
        )
    for number, (left, right) in enumerate(zip(a.folds, b.folds, strict=True)):
        odd = sorted(_held(left) ^ _held(right))
        if odd:
            where = f" of fold {number}" if len(a.folds) > 1 else ""
            raise DataError(
                f"{both} held out other cases{where}: {some(odd)} only on one side. Train both "
                f"with one file of splits: data.splits={a.root / 'splits_final.json'}."
            )
        known, now = left.inputs.files, right.inputs.files
        labels = [f"{name} label" for name in sorted(_held(left))]
        if changed := [name for name in labels if known.get(name) != now.get(name)]:
            raise DataError(
                f"{both} were trained on other labels: {some(changed)}. Train both on the same "
                "files."
            )


def _held(run: RunFolder) -> set[str]:
    return {f"{m}/{i}" for m, cases in run.cases("val").items() for i in cases}


def _pairs(
    contestants: Sequence[_Contestant],
) -> tuple[list[tuple[_Contestant, _Contestant]], list[str]]:
    """Those that can be averaged, and why others cannot."""
    pairs, notes = [], []
    for a, b in combinations(contestants, 2):
        try:
            check_alike(a.model, b.model)
            pairs.append((a, b))
        except DataError as error:
            notes.append(str(error))
    return pairs, notes


def _alone(one: _Contestant, device: str, steps: Steps) -> Candidate:
    parts = [
        evaluate(run.root, "val", device=device, progress=steps.named())[NATIVE]
        for run in one.folds
        if _held(run)
    ]
    return Candidate(one.name, (one.root,), one.flops, _dice(one.name, pooled(parts)))


def _together(
    pair: tuple[_Contestant, _Contestant], out: Path, device: str, steps: Steps
) -> Candidate:
    """The mean of two: of each fold the two networks that did not learn from its cases."""
    name = " + ".join(one.name for one in pair)
    parts = []
    for number, runs in enumerate(zip(*(one.folds for one in pair), strict=True)):
        if not _held(runs[0]):
            continue
        predictor = Predictor.from_folder([run.files.model for run in runs], device=device)
        scoring = Scoring(predictor, scale_of(runs[0]), False, steps)
        folder = out / "predictions" / file_name(name) / f"fold_{number}"
        parts.append(scoring.evaluate(runs[0].cases("val"), folder))
    roots = tuple(one.root for one in pair)
    flops = sum(one.flops for one in pair)
    return Candidate(name, roots, flops, _dice(name, pooled(parts)))


def _dice(name: str, evaluation: Evaluation) -> Cases:
    if evaluation.failures:
        lines = "\n".join(f"  {case}: {why}" for case, why in evaluation.failures.items())
        raise DataError(
            f"{printable(name)} could not be scored on all cases, so nothing is chosen. Mend "
            f"these and run the same command again:\n{lines}"
        )
    values: dict[tuple[str, str], list[float]] = {}
    for one in evaluation.scores:
        if one.truth_voxels:
            values.setdefault((one.modality, one.case), []).append(one.dice)
    return {key: float(np.mean(of_case)) for key, of_case in values.items()}


def _facts(best: Candidate, one: Candidate) -> Mapping[str, object]:
    behind, spread = behind_by(best, one)
    return {
        "name": one.name,
        "mean_dice": one.mean,
        "dice": one.by_modality,
        "behind": behind,
        "spread": spread,
        "flops_a_scan": one.flops,
        "cases": {m: len(list(_of(one.dice, m))) for m in one.by_modality},
    }


def _of(dice: Cases, modality: str) -> Iterator[float]:
    return (value for (m, _), value in dice.items() if m == modality)
