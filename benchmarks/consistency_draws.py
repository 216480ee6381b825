"""Ten paired draws of the forms of the consistency and of their controls, with few scans of one.

    unpaired import phantom DIR --cases ct=32,mr=32 --level benchmark --seed 0
    python benchmarks/consistency_draws.py --set phantom ct=DIR/ct mr=DIR/mr \
        --set mscmr bssfp=DIR lge=DIR --forecast

All training cases of the first modality and 1 or 3 of the last. A draw is a split, the few cases, a
start and an order of the batches, the same for every row; a fixed part of the cases is the test
part. `--forecast` says what the trainings would take and trains nothing; without it those that are
missing are run and stored one by one in docs/consistency_draws.json, so that a night may be cut
off. The table of docs/consistency.md is written from that file alone (`--write`). Rows are compared
on validation cases; `--part test` scores what was trained on the test cases, once, for the rows
named.

    --few 1,3  --draws 0,1,2  --rows "alone;V2"  --jobs 2  --steps 500  --device cuda
    --on model.norms=private    # every row with these settings too; a table of its own
"""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import scipy.stats
from joblib import Parallel, delayed

from _report import write_section
from default_recipe import make_folds, only
from unpaired.cli.options import parse_data
from unpaired.config import Config, load_config
from unpaired.datasets.sources import open_dataset
from unpaired.files import read_json, write_json
from unpaired.methods import method_of
from unpaired.progress import duration
from unpaired.run import RunFolder
from unpaired.run.log import read_log
from unpaired.training.checkpoint import load_checkpoint, load_matching
from unpaired.training.fit import train
from unpaired.training.forecast import forecast
from unpaired.training.validate import validate

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, STORED = DOCS / "consistency.md", DOCS / "consistency_draws.json"
LIMIT_SECONDS = 180
PARTS = {"phantom": (12, 6), "mscmr": (9, 3)}
"""Cases of a modality to train and to validate; what is left is the test part."""
SETTINGS = (
    "model.options.stages=5",
    "model.options.blocks=[1,1,1,1,1]",
    "loss.class_weights=none",
    "loss.dice_background=true",
    "predict.largest_component=[]",
    "train.log_every=1",
    "train.threads=1",
    "data.workers=1",
)
OWN: dict[str, tuple[str, ...]] = {
    "phantom": ("data.spacing_mm=[6,3,3]", "data.patch=[96,96]"),
    "mscmr": (
        "data.spacing_mm=[6.5,1.5,1.5]",
        "data.slice_axis=auto",
        "data.patch=[96,96]",
        "modalities.bssfp.clip=auto",
        "modalities.lge.clip=auto",
    ),
}
"""One grid for all rows of a set, also those of a single modality."""

PLAIN = ("model.variant=V2", "loss.alpha=0", "loss.beta=0", "loss.gamma=0")
MODULES = (
    "model.variant=V2",
    "model.modules=shared",
    "model.maps=mean",
    "loss.alpha=0.4",
    "loss.beta=0",
    "loss.tau=4",
)
PRINTED = (
    "model.variant=V3",
    "loss.alpha=0.4",
    "loss.beta=0.1",
    "loss.gamma=0.1",
    "loss.tau=4",
    "loss.mask_absent=false",
)
NORMS = ("model.norms=private",)
GIN = ("augment.second_view=gin",)
VIEWS = ("loss.consistency=views", "loss.gamma=0.5", *GIN)
BANK = ("loss.consistency=prototypes", "loss.gamma=0.1", "loss.beta=0.1")


@dataclass(frozen=True)
class Row:
    """One recipe; `alone`: the network that never sees the other modality."""

    name: str
    changes: tuple[str, ...]
    alone: bool = False


