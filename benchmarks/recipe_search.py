"""The search for the loss weights and the recipe, on validation cases of the phantom only.

    python benchmarks/recipe_search.py --data ct=DIR --data mr=DIR --out runs/search --jobs 2

DIR: `unpaired import phantom OUT --cases ct=32,mr=32 --level benchmark --seed 0`. Every
configuration of `ROUNDS` is trained on all CT and one MR case of the training part, the same cases
for all of them, and judged by the validation cases at the last step; test cases are never read.
Runs what is missing, stores the scores in docs/recipe_search.json, and writes the table of
docs/decisions.md from that file alone (`--write`).
"""

import argparse
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from joblib import Parallel, delayed

from unpaired.cli.options import parse_data
from unpaired.config import load_config
from unpaired.files import read_json, write_json, write_text
from unpaired.run.log import read_log
from unpaired.training.fit import train

DOCS = Path(__file__).resolve().parents[1] / "docs"
STORED = DOCS / "recipe_search.json"
PLAIN = ("model.variant=V2", "loss.alpha=0", "loss.beta=0", "loss.gamma=0")
NO_LOSS = PLAIN[1:]
NO_CONSISTENCY = PLAIN[2:]
STRONGER = (
    "augment.probability=0.6",
    "augment.gain=[0.7, 1.3]",
    "augment.gamma=[0.6, 1.6]",
    "augment.noise=0.15",
    "augment.rotation_degrees=12.0",
    "augment.scale=[0.85, 1.15]",
)


@dataclass(frozen=True)
class Draw:
    """Which MR case, and which start."""

    case_seed: int
    seed: int = 0


FIRST = (Draw(0), Draw(2))
SECOND = (Draw(1002, 1), Draw(1003, 2), Draw(1004, 3))


@dataclass(frozen=True)
class Tried:
    """One configuration: what it changes in the preset phantom-benchmark, and its draws."""

    name: str
    overrides: tuple[str, ...]
    draws: tuple[Draw, ...]

    @property
    def key(self) -> str:
        """Of its runs."""
        return f"{self.name} | {' '.join(self.overrides)}"


# With the recipe as it was; what is not named here is the preset's.
WAS = ("loss.beta=0.1", "loss.gamma=0.1", "loss.tau=4", "loss.mask_absent=false")
ROUNDS = (
    (
        "First round, one start",
        (
            Tried("V2", PLAIN, FIRST),
            Tried("V2, stronger augmentation", (*PLAIN, *STRONGER), FIRST),
            Tried("V3", NO_LOSS, FIRST),
            Tried("Ours, α = 0.4, β = γ = 0.1", WAS, FIRST),
            Tried("Ours, the same, stronger augmentation", (*WAS, *STRONGER), FIRST),
            Tried("Ours, α = 0.1", (*WAS, "loss.alpha=0.1"), FIRST),
            Tried(
                "Ours, α = 0.1, stronger augmentation",
                (*WAS, "loss.alpha=0.1", *STRONGER),
                FIRST[1:],
            ),
            Tried(
                "Ours, γ = 1, scaled maps",
                (*WAS, "loss.gamma=1.0", "model.maps=scaled"),
                FIRST[1:],
            ),
        ),
    ),
    (
        "Second round, a start and an MR case of its own each: why Ours fell behind V3 with L_aux",
        (
            Tried("V3 with L_aux", (*WAS, *NO_CONSISTENCY), SECOND),
            Tried("Ours, β = γ = 0.1", WAS, SECOND),
            Tried("L_mcr alone", (*WAS, "loss.gamma=0"), SECOND),
            Tried("L_icr alone", (*WAS, "loss.beta=0"), SECOND),
            Tried("Ours, absent classes masked", (*WAS, "loss.mask_absent=true"), SECOND[1:]),
            Tried("Ours, τ = 32", (*WAS, "loss.tau=32"), SECOND[1:]),
            Tried("Ours, γ = 0.01", (*WAS, "loss.gamma=0.01"), SECOND[1:]),
            Tried(
                "Ours, τ = 32, absent classes masked",
                (*WAS, "loss.tau=32", "loss.mask_absent=true"),
                SECOND[1:],
            ),
        ),
    ),
)


def run_one(tried: Tried, draw: Draw, data: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Train one configuration on one draw; its validation Dice at the end, by modality."""
    config = load_config(
        "phantom-benchmark",
        None,
        [
            "data.few_shot.mr=1",
            f"data.few_shot_seed={draw.case_seed}",
            f"train.seed={draw.seed}",
            "train.steps=1000",
            "train.steps_per_epoch=250",
            "train.threads=1",
            "data.workers=1",
            *tried.overrides,
        ],
    )
    name = hashlib.sha256(tried.key.encode()).hexdigest()[:8]
    run = out / f"{name}-{draw.case_seed}-{draw.seed}"
    train(config, data, run, prepared=out / f"prepared-{draw.case_seed}")
    return scored(tried, draw, run)


def scored(tried: Tried, draw: Draw, run: Path) -> dict[str, Any]:
    """What is stored of a run: its last validation."""
    last = [r for r in read_log(run / "log.jsonl") if r["kind"] == "validation"][-1]
    return {"tried": tried.key, **asdict(draw), "step": last["step"], "dice": last["mean"]}


def tables(found: list[dict[str, Any]]) -> str:
    """The section of docs/decisions.md."""
    parts = [
        f"{len({r['tried'] for r in found})} configurations, {len(found)} runs of "
        f"{found[0]['step']} steps (preset phantom-benchmark, all CT and one MR case; mean Dice of "
        "four validation cases per modality at the last step; each number in brackets is one "
        "draw). What is compared must stand on the same draws."
    ]
    for title, round_ in ROUNDS:
        parts += ["", f"**{title}**", "", "| configuration | changed | CT Dice % | MR Dice % |"]
        parts.append("|---|---|---|---|")
        parts += [line for tried in round_ for line in _lines(tried, found)]
    return "\n".join(parts)


def _lines(tried: Tried, found: list[dict[str, Any]]) -> Iterator[str]:
    by_draw = {(r["case_seed"], r["seed"]): r["dice"] for r in found if r["tried"] == tried.key}
    rows = [by_draw.get((d.case_seed, d.seed)) for d in tried.draws]
    if any(rows):
        cells = [_cell([None if r is None else 100 * r[m] for r in rows]) for m in ("ct", "mr")]
        shown = [text for text in tried.overrides if text not in WAS]
        changed = ", ".join(f"`{text}`" for text in shown) or "-"
        yield f"| {tried.name} | {changed} | {' | '.join(cells)} |"


def _cell(values: list[float | None]) -> str:
    known = [v for v in values if v is not None]
    each = ", ".join("not run" if v is None else f"{v:.1f}" for v in values)
    return f"{mean(known):.1f} ({each})"


def write_section(path: Path, text: str, name: str) -> None:
    """Replace what stands between the markers of that name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    write_text(path, f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="only write the table")
    options = parser.parse_args()
    if not options.write:
        data = parse_data(options.data)
        jobs = [(t, draw) for _, round_ in ROUNDS for t in round_ for draw in t.draws]
        found = Parallel(n_jobs=options.jobs)(
            delayed(run_one)(tried, draw, data, options.out) for tried, draw in jobs
        )
        write_json(STORED, found)
    write_section(DOCS / "decisions.md", tables(read_json(STORED)), "search")


if __name__ == "__main__":
    main()
