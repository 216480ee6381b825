"""The search for the recipe of the default network, on validation cases of three data sets.

    python benchmarks/default_recipe.py --set phantom ct=DIR mr=DIR --set mscmr bssfp=DIR lge=DIR

Every row of `ROWS` is trained on the same inner folds of each set: a fixed part of the cases, a
quarter to three eighths, is the test part and is never read; the others are split anew for every
fold. A row of one modality is the network that never saw the other, with as many steps of as many
images of its own. Runs what is missing, stores the scores in docs/default_recipe.json, and writes
the table of docs/decisions.md from that file alone (`--write`).
"""

import argparse
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from joblib import Parallel, delayed

from recipe_search import DOCS, write_section
from unpaired.cli.options import parse_data
from unpaired.config import load_config
from unpaired.datasets.sources import open_dataset
from unpaired.files import read_json, write_json
from unpaired.run.log import read_log
from unpaired.training.fit import train

STORED = DOCS / "default_recipe.json"
PLAIN = ("model.variant=V2", "loss.alpha=0", "loss.beta=0", "loss.gamma=0")
GAINS = ("model.variant=V3", *PLAIN[1:])
NORMS = ("model.norms=private",)
HALVED = ("train.batch_size=2", "train.steps=800", "train.steps_per_epoch=800")
"""As many images of a modality in twice as many steps."""
SETTINGS = (
    "model.options.stages=5",
    "model.options.blocks=[1,1,1,1,1]",
    "loss.class_weights=none",
    "loss.dice_background=true",
    "predict.largest_component=[]",
    "train.steps=400",
    "train.steps_per_epoch=400",
    "train.threads=1",
    "data.workers=1",
)
OWN = {
    "phantom": ("data.spacing_mm=[6,3,3]", "data.patch=[128,128]"),
    "mscmr": ("data.spacing_mm=[6.5,1.25,1.25]", "data.slice_axis=auto", "data.patch=[128,128]"),
    "sts": ("data.spacing_mm=[3.3,1.5,1.5]", "data.patch=[128,128]"),
}
"""What a set needs beside the demo's settings: one grid for all rows, or grids would be compared.
The phantom has the demo's intensities, too."""
PARTS = {"phantom": (8, 8), "mscmr": (7, 3), "sts": (11, 4)}
"""Cases of a modality to train and to validate; what is left is the test part."""


@dataclass(frozen=True)
class Row:
    """One recipe.

    Attributes:
        alone: train a network of each modality alone.
        few: training cases of the last modality; None: all.
    """

    name: str
    changes: tuple[str, ...] = PLAIN
    alone: bool = False
    few: int | None = None


ROWS = (
    Row("alone", alone=True),
    Row("all shared (V2)"),
    Row("V2, private norms", (*PLAIN, *NORMS)),
    Row("V3, gains only", GAINS),
    Row("V3, private norms", (*GAINS, *NORMS)),
    Row("V3, every loss", ("model.variant=V3",)),
    Row("alone, halved batch", (*PLAIN, *HALVED), alone=True),
    Row("V2, private norms, halved batch", (*PLAIN, *NORMS, *HALVED)),
)


def make_folds(cases: Mapping[str, list[str]], parts: tuple[int, int], folds: int) -> list[Any]:
    """Splits with one test part: `train` and `val` are drawn anew, without the test cases."""
    kept: dict[str, list[str]] = {}
    test = []
    for modality, names in cases.items():
        shuffled = random.Random(f"test {modality}").sample(sorted(names), len(names))
        kept[modality] = shuffled[: sum(parts)]
        test += [f"{modality}/{name}" for name in shuffled[sum(parts) :]]
    found = []
    for fold in range(folds):
        split: dict[str, list[str]] = {"train": [], "val": [], "test": test}
        for modality, names in kept.items():
            order = random.Random(f"{fold} {modality}").sample(names, len(names))
            split["train"] += [f"{modality}/{name}" for name in order[: parts[0]]]
            split["val"] += [f"{modality}/{name}" for name in order[parts[0] :]]
        found.append(split)
    return found


def only(split: Mapping[str, list[str]], data: Mapping[str, Path]) -> dict[str, list[str]]:
    """The split of these modalities."""
    return {k: [n for n in names if n.split("/")[0] in data] for k, names in split.items()}


