"""The two sides of a comparison: runs read from folders, and which run is held against which."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from unpaired.errors import DataError
from unpaired.run.contents import RunContents, read_contents
from unpaired.run.scores import Score, read_evaluation

Tests = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Side:
    """One or more runs of one recipe, such as its seeds."""

    name: str
    runs: tuple[RunContents, ...]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those of all its runs."""
        first, *others = (scored_modalities(run) for run in self.runs)
        return tuple(m for m in first if all(m in other for other in others))


@dataclass(frozen=True)
class Pair:
    """What is held against each other: one run a side, or several whose scores are averaged."""

    a: tuple[RunContents, ...]
    b: tuple[RunContents, ...]


def open_side(paths: Sequence[Path], name: str | None = None) -> Side:
    """Read runs, or folders of runs; every one must be evaluated.

    Raises:
        DataError: no run, not evaluated yet, damaged.
    """
    folders = [folder for path in paths for folder in find_runs(path)]
    runs = tuple(_open(folder) for folder in folders)
    return Side(name or _common_name(paths), runs)


def find_runs(path: Path) -> list[Path]:
    """The run that `path` is, or the runs that lie in it.

    Raises:
        DataError: neither.
    """
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; give the folder of a run, or of several runs.")
    if _is_run(path):
        return [path]
    runs = sorted(inner for inner in path.iterdir() if inner.is_dir() and _is_run(inner))
    if not runs:
        raise DataError(
            f"{path} is neither a run nor a folder of runs: neither it nor a folder in it holds "
            "config.toml or evaluation/evaluation.json."
        )
    return runs


def _is_run(path: Path) -> bool:
    names = ("config.toml", "evaluation/evaluation.json", "evaluation.json")
    return any((path / name).is_file() for name in names)


def _open(folder: Path) -> RunContents:
    if (folder / "evaluation.json").is_file():  # what `evaluate --predictions --out` wrote
        return RunContents(folder, evaluation=read_evaluation(folder))
    if not (folder / "evaluation" / "evaluation.json").is_file():
        first = "" if (folder / "model").is_dir() else "finish its training, then "
        raise DataError(
            f"{folder} is not evaluated yet: {first}run `unpaired evaluate {folder}` first."
        )
    read_evaluation(folder / "evaluation")  # a damaged one is an error here, no missing part
    return read_contents(folder)


def _common_name(paths: Sequence[Path]) -> str:
    """What the folders' names begin with; all of them where that is nothing."""
    names = [path.resolve().name for path in paths]
    if len(names) == 1:
        return names[0]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in alike).rstrip("-_. 0123456789") or ", ".join(names)


def scored_modalities(run: RunContents) -> tuple[str, ...]:
    """Modalities with scores, in their order."""
    scores = run.evaluation.scores if run.evaluation else ()
    return tuple(dict.fromkeys(one.modality for one in scores))


def scores_of(run: RunContents, modality: str) -> dict[tuple[str, str], Score]:
    """(case, class) -> score."""
    scores = run.evaluation.scores if run.evaluation else ()
    return {(one.case, one.cls): one for one in scores if one.modality == modality}


def part_of(run: RunContents, part: str, modality: str) -> frozenset[str]:
    """Case ids of a part of the run's split; empty where the split is not known."""
    named = (str(text).partition("/") for text in run.split.get(part, ()))
    return frozenset(case for m, _, case in named if m == modality)


def test_cases(run: RunContents, modalities: Sequence[str]) -> Tests:
    """(modality, case) of what was to be tested; without a split, of what was scored."""
    tests: set[tuple[str, str]] = set()
    for m in modalities:
        cases = part_of(run, "test", m) or {case for case, _ in scores_of(run, m)}
        tests |= {(m, case) for case in cases}
    return frozenset(tests)


def seed_of(run: RunContents) -> int:
    """The seed of its training."""
    seed = run.config.get("train", {}).get("seed", 0)
    return seed if isinstance(seed, int) else 0


def pair_runs(a: Side, b: Side, modalities: Sequence[str]) -> tuple[list[Pair], str]:
    """Runs of equal test cases, by seed; and what a reader should know of it ("" if nothing).

    Where the sides have different numbers of runs on the same test cases, the runs of a side are
    averaged case by case.

    Raises:
        DataError: the sides were tested on different cases.
    """
    groups = [_by_tests(side, modalities) for side in (a, b)]
    _check_tests(a, b, *groups)
    pairs, averaged = [], False
    for tests, left in groups[0].items():
        right = groups[1][tests]
        if len(left) == len(right):
            pairs += [Pair((x,), (y,)) for x, y in zip(left, right, strict=True)]
        else:
            averaged = True
            pairs.append(Pair(tuple(left), tuple(right)))
    if not averaged:
        return pairs, ""
    return pairs, (
        f"{a.name} has {len(a.runs)} runs and {b.name} has {len(b.runs)}, so the runs of a side "
        "are averaged case by case, and the interval does not hold the chance of training. Give "
        "equally many runs a side to include it."
    )


def _by_tests(side: Side, modalities: Sequence[str]) -> dict[Tests, list[RunContents]]:
    groups: dict[Tests, list[RunContents]] = {}
    for run in side.runs:
        groups.setdefault(test_cases(run, modalities), []).append(run)
    return {tests: sorted(runs, key=seed_of) for tests, runs in groups.items()}


def _check_tests(
    a: Side,
    b: Side,
    left: Mapping[Tests, list[RunContents]],
    right: Mapping[Tests, list[RunContents]],
) -> None:
    for side, own, other, others in ((a, left, b, right), (b, right, a, left)):
        for tests, runs in own.items():
            if tests in others:
                continue
            nearest = max(others, key=lambda tested: len(tested & tests))
            odd = sorted(f"{m}/{case}" for m, case in tests ^ nearest)
            more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
            raise DataError(
                f"{runs[0].root} of {side.name} was tested on other cases than the runs of "
                f"{other.name}: {', '.join(odd[:5])}{more} only on one side. Train both with one "
                f"split: data.splits={runs[0].root / 'splits_final.json'} (modalities that a run "
                "does not have are passed over)."
            )


def check_alike(pair: Pair, modality: str) -> None:
    """Equal label sets, and truths of equal size: the same labels on the same grid.

    Raises:
        DataError: they are not; the message names the first that differs.
    """
    first = scores_of(pair.a[0], modality)
    classes = list(dict.fromkeys(cls for _, cls in first))
    for run in (*pair.a[1:], *pair.b):
        scores = scores_of(run, modality)
        others = list(dict.fromkeys(cls for _, cls in scores))
        if set(others) != set(classes):
            raise DataError(
                f"{pair.a[0].root} and {run.root} have other classes of {modality}: "
                f"{', '.join(classes)} and {', '.join(others)}. Compare runs of one label set."
            )
        for key in [key for key in first if key in scores]:
            sizes = first[key].truth_voxels, scores[key].truth_voxels
            if sizes[0] != sizes[1]:
                raise DataError(
                    f"{modality}/{key[0]} is not the same in {pair.a[0].root} and {run.root}: the "
                    f"true {key[1]} has {sizes[0]} voxels in one, {sizes[1]} in the other. The "
                    "labels or their grid changed between the two; evaluate both on the same files."
                )


def mean_of(values: Sequence[float]) -> float:
    """Mean; nan where one is."""
    return sum(values) / len(values) if values else math.nan
