"""What training on all modalities gives each: one network a modality alone, one of all together.

All have one split, one network, one grid and equally many steps of equally many images of a
modality, so that a modality is seen as often alone as together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unpaired.config import Config, config_from_toml, load_config, to_toml
from unpaired.datasets.dataset import Dataset, classes_left_out
from unpaired.datasets.make_split import make_split
from unpaired.datasets.split_file import Split
from unpaired.device import find_device
from unpaired.errors import DataError, UsageError
from unpaired.experiments.earlier import check_recipe
from unpaired.experiments.jobs import Job, Runs, plan_runs
from unpaired.experiments.pool import threads_of
from unpaired.experiments.rows import Experiment, Row
from unpaired.experiments.study import Study, limited_threads, open_study
from unpaired.files import read_json, write_json, write_text
from unpaired.progress import duration
from unpaired.training.budget import TooLittleTimeError, as_budget
from unpaired.training.planner import PRESET, is_planned, plan_training
from unpaired.training.prepare import labelled_only, opened

ALONE, TOGETHER = "alone", "together"
DEFAULT_SECONDS = {"cpu": 2 * 3600.0, "cuda": 24 * 3600.0}
"""As long as two trainings by default: all together cost about what each alone do in sum."""
_TESTING = 0.1
"""Of the budget, for scoring the test cases."""
_START_SECONDS = 10.0
"""A run's process, until it begins."""


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes:
        data: modality -> folder.
        budget: seconds for everything; None: by the device.
        overrides, preset, file: layers of the recipe, as `load_config` takes them.
        seeds: of every run.
        jobs: runs at a time.
    """

    data: Mapping[str, Path]
    out: Path
    budget: float | None = None
    overrides: tuple[str, ...] = ()
    preset: str | None = None
    file: Path | None = None
    seeds: int = 1
    jobs: int = 1


@dataclass(frozen=True)
class Plan:
    """The runs, and what a reader should know of them.

    Attributes:
        tested: modalities that have test cases; the others are only learnt from.
        reasons: name of a choice -> the reason, a sentence.
        notes: what was left out, sentences.
    """

    study: Study
    runs: Runs
    tested: tuple[str, ...]
    split: Split
    reasons: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def jobs(self) -> list[Job]:
        """The trainings, that of all modalities first: it takes longest."""
        return sorted(self.runs.jobs.values(), key=lambda job: -len(job.data))

    def of(self, *modalities: str) -> list[Job]:
        """The trainings on just these modalities, a seed each."""
        return [job for job in self.jobs if set(job.data) == set(modalities)]


def plan_benefit(asked: Asked) -> Plan:
    """Plan every run, or find the plan of an earlier call in the folder.

    Raises:
        UsageError: one modality, a budget that no network fits, another recipe or other data than
            those of an earlier call.
        DataError: the data are at fault, or no modality has a test case.
    """
    names = list(asked.data)
    if len(names) < 2:
        raise UsageError(
            f"the benefit of training together needs two modalities or more; --data gives "
            f"{names[0] if names else 'none'}. Add --data NAME=FOLDER, or train it alone: "
            "unpaired train."
        )
    datasets = labelled_only(opened(asked.data))
    base = load_config(asked.preset or PRESET, asked.file, asked.overrides)
    split = make_split(base.data, {m: d.cases for m, d in datasets.items()})
    tested = tuple(m for m in names if split.test.get(m))
    if not tested:
        raise DataError(
            "no modality has a test case, so nothing could be compared. Give at least two cases "
            "of a modality, and a test part (data.split)."
        )
    notes = tuple(_without_test(datasets, tested))
    if left := classes_left_out(datasets, base.data.classes):
        notes += (left,)
    config, reasons = _recipe(asked, datasets, len(tested))
    notes += tuple(_another_budget(asked))
    study = Study(asked.data, asked.out, None, config, asked.overrides, redraw=False, notes=notes)
    study = open_study(study, threads_of(asked.jobs))
    rows = (Row(ALONE, who="alone"), Row(TOGETHER))
    title = f"Benefit of {', '.join(names)} together"
    experiment = Experiment("benefit", title, rows, ALONE, modalities=len(names))
    runs = plan_runs(experiment, study, range(asked.seeds))
    if runs.refused:
        raise DataError("; ".join(f"{name}: {why}" for name, why in runs.refused.items()))
    useless = [
        identity
        for identity, job in runs.jobs.items()
        if len(job.data) == 1 and not set(job.data) & set(tested)
    ]
    for identity in useless:
        del runs.jobs[identity]
    return Plan(study, runs, tested, split, reasons, notes)


def _another_budget(asked: Asked) -> Iterator[str]:
    before = read_json(asked.out / "planned.json")["budget_seconds"]
    if asked.budget is not None and before != asked.budget:
        yield (
            f"{asked.out} goes on as it was planned{f' for {duration(before)}' if before else ''}; "
            "another budget needs another --out."
        )


def _without_test(datasets: Mapping[str, Dataset], tested: Sequence[str]) -> list[str]:
    return [
        f"{m} has {len(d.cases)} labelled case{'s' * (len(d.cases) != 1)} and none to test on: "
        "it is learnt from, but nothing is said of it."
        for m, d in datasets.items()
        if m not in tested
    ]


def _recipe(
    asked: Asked, datasets: Mapping[str, Dataset], tested: int
) -> tuple[Path, Mapping[str, str]]:
    """The file of settings that all runs share, made by the first call and kept, and the reasons.

    Raises:
        UsageError: no network fits the budget, or a budget is given beside settings of one's own.
    """
    file, record = asked.out / "planned.toml", asked.out / "planned.json"
    begun = file.is_file() and record.is_file()
    own = asked.preset is not None or asked.file is not None or not is_planned(asked.overrides)
    if own and asked.budget is not None:
        raise UsageError(
            "--budget plans the network and its training; with --preset, --config or a network of "
            "your own give train.steps: every run has so many."
        )
    if own:
        config = load_config(asked.preset, asked.file, asked.overrides)
        steps = f"{config.train.steps} steps, as configured, in every training."
        reasons: Mapping[str, str] = {"steps": steps}
        if begun:
            check_recipe(config_from_toml(file), config, asked.out)
    if begun:
        return file, dict(read_json(record)["reasons"])
    if not own:
        config, reasons = _planned(asked, datasets, tested)
    write_text(file, to_toml(config))
    write_json(record, {"reasons": dict(reasons), "budget_seconds": asked.budget}, seal=True)
    return file, reasons


def _planned(
    asked: Asked, datasets: Mapping[str, Dataset], tested: int
) -> tuple[Config, Mapping[str, str]]:
    """Network and steps for all runs, by what is left for the longest of them."""
    device = find_device(load_config(PRESET, None, asked.overrides).train.device).type
    budget = asked.budget or DEFAULT_SECONDS[device]
    jobs = 1 if device == "cuda" else asked.jobs  # one GPU is not quicker for being shared
    count = (1 + tested) * asked.seeds
    parts = longest([1.0] * asked.seeds + [1 / len(datasets)] * (tested * asked.seeds), jobs)
    starts = _START_SECONDS * -(-count // jobs)
    share = (budget * (1 - _TESTING) - starts) / parts
    try:
        with limited_threads(threads_of(asked.jobs)):
            planned = plan_training(datasets, asked.overrides, max(share, 1.0))
    except TooLittleTimeError as error:
        least = (error.seconds * parts + starts) / (1 - _TESTING)
        raise UsageError(
            f"a budget of {duration(budget)} for {count} trainings (one on all modalities, one on "
            f"each of {tested}{f', {asked.seeds} seeds each' if asked.seeds > 1 else ''}) is too "
            f"small for any network. Give --budget {as_budget(least)}, or fewer --seeds."
        ) from error
    train = planned.config.train
    alone = share / len(datasets)
    reasons = {
        **planned.reasons,
        "budget": (
            f"Of {duration(budget)}, {duration(share)} for each training on all modalities, "
            f"{duration(alone)} for each on one, {100 * _TESTING:.0f} % for testing; {asked.jobs} "
            "at a time."
        ),
        "fair": (
            f"Every training has {train.steps} steps of {train.batch_size} images a modality, the "
            "same network, grid and split: a modality is seen as often alone as together."
        ),
    }
    # As many steps in each, also on a machine that slows down.
    return planned.config.replace(train={"pace_minutes": None}), reasons


def longest(parts: Sequence[float], slots: int) -> float:
    """When the last of the runs ends, begun in the order of their length, so many at a time."""
    ends = [0.0] * max(1, slots)
    for part in sorted(parts, reverse=True):
        first = ends.index(min(ends))
        ends[first] += part
    return max(ends)