ROWS = (
    Row("alone", PLAIN, alone=True),
    Row("alone, GIN views", (*PLAIN, *GIN), alone=True),
    Row("V2", PLAIN),
    Row("V2, private norms", (*PLAIN, *NORMS)),
    Row("GIN, p = 0.2", (*PLAIN, "augment.gin=0.2")),
    Row("GIN views, no consistency", (*PLAIN, *GIN)),
    Row("V2, L_aux", (*MODULES, "loss.gamma=0")),
    Row("Ours, as printed", PRINTED),
    Row("2. guided L_icr", (*MODULES, "loss.consistency=guided", "loss.gamma=0.1")),
    Row("3. views, E and L_aux", (*MODULES, *VIEWS)),
    Row("3. views, logits", (*PLAIN, *VIEWS)),
    Row("3. views, class styles", (*PLAIN, *VIEWS, "augment.second_view=classes")),
    Row("4. prototypes", (*PLAIN, *BANK)),
    Row("5. views, logits, private norms", (*PLAIN, *VIEWS, *NORMS)),
    Row("5. prototypes, private norms", (*PLAIN, *BANK, *NORMS)),
    Row("UMMKD's distillation", (*PLAIN, "loss.consistency=distill")),
)  # fmt: skip
CONTROLS = ("alone", "V2", "GIN views, no consistency")
"""What every row is compared with."""


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        few: training cases of the last modality.
        on: settings that all rows of the table have.
    """

    set: str
    row: Row
    few: int
    draw: int
    steps: int
    on: tuple[str, ...] = ()

    @property
    def key(self) -> list[Any]:
        """Of its record."""
        return [self.set, self.row.name, self.few, self.draw, self.steps, list(self.on)]

    def chosen(self, data: Mapping[str, Path]) -> dict[str, Path]:
        """The modalities that it sees."""
        return dict([list(data.items())[-1]]) if self.row.alone else dict(data)

    def config(self, more: Sequence[str] = ()) -> Config:
        """Of its training, without the split."""
        given = (
            f"train.seed={self.draw}",
            f"data.few_shot_seed={self.draw}",
            f"train.steps={self.steps}",
            f"train.steps_per_epoch={self.steps}",
        )
        changes = (*SETTINGS, *OWN[self.set], *given, *self.row.changes, *self.on, *more)
        return load_config("demo", None, list(changes))


def split_of(job: Job, data: Mapping[str, Path]) -> dict[str, list[str]]:
    """The draw's split, the same for all rows."""
    cases = {m: [case.id for case in open_dataset(m, root).cases] for m, root in data.items()}
    return make_folds(cases, PARTS[job.set], job.draw + 1)[job.draw]


def folder_of(job: Job, out: Path) -> Path:
    """Where its run lies."""
    words = [job.set, job.row.name, *job.on, *map(str, (job.few, job.draw, job.steps))]
    kept = "-".join(words).replace(" ", "_")
    return out / "".join(c for c in kept if c.isalnum() or c in "-_.")


def run_one(job: Job, data: Mapping[str, Path], out: Path, more: Sequence[str]) -> dict[str, Any]:
    """Train, and score the validation cases; the record that is stored."""
    run, chosen = folder_of(job, out), job.chosen(data)
    splits = run.with_suffix(".json")
    write_json(splits, [only(split_of(job, data), chosen)])
    few = f"data.few_shot.{list(data)[-1]}={job.few}"
    config = job.config((f"data.splits={splits}", few, *more))
    prepared = f"prepared-{job.set}-{'+'.join(chosen)}-{job.few}-{job.draw}"
    train(config, chosen, run, prepared=out / prepared)
    log = read_log(run / "log.jsonl")
    last = [record for record in log if record["kind"] == "validation"][-1]
    seconds = max(record["seconds"] for record in log if record["kind"] == "step")
    return {
        "key": job.key,
        "modalities": list(data),
        "seconds": seconds,
        "val": last["mean"],
    }


