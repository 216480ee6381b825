"""Real unpaired CT and MR: training with both modalities against one alone, same budget.

Data: the IBSI validation data from the TCIA collection Soft-tissue-Sarcoma
(doi 10.7937/K9/TCIA.2015.7GO2GSKS, CC BY 3.0), 20 CT and 20 T1 MR scans of different patients,
in the nnU-Net raw layout.

    python benchmarks/sarcoma.py --data ct=DIR --data mr=DIR --out runs/sarcoma --seeds 3 --jobs 2

Runs what is missing, goes on where it stopped, and writes the section of docs/results.md and the
learning curves from the run records alone.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from joblib import Parallel, delayed
from matplotlib.figure import Figure

from unpaired.config import Config, load_config
from unpaired.data.sources import open_dataset
from unpaired.data.split import Split, random_split, write_splits
from unpaired.engine.log import read_log
from unpaired.engine.run_folder import describe_environment
from unpaired.engine.test import evaluate_run
from unpaired.engine.train import train
from unpaired.files import read_json, write_text

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- sarcoma: begin -->", "<!-- sarcoma: end -->"
RECIPE = (
    "data.spacing_mm=[3.3, 1.5, 1.5]",
    "data.slice_axis=S",
    "data.patch=[128, 128]",
    "data.workers=1",
    "model.options.embed_dim=32",
    "model.options.depths=[2, 2, 2, 2]",
    "model.options.heads=[2, 4, 8, 16]",
    "model.options.drop_path=0.1",
    "train.batch_size=4",
    "train.learning_rate=0.001",
    "train.warmup_steps=50",
    "train.steps_per_epoch=100",
    "train.foreground=0.5",
    "train.threads=1",
    "predict.largest_component=[]",
)


@dataclass(frozen=True)
class Arm:
    """One row of the table."""

    name: str
    modalities: tuple[str, ...]
    overrides: tuple[str, ...]


def arms(modalities: Iterable[str]) -> list[Arm]:
    """Each modality alone, both shared (V2), and the whole method (V3, every loss)."""
    both = tuple(modalities)
    off = ("loss.beta=0", "loss.gamma=0")
    alone = [Arm(f"{m} alone", (m,), ("model.variant=V2", *off)) for m in both]
    return [
        *alone,
        Arm("V2", both, ("model.variant=V2", *off)),
        Arm("Ours", both, ("model.variant=V3",)),
    ]


def config_of(arm: Arm, seed: int, steps: int, splits: Path) -> Config:
    """The one recipe, with what makes the arm."""
    own = (f"train.steps={steps}", f"train.seed={seed}", f'data.splits="{splits}"')
    return load_config(None, None, [*RECIPE, *own, *arm.overrides])


def restrict(split: Split, modalities: Iterable[str]) -> Split:
    """The split of some of the modalities only."""
    parts = ({m: part[m] for m in modalities} for part in (split.train, split.val, split.test))
    return Split(*parts)


def run_one(arm: Arm, seed: int, steps: int, data: dict[str, Path], out: Path) -> Path:
    """Train and score one arm with one seed; the seed also draws the split, alike for all arms."""
    folder = out / f"{arm.name.replace(' ', '_')}-{seed}"
    if (folder / "evaluation" / "evaluation.json").exists():
        return folder
    cases = {m: open_dataset(m, root).cases for m, root in data.items()}
    splits = folder.with_suffix(".splits.json")
    write_splits(splits, [restrict(random_split(cases, seed=seed), arm.modalities)])
    config = config_of(arm, seed, steps, splits)
    chosen = {m: data[m] for m in arm.modalities}
    train(config, chosen, folder, prepared=out / "prepared" / f"{'_'.join(arm.modalities)}-{seed}")
    evaluate_run(folder)
    return folder


def scores(folder: Path) -> dict[str, list[dict[str, float]]]:
    """Per modality, the per-case scores of the foreground class."""
    found: dict[str, list[dict[str, float]]] = {}
    for row in read_json(folder / "evaluation" / "evaluation.json")["cases"]:
        found.setdefault(row["modality"], []).append(row)
    return found


def cell(runs: list[Path], modality: str, key: str, factor: float) -> str:
    """Mean and population deviation over all test cases, then the spread of the seeds' means."""
    per_seed = []
    for run in runs:
        values = [row[key] for row in scores(run).get(modality, [])]
        per_seed.append([factor * v for v in values if v is not None])
    pooled = np.concatenate(per_seed) if per_seed else np.empty(0)
    if not pooled.size:
        return "-"
    means = ", ".join(f"{np.mean(values):.1f}" for values in per_seed)
    return f"{pooled.mean():.1f} ± {pooled.std():.1f} ({means})"


def last_fifth_gain(runs: list[Path]) -> float:
    """Best validation Dice of the last fifth minus the best before it, on the runs' mean curve."""
    logs = [[r for r in read_log(run / "log.jsonl") if r["kind"] == "validation"] for run in runs]
    steps = np.array([point["step"] for point in logs[0]])
    curve = np.mean([[point["score"] for point in log] for log in logs], axis=0)
    late = steps > 0.8 * steps[-1]
    return float(curve[late].max() - curve[~late].max())


