"""The runs that rows need: each once, named after what it computes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from pathlib import Path
from typing import Any

from unpaired.config import Config
from unpaired.datasets.make_split import make_split
from unpaired.datasets.split import few_shot
from unpaired.datasets.split_file import Split, read_splits, write_splits
from unpaired.errors import UnpairedError
from unpaired.experiments.facts import chosen_facts
from unpaired.experiments.rows import Experiment, Row
from unpaired.experiments.study import Study, modalities_of
from unpaired.methods import Consistency, method_of

DEFAULT = "as_trained"
CASE_SEED = 1000
"""First seed of drawn cases, far from the seeds of the start: the two are never one number."""
PARTS = ("train", "val", "test")
Ids = dict[str, tuple[str, ...]]


@dataclass
class Job:
    """One training, and how it is tested.

    Attributes:
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


def plan_jobs(
    experiment: Experiment, study: Study, seeds: Sequence[int], rows: Sequence[Row]
) -> tuple[dict[str, Job], dict[str, str]]:
    """The runs that rows need, each once, and rows that cannot be run with the reason.

    Returns:
        (identity -> job, row name -> why it is not run).
    """
    names = modalities_of(experiment, study)
    jobs: dict[str, Job] = {}
    reasons: dict[str, str] = {}
    for seed in seeds:
        split = _split(study, names, seed)
        for row in rows:
            for group in [names] if row.who == "all" else [(m,) for m in names]:
                try:
                    job = _job(study, row, names, group, split, seed)
                except UnpairedError as error:
                    reasons[row.name] = str(error)
                    continue
                job = jobs.setdefault(job.identity, job)
                job.tests[record_name(row)] = row.at_test
                job.rows.append((row.name, seed))
    return jobs, reasons


def record_name(row: Row) -> str:
    """Names of the records of a run."""
    return "_".join(text.replace("=", "_").replace(".", "_") for text in row.at_test) or DEFAULT


def _job(
    study: Study, row: Row, names: Sequence[str], group: Sequence[str], split: Split, seed: int
) -> Job:
    seeds = (*_shots(row, names, split, seed), f"train.seed={seed}")
    config = study.recipe(*row.overrides, *seeds, row=row)
    method_of(config).size_step(config)  # refuses what is not registered
    method_of(config).plan_rule(config)  # and a network of volumes on slices
    train, val, test = ({m: part.get(m, ()) for m in group} for part in _parts(split))
    own = Split(train, val, test)
    identity = _identity(config, own)
    path = study.out / "splits" / f"{'_'.join(group)}-{_digest(listed(own))[:8]}.json"
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


def _shots(row: Row, names: Sequence[str], split: Split, seed: int) -> list[str]:
    """Few-shot settings; the seed of the case is another number than the seed of the start."""
    if row.shots is None:
        return []
    role, count = row.shots
    drawn = case_seed(split, names[role], count, seed)
    return [f"data.few_shot.{names[role]}={count}", f"data.few_shot_seed={drawn}"]


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


def _parts(split: Split) -> tuple[Ids, Ids, Ids]:
    return split.train, split.val, split.test


def _identity(config: Config, split: Split) -> str:
    """Equal for, and only for, runs that compute the same."""
    return _digest({"config": chosen_facts(config), "split": listed(split)})


def listed(split: Split) -> dict[str, dict[str, list[str]]]:
    """Case ids by part and modality."""
    names = ("train", "val", "test")
    return {
        n: {m: list(i) for m, i in p.items()} for n, p in zip(names, _parts(split), strict=True)
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