def score_test(job: Job, out: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the mean Dice of the test cases, from the run's kept weights."""
    run = RunFolder(folder_of(job, out))
    method = method_of(run.config)
    joint = method.joint(run.config, run.plan)
    load_matching(joint, load_checkpoint(run.files.kept)["model"], run.files.kept)
    found = validate(joint, run.prepared_cases("test"), run.config, run.plan, method)
    return {**record, "test": found.mean}


def forecast_jobs(
    jobs: Sequence[Job], sets: Mapping[str, Mapping[str, Path]], parallel: int
) -> None:
    """Say what the trainings will take: a step of each row measured, as often as it is run."""
    seconds: dict[tuple[str, str], float] = {}
    for job in jobs:
        if (job.set, job.row.name) not in seconds:
            config, data = job.config(), job.chosen(sets[job.set])
            datasets = {m: open_dataset(m, root) for m, root in data.items()}
            plan = method_of(config).plan(config, datasets)
            one = job.steps * forecast(config, plan).seconds_per_step
            seconds[job.set, job.row.name] = one
            late = " (above the limit of three minutes)" if one > LIMIT_SECONDS else ""
            print(f"{job.set}, {job.row.name}: {duration(one)}{late}", flush=True)
    total = sum(seconds[job.set, job.row.name] for job in jobs)
    print(
        f"{len(jobs)} trainings: about {duration(total / parallel)} on {parallel} "
        "cores at once, without preparing and scoring.",
        flush=True,
    )


def table(found: Sequence[Mapping[str, Any]], part: str = "val") -> list[str]:
    """The section of docs/consistency.md."""
    if not found:
        return ["No draw has been run yet."]
    which = {"val": "validation", "test": "test"}[part]
    lines = [
        f"{len(found)} trainings. Mean Dice of the {which} cases over the draws; differences are "
        "paired, with the 95 % interval of Student's t. Seconds are those of the training."
    ]
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for record in found:
        name, _, few, _, steps, on = record["key"]
        if part in record:
            groups.setdefault((name, few, steps, tuple(on)), []).append(record)
    for key in sorted(groups):
        lines += ["", *_one_table(key, groups[key], part)]
    return lines


def _one_table(
    group: tuple[Any, ...], found: Sequence[Mapping[str, Any]], part: str
) -> Iterator[str]:
    name, few, steps, on = group
    rich, poor = found[0]["modalities"][0], found[0]["modalities"][-1]
    scores: dict[str, dict[int, Mapping[str, float]]] = {}
    seconds: dict[str, list[float]] = {}
    for r in found:
        scores.setdefault(r["key"][1], {})[r["key"][3]] = {m: 100 * v for m, v in r[part].items()}
        seconds.setdefault(r["key"][1], []).append(r["seconds"])
    with_ = f", with {', '.join(f'`{text}`' for text in on)}" if on else ""
    yield f"**{name}: all {rich}, {few} {poor}, {steps} steps{with_}**"
    yield ""
    heads = [f"{poor} Dice %", *(f"minus {control}" for control in CONTROLS)]
    heads += [f"{rich} Dice %", "minus V2", "draws", "seconds"]
    yield f"| row | {' | '.join(heads)} |"
    yield "|---|" + "---:|" * len(heads)
    for row in ROWS:
        if row.name not in scores:
            continue
        own = scores[row.name]
        cells = [f"{mean(s[poor] for s in own.values()):.1f}"]
        cells += [_gain(own, scores.get(c, {}), poor, row.name == c) for c in CONTROLS]
        both = all(rich in s for s in own.values()) and rich != poor
        cells.append(f"{mean(s[rich] for s in own.values()):.1f}" if both else "-")
        cells.append(_gain(own, scores.get("V2", {}), rich, not both or row.name == "V2"))
        cells += [str(len(own)), f"{mean(seconds[row.name]):.0f}"]
        yield f"| {row.name} | {' | '.join(cells)} |"


def _gain(
    own: Mapping[int, Mapping[str, float]],
    other: Mapping[int, Mapping[str, float]],
    modality: str,
    none: bool,
) -> str:
    """Mean paired difference with its interval."""
    pairs = [own[d][modality] - other[d][modality] for d in own if d in other] if not none else []
    if not pairs:
        return "-"
    if len(pairs) < 2:
        return f"{pairs[0]:+.1f}"
    half = scipy.stats.t.ppf(0.975, len(pairs) - 1) * stdev(pairs) / math.sqrt(len(pairs))
    return f"{mean(pairs):+.1f} ({mean(pairs) - half:+.1f} to {mean(pairs) + half:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", action="append", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("runs/consistency_draws"))
    parser.add_argument("--rows", default="", help="names of the rows to run, by ;")
    parser.add_argument("--few", default="1,3")
    parser.add_argument("--draws", default=",".join(map(str, range(10))))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--on", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--part", choices=("val", "test"), default="val")
    parser.add_argument("--forecast", action="store_true", help="train nothing")
    parser.add_argument("--write", action="store_true", help="only write the table")
    options = parser.parse_args()
    records = {str(r["key"]): r for r in (read_json(STORED) if STORED.exists() else [])}
    if not options.write:
        sets = {
            name: {m: root.resolve() for m, root in parse_data(items).items()}
            for name, *items in options.set
        }
        wanted = [r for r in ROWS if not options.rows or r.name in options.rows.split(";")]
        jobs = [
            Job(name, row, int(few), int(draw), options.steps, tuple(options.on))
            for draw in options.draws.split(",")
            for name in sets
            for few in options.few.split(",")
            for row in wanted
        ]
        run_jobs(jobs, sets, records, options)
    write_section("draws", table(list(records.values())), PAGE)
    if any("test" in r for r in records.values()):
        write_section("test", table(list(records.values()), "test"), PAGE)


def run_jobs(
    jobs: Sequence[Job],
    sets: Mapping[str, Mapping[str, Path]],
    records: dict[str, dict[str, Any]],
    options: argparse.Namespace,
) -> None:
    """Run, or score, what is missing, storing every record as it comes."""
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if options.part == "test":
        trained = [j for j in jobs if str(j.key) in records and "test" not in records[str(j.key)]]
        tasks = [delayed(score_test)(j, out, records[str(j.key)]) for j in trained]
    else:
        missing = [j for j in jobs if str(j.key) not in records]
        if options.forecast:
            forecast_jobs(missing, sets, options.jobs)
            return
        more = (f"train.device={options.device}",)
        tasks = [delayed(run_one)(j, sets[j.set], out, more) for j in missing]
    for record in Parallel(n_jobs=options.jobs, return_as="generator_unordered")(tasks):
        records[str(record["key"])] = record
        write_json(STORED, list(records.values()))


if __name__ == "__main__":
    main()
