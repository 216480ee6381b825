"""Run folders as `compare` reads them: scores, split, configuration, plan; no images, no model."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from unpaired.config import load_config, to_toml
from unpaired.files import write_json, write_text
from unpaired.run.scores import Evaluation, Score, write_evaluation

NAN = math.nan
Dice = Mapping[tuple[str, str, str], float]
"""(modality, case, class) -> Dice."""


def dice_table(
    modalities=("ct", "mr"), cases=7, seed=0, shift=0.0, classes=("liver", "spleen"), first=0
) -> dict[tuple[str, str, str], float]:
    """Scores whose case and class parts are the same for every seed."""
    noise = np.random.default_rng([seed, round(1e6 * (1 + shift))])
    found = {}
    for m in modalities:
        for n in range(first, first + cases):
            for i, cls in enumerate(classes):
                base = 0.5 + 0.03 * n + 0.05 * i + (0.1 if m == "ct" else 0)
                found[m, f"case_{n}", cls] = base + shift + 0.01 * noise.normal()
    return found


def write_run(
    root: Path,
    dice: Dice,
    *overrides: str,
    asd: Mapping[tuple[str, str, str], float] | None = None,
    voxels: int = 100,
    train: Mapping[str, int] | None = None,
    plan: Mapping | None = None,
    failed: tuple[str, ...] = (),
    steps: int = 50,
    data: str = "data",
    version: str = "1",
) -> Path:
    """Write a run. `failed`: "modality/case" that was tested but not scored."""
    scores = [
        Score(m, case, cls, value, (asd or {}).get((m, case, cls), 10 * (1 - value)), 1.0, value,
              0 if math.isnan(value) else voxels, 90, {"double": 2 * value})
        for (m, case, cls), value in dice.items() if f"{m}/{case}" not in failed
    ]  # fmt: skip
    write_evaluation(
        Evaluation(tuple(scores), dict.fromkeys(failed, "broken")), root / "evaluation"
    )
    write_text(root / "config.toml", to_toml(load_config(None, None, list(overrides))))
    modalities = tuple(dict.fromkeys(m for m, _, _ in dice))
    names = [f"{m}/t{n}" for m in modalities for n in range((train or {}).get(m, 3))]
    tests = list(dict.fromkeys(f"{m}/{case}" for m, case, _ in dice))
    write_json(root / "splits_final.json", [{"train": names, "val": [], "test": tests}])
    folders = {m: {"root": f"{data}/{m}"} for m in modalities}
    write_json(root / "data.json", {"classes": ["background"], "modalities": folders})
    about = {"clip": [{"kind": "percentile", "low": 0.5, "high": 99.5}], "zscore": "volume"}
    base = {"classes": ["background", "liver", "spleen"], "spacing_mm": [6.0, 3.0, 3.0],
            "patch": [128, 128], "modalities": dict.fromkeys(modalities, about)}  # fmt: skip
    write_json(root / "plan.json", {**base, **(plan or {})})
    write_json(root / "environment.json", {"versions": {"unpaired": version}})
    write_text(root / "log.jsonl", f'{{"kind": "step", "step": {steps}, "loss": 1.0}}\n')
    (root / "model").mkdir(exist_ok=True)
    return root


def seeds(root: Path, name: str, count: int, shift=0.0, modalities=("ct", "mr")) -> list[Path]:
    """`count` runs that differ in their seed."""
    return [
        write_run(root / f"{name}-{s}", dice_table(modalities, seed=s, shift=shift), f"seed={s}")
        for s in range(count)
    ]
