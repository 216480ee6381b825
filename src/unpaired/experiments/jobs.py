"""The runs that the rows of an experiment need: each once, named after what it computes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from pathlib import Path
from typing import Any

from unpaired.config import Config
from unpaired.datasets.make_split import make_split
from unpaired.datasets.split import few_shot
from unpaired.datasets.split_file import Split, read_splits, write_splits
from unpaired.errors import UnpairedError, UsageError
from unpaired.experiments.record import (
    WEIGHTS,
    Record,
    changes,
    chosen_settings,
    digest,
    in_use,
    named_settings,
    read_record,
)
from unpaired.experiments.rows import Experiment, Row
from unpaired.experiments.study import Study, check_modality_count
from unpaired.methods import Consistency, method_of

DEFAULT = "as_trained"
CASE_SEED = 1000
"""First seed of drawn cases, far from the seeds of the start: the two are never one number."""


@dataclass
class Job:
    """One training, and how it is tested.

    Attributes:
        identity: hash of everything that decides what it computes.
        tests: name -> overrides of the trained model before it is tested.
        rows: (row, seed) that read it.
    """

    folder: Path
    identity: str
    config: Config
    data: Mapping[str, Path]
    split: Split
    seed: int
    tests: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rows: list[tuple[str, int]] = field(default_factory=list)

    def record(self, test: str) -> Path:
        """Where the result of a test is stored."""
        return self.folder / f"record_{test}.json"

    @property
    def missing(self) -> list[str]:
        """Tests without a record."""
        return [test for test in self.tests if not self.record(test).exists()]

    def read(self, test: str) -> Record:
        """The record of a test.

        Raises:
            UsageError: it was made under another configuration than this call's, such as by a
                version with other defaults.
            DataError: it is damaged.
        """
        record = read_record(self.record(test))
        before, now = in_use(record.settings), named_settings(self.config)
        keys = (before.keys() & now.keys()) - {WEIGHTS}  # known by its contents, in the identity
        changed = changes(before, now, sorted(keys))
        if record.identity != self.identity and not changed:
            changed = "it is of another run"
        if changed:
            raise UsageError(
                f"{self.record(test)} was made under another configuration ({changed}). "
                "Remove the run's folder to make it anew, or give another --out."
            )
        return record


@dataclass(frozen=True)
class Runs:
    """What an experiment needs on a study's data.

    Attributes:
        modalities: those it reads, in the order of --data.
        seeds: those of every row.
        jobs: identity -> training; one that several rows share stands once.
        refused: row -> why it cannot be run.
    """

    experiment: Experiment
    modalities: tuple[str, ...]
    seeds: Sequence[int]
    jobs: dict[str, Job] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def of(self, row: str, seed: int) -> list[Job]:
        """What a row reads for a seed: one job, or one a modality."""
        return [job for job in self.jobs.values() if (row, seed) in job.rows]

    def of_rows(self, rows: Collection[str]) -> list[Job]:
        """What these rows read for any seed."""
        return [job for job in self.jobs.values() if any(row in rows for row, _ in job.rows)]


def plan_runs(
    experiment: Experiment, study: Study, seeds: Sequence[int], rows: Sequence[Row] | None = None
) -> Runs:
    """Every run that rows need, by default those of the experiment, and the rows without one.

    Raises:
        UsageError: the study has too few modalities, or a draw asks for what is not there.
        DataError: a modality is left without a training case.
    """
    names = modalities_of(experiment, study)
    runs = Runs(experiment, names, seeds)
    for seed in seeds:
        split = _split(study, names, seed)
        for row in experiment.rows if rows is None else rows:
            for group in [names] if row.who == "all" else [(m,) for m in names]:
                try:
                    job = _job(study, row, group, split, seed)
                except UnpairedError as error:
                    runs.refused[row.name] = str(error)
                    continue
                job = runs.jobs.setdefault(job.identity, job)
                job.tests[record_name(row)] = row.at_test
                job.rows.append((row.name, seed))
    return runs


def modalities_of(experiment: Experiment, study: Study) -> tuple[str, ...]:
    """The modalities that an experiment reads, in the order of --data.

    Raises:
        UsageError: there are too few.
    """
    check_modality_count(experiment, study.data)
    names = tuple(study.data)
    return names if experiment.modalities > 2 else names[:2]


def record_name(row: Row) -> str:
    """Names of the records of a run."""
    return "_".join(text.replace("=", "_").replace(".", "_") for text in row.at_test) or DEFAULT


def _job(study: Study, row: Row, group: Sequence[str], split: Split, seed: int) -> Job:
    """The training of a row and a seed on the modalities of `group`."""
    seeds = (*_shots(study, row, split, seed), f"train.seed={seed}")
    config = study.recipe(*row.overrides, *seeds, row=row)
    method_of(config).size_step(config)  # refuses what is not registered
    method_of(config).plan_rule(config)  # and a network of volumes on slices
    train, val, test = (
        {m: part.get(m, ()) for m in group} for part in (split.train, split.val, split.test)
    )
    own = Split(train, val, test)
    chosen = chosen_settings(config)
    if WEIGHTS in chosen:  # by its contents, wherever it lies
        chosen[WEIGHTS] = study.weights
    identity = digest({"config": chosen, "split": listed(own)})
    path = study.out / "splits" / f"{'_'.join(group)}-{digest(listed(own))[:8]}.json"
    if not path.exists():
        write_splits(path, [own])
    label = f"{'_'.join(group)}-{_label(config)}-s{seed}"
    folder = study.out / "runs" / f"{label}-{identity[:8]}"
    few = {m: count for m, count in config.data.few_shot.items() if m in group}
    own_data = {"splits": str(path), "fold": 0, "cases": {}, "few_shot": few}
    data = config.data.model_copy(update=own_data)
    roots = {m: study.data[m] for m in group}
    return Job(folder, identity, config.model_copy(update={"data": data}), roots, own, seed)


def _label(config: Config) -> str:
    model = config.model
    return model.variant if model.name == Consistency.name else model.name


def _shots(study: Study, row: Row, split: Split, seed: int) -> list[str]:
    """Few-shot settings; the seed of the case is another number than the seed of the start."""
    if row.shots is None:
        return []
    role, count = row.shots
    m = list(study.data)[role]
    drawn = case_seed(split, m, count, seed)
    return [f"data.few_shot.{m}={count}", f"data.few_shot_seed={drawn}"]


def case_seed(split: Split, modality: str, count: int, n: int) -> int:
    """The n-th seed whose draw of `count` training cases differs from those of the seeds before.

    Equal draws of two seeds would count as two independent ones. After every possible draw has had
    its turn, they come again.
    """
    cases = len(split.train.get(modality, ()))
    if not 0 < count <= cases:
        return CASE_SEED + n  # refused where the cases are drawn, with a sentence
    possible, seen, seed = comb(cases, count), set[tuple[str, ...]](), CASE_SEED
    while True:
        draw = few_shot(split, modality, count, seed).train[modality]
        if draw not in seen:
            if n == 0:
                return seed
            n, seen = n - 1, seen | {draw} if len(seen) + 1 < possible else set()
        seed += 1


def _split(study: Study, names: Sequence[str], seed: int) -> Split:
    """One split for all rows of a seed, over all modalities of the experiment."""
    options = study.recipe().data
    changed: dict[str, Any] = {"few_shot": {}}
    if study.redraw and options.splits is None:
        changed["split_seed"] = options.split_seed + seed
    if study.redraw and options.splits is not None:
        changed["fold"] = seed % len(read_splits(Path(options.splits), study.cases))
    return make_split(options.model_copy(update=changed), {m: study.cases[m] for m in names})


def listed(split: Split) -> dict[str, dict[str, list[str]]]:
    """Case ids by part and modality."""
    parts = {"train": split.train, "val": split.val, "test": split.test}
    return {name: {m: list(ids) for m, ids in part.items()} for name, part in parts.items()}
