"""The search for the loss weights and the recipe, on validation cases of the phantom only.

    python benchmarks/recipe_search.py --data ct=DIR --data mr=DIR --out runs/search --jobs 2

DIR: `unpaired import phantom OUT --cases ct=32,mr=32 --level benchmark --seed 0`. Every
configuration of `TRIED` is trained on all CT and one MR case of the training part, the same cases
for all of them, and judged by the validation cases at the last step; test cases are never read.
Runs what is missing, stores the scores in docs/recipe_search.json, and writes the table of
docs/decisions.md from that file alone (`--write`).
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from joblib import Parallel, delayed

from unpaired.config import load_config
from unpaired.engine.log import read_log
from unpaired.engine.train import train
from unpaired.files import read_json, write_json, write_text

DOCS = Path(__file__).resolve().parents[1] / "docs"
STORED = DOCS / "recipe_search.json"
BEGIN, END = "<!-- search: begin -->", "<!-- search: end -->"
PLAIN = ("model.variant=V2", "loss.alpha=0", "loss.beta=0", "loss.gamma=0")
NO_LOSS = PLAIN[1:]
STRONGER = (
    "augment.probability=0.6",
    "augment.gain=[0.7, 1.3]",
    "augment.gamma=[0.6, 1.6]",
    "augment.noise=0.15",
    "augment.rotation_degrees=12.0",
    "augment.scale=[0.85, 1.15]",
)


@dataclass(frozen=True)
class Tried:
    """One configuration: what it changes in the preset phantom-benchmark, and its draws."""

    name: str
    overrides: tuple[str, ...]
    draws: tuple[int, ...] = (0, 2)


TRIED = (
    Tried("V2", PLAIN),
    Tried("V2, stronger augmentation", (*PLAIN, *STRONGER)),
    Tried("V3", NO_LOSS),
    Tried("Ours, α = 0.4, β = γ = 0.1", ()),
    Tried("Ours, the same, stronger augmentation", STRONGER),
    Tried("Ours, α = 0.1", ("loss.alpha=0.1",)),
    Tried("Ours, α = 0.1, stronger augmentation", ("loss.alpha=0.1", *STRONGER), (2,)),
    Tried("Ours, γ = 1, scaled maps", ("loss.gamma=1.0", "model.maps=scaled"), (2,)),
)


def run_one(tried: Tried, draw: int, data: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Train one configuration on one draw; its validation Dice at the end, by modality."""
    config = load_config(
        "phantom-benchmark",
        None,
        [
            "data.few_shot.mr=1",
            f"data.few_shot_seed={draw}",
            "train.steps=1000",
            "train.steps_per_epoch=250",
            "train.threads=1",
            "data.workers=1",
            *tried.overrides,
        ],
    )
    run = out / f"{TRIED.index(tried):02d}-{draw}"
    train(config, data, run, prepared=out / f"prepared-{draw}")
    last = [r for r in read_log(run / "log.jsonl") if r["kind"] == "validation"][-1]
    return {"name": tried.name, "draw": draw, "step": last["step"], "dice": last["mean"]}


def table(found: list[dict[str, Any]]) -> str:
    """The section of docs/decisions.md."""
    lines = [
        f"{len({r['name'] for r in found})} configurations, {len(found)} runs of "
        f"{found[0]['step']} steps (preset phantom-benchmark, all CT and one MR case; mean Dice of "
        "four validation cases per modality at the last step; each number in brackets is one draw "
        "of the MR case).",
        "",
        "| configuration | changed | CT Dice % | MR Dice % |",
        "|---|---|---|---|",
    ]
    for tried in TRIED:
        rows = [r for r in found if r["name"] == tried.name]
        if rows:
            cells = [_cell([100 * r["dice"][m] for r in rows]) for m in ("ct", "mr")]
            changed = ", ".join(f"`{o}`" for o in tried.overrides) or "-"
            lines.append(f"| {tried.name} | {changed} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    return f"{mean(values):.1f} ({', '.join(f'{v:.1f}' for v in values)})"


def write_section(path: Path, text: str) -> None:
    """Replace what stands between the markers."""
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    write_text(path, f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="only write the table")
    options = parser.parse_args()
    if not options.write:
        data = {name: Path(root) for name, root in (item.split("=", 1) for item in options.data)}
        jobs = [(tried, draw) for tried in TRIED for draw in tried.draws]
        found = Parallel(n_jobs=options.jobs)(
            delayed(run_one)(tried, draw, data, options.out) for tried, draw in jobs
        )
        write_json(STORED, found)
    write_section(DOCS / "decisions.md", table(read_json(STORED)))


if __name__ == "__main__":
    main()