def run_one(
    row: Row, name: str, data: Mapping[str, Path], fold: int, out: Path
) -> list[dict[str, Any]]:
    """Train a row on a fold; a record per network."""
    split = make_folds(
        {m: [case.id for case in open_dataset(m, root).cases] for m, root in data.items()},
        PARTS[name],
        fold + 1,
    )[fold]
    sets = [{m: root} for m, root in data.items()] if row.alone else [dict(data)]
    return [_train(row, name, chosen, fold, split, out) for chosen in sets]


def _train(
    row: Row, name: str, data: dict[str, Path], fold: int, split: dict[str, list[str]], out: Path
) -> dict[str, Any]:
    label = f"{name}-{row.name}-{'+'.join(data)}-{fold}".replace(" ", "_")
    splits = out / f"{label}.json"
    write_json(splits, [only(split, data)])
    few = [f"data.few_shot.{list(data)[-1]}={row.few}"] if row.few else []
    if name != "phantom":  # the demo's windows are for its own scans
        few += [f"modalities.{m}.clip=auto" for m in data]
    given = [f"data.splits={splits}", f"train.seed={fold}", *few]
    config = load_config("demo", None, [*SETTINGS, *OWN[name], *given, *row.changes])
    run = out / label
    train(config, data, run, prepared=out / f"prepared-{name}-{'+'.join(data)}-{fold}")
    last = [r for r in read_log(run / "log.jsonl") if r["kind"] == "validation"][-1]
    return {"set": name, "row": row.name, "fold": fold, "step": last["step"], "dice": last["mean"]}


def table(found: list[dict[str, Any]]) -> str:
    """The section of docs/decisions.md: each row, and what it gains over the networks alone."""
    parts = [
        f"{len(found)} trainings of 1600 images a modality, four in a step or two (halved batch), "
        "validation cases only."
    ]
    for name in PARTS:
        mine = [r for r in found if r["set"] == name]
        if mine:
            modalities = sorted({m for r in mine for m in r["dice"]})
            head = " | ".join(f"{m} Dice % | minus alone" for m in modalities)
            parts += ["", f"**{name}**", "", f"| recipe | {head} |"]
            parts += ["|---|" + "---|---|" * len(modalities)]
            parts += [line for row in ROWS for line in _lines(row, mine, modalities)]
    return "\n".join(parts)


def _lines(row: Row, found: list[dict[str, Any]], modalities: list[str]) -> Iterator[str]:
    def scores(name: str, modality: str) -> dict[int, float]:
        chosen = [r for r in found if r["row"] == name and modality in r["dice"]]
        return {r["fold"]: 100 * r["dice"][modality] for r in chosen}

    cells = []
    for modality in modalities:
        mine = scores(row.name, modality)
        like = "" if row.few is None else f", {row.few} of the last"
        like += ", halved batch" * ("halved batch" in row.name)
        alone = scores(f"alone{like}", modality)
        if not mine:
            return
        gains = [mine[f] - alone[f] for f in mine if f in alone]
        spread = f" ± {stdev(gains) / len(gains) ** 0.5:.1f}" if len(gains) > 1 else ""
        cells += [f"{mean(mine.values()):.1f}"]
        cells += ["-" if row.alone or not gains else f"{mean(gains):+.1f}{spread}"]
    yield f"| {row.name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", action="append", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("runs/default_recipe"))
    parser.add_argument("--rows", default="", help="words of the rows to run, by ;")
    parser.add_argument("--folds", default="0", help="as in 0,1,2")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="only write the table")
    options = parser.parse_args()
    found = read_json(STORED) if STORED.exists() else []
    if not options.write:
        sets = {
            name: {m: root.resolve() for m, root in parse_data(items).items()}
            for name, *items in options.set
        }
        wanted = [r for r in ROWS if not options.rows or r.name in options.rows.split(";")]
        options.out.mkdir(parents=True, exist_ok=True)
        jobs = [
            delayed(run_one)(row, name, data, int(fold), options.out.resolve())
            for fold in options.folds.split(",")
            for row in wanted
            for name, data in sets.items()
        ]
        new = [r for records in Parallel(n_jobs=options.jobs)(jobs) for r in records]

        def key(record: dict[str, Any]) -> tuple[Any, ...]:
            return record["set"], record["row"], record["fold"], tuple(record["dice"])

        found = list({key(r): r for r in [*found, *new]}.values())
        write_json(STORED, found)
    write_section(DOCS / "decisions.md", table(found), "default")


if __name__ == "__main__":
    main()