def floor(runs: list[Path], modalities: Iterable[str]) -> list[str]:
    """Cells of the location prior: where training labels lay, on the prepared grid."""
    cells = []
    for m in modalities:
        values = [
            100 * value for run in runs for value in read_json(run / "floor.json")[m].values()
        ]
        cells += [f"{np.mean(values):.1f} ({', '.join(f'{v:.1f}' for v in values)})", "-"]
    return cells


def curves(table: dict[str, list[Path]], modalities: Iterable[str], path: Path) -> None:
    """Validation Dice against steps, one panel per modality, one line per arm and seed."""
    names = list(modalities)
    figure = Figure(figsize=(5 * len(names), 3.4), layout="constrained")
    for axes, m in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for colour, (name, runs) in enumerate(table.items()):
            for seed, run in enumerate(runs):
                points = [r for r in read_log(run / "log.jsonl") if r["kind"] == "validation"]
                if m in points[-1]["mean"]:
                    xs, ys = zip(*((p["step"], p["mean"][m]) for p in points), strict=True)
                    label = name if seed == 0 else None
                    axes.plot(xs, ys, color=f"C{colour}", alpha=0.8, lw=1.3, label=label)
        axes.set(title=m.upper(), xlabel="step", ylabel="validation Dice", ylim=(0, 1))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def paired(table: dict[str, list[Path]], modality: str, alone: str) -> str:
    """Ours minus the modality alone, per test case."""
    differences = []
    for ours, single in zip(table["Ours"], table[alone], strict=True):
        one = {row["case"]: row["dice"] for row in scores(single)[modality]}
        both = {row["case"]: row["dice"] for row in scores(ours)[modality]}
        differences += [100 * (both[case] - one[case]) for case in one]
    values = np.array(differences)
    rng = np.random.default_rng(0)
    draws = rng.choice(values, (10000, len(values))).mean(1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return (
        f"{modality.upper()}: Ours minus {alone}, paired by case: {values.mean():+.1f} points of "
        f"Dice, 95 % bootstrap interval {low:+.1f} to {high:+.1f} (n = {len(values)} test cases)."
    )


def section(table: dict[str, list[Path]], modalities: list[str], steps: int) -> str:
    """The text of docs/results.md, every number from the run records."""
    first = read_json(table["Ours"][0] / "model" / "model.json")
    machine = describe_environment()
    lines = [
        f"Seeds: {len(table['Ours'])} (each draws its own 70/10/20 split by patient, alike for all "
        f"rows, and its own start); {steps} steps of AdamW, 4 images per modality and step, for "
        "every row; a Swin-Unet of width 32 with windows fitted to 128 x 128 at "
        "3.3 x 1.5 x 1.5 mm. Scored on the scans' own grid; the checkpoint is the best on "
        "validation.",
        "",
        "| row | " + " | ".join(f"{m.upper()} Dice % | {m.upper()} ASD mm" for m in modalities),
        "|---|" + "---|" * (2 * len(modalities)),
    ]
    lines[2] += " |"
    for name, runs in table.items():
        cells = [
            c for m in modalities for c in (cell(runs, m, "dice", 100), cell(runs, m, "asd_mm", 1))
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append(
        "| position alone, no image | " + " | ".join(floor(table["Ours"], modalities)) + " |"
    )
    gains = "; ".join(
        f"{name} {last_fifth_gain(runs):+.3f} "
        f"(each seed {', '.join(f'{last_fifth_gain([run]):+.3f}' for run in runs)})"
        for name, runs in table.items()
    )
    lines += [
        "",
        "Mean ± population deviation over the test cases of all seeds; in brackets the mean of "
        "each seed.",
        "",
        *(f"- {paired(table, m, f'{m} alone')}" for m in modalities),
        "",
        "Validation Dice gained in the last fifth of the run, by the mean curve of the seeds: "
        f"{gains}.",
        "",
        "![Validation Dice against steps](sarcoma_curves.png)",
        "",
        f"Parameters of Ours: {json.dumps(first['extra']['parameters'])}. Machine: "
        f"{machine['cpu']}, {machine['cores']} cores, torch {machine['versions']['torch']}.",
    ]
    return "\n".join(lines)


def write_section(path: Path, text: str) -> None:
    """Replace what stands between the markers."""
    page = path.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    write_text(path, f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    data = {name: Path(root) for name, root in (item.split("=", 1) for item in options.data)}
    rows = arms(data)
    jobs = [(arm, seed) for seed in range(options.seeds) for arm in reversed(rows)]
    done = Parallel(n_jobs=options.jobs)(
        delayed(run_one)(arm, seed, options.steps, data, options.out) for arm, seed in jobs
    )
    table = {row.name: [] for row in rows}
    for (arm, _), folder in zip(jobs, done, strict=True):
        table[arm.name].append(folder)
    curves(table, data, DOCS / "sarcoma_curves.png")
    write_section(DOCS / "results.md", section(table, list(data), options.steps))


if __name__ == "__main__":
    main()
