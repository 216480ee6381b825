"""How hard each loss pulls at the shared network, along the first steps of a training.

    python benchmarks/loss_gradients.py --data ct=DIR --data mr=DIR

DIR as for recipe_search.py, whose recipe before and after the second round is followed here. Every
fifth step the gradient of each loss with regard to the shared network is taken apart from the
others. Stores what was found in docs/loss_gradients.json and writes the table of docs/decisions.md
from that file alone (`--write`).
"""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from recipe_search import DOCS, WAS, write_section
from unpaired.cli.options import parse_data
from unpaired.config import load_config
from unpaired.errors import Interrupted
from unpaired.files import read_json, write_json
from unpaired.losses import Terms
from unpaired.run import RunFolder
from unpaired.training.distributed import Stop, process_group
from unpaired.training.prepare import prepare_run
from unpaired.training.trainer import Trainer

STORED = DOCS / "loss_gradients.json"
STEPS, EVERY = 300, 5
RECIPES = {
    "before: τ = 4, all classes": WAS,
    "now: τ = 32, absent classes left out": ("loss.tau=32", "loss.mask_absent=true"),
}
DRAW = ("data.few_shot.mr=1", "data.few_shot_seed=1003", "train.seed=2")


class Watched:
    """An objective that notes the gradients of its parts and asks for the end after `STEPS`."""

    def __init__(self, trainer: Trainer, stop: Stop) -> None:
        self.objective, self.stop = trainer.objective, stop
        self.shared = list(trainer.joint.segmenter.parameters())
        self.calls, self.rows = 0, []

    def __call__(self, outputs: Mapping[str, Any], labels: Mapping[str, Tensor]) -> Terms:
        terms = self.objective(outputs, labels)
        if self.calls % EVERY == 0:
            self.rows.append({"step": self.calls, **self._measured(terms.weighted)})
        self.calls += 1
        self.stop.asked = self.calls == STEPS
        return terms

    def _measured(self, weighted: Mapping[str, Tensor]) -> dict[str, float]:
        """Norm of the gradient of L_seg, L_aux and L_icr; cosine of the last with the first."""
        groups: dict[str, Tensor] = {}
        for name, value in weighted.items():
            part = name.split("/")[0]
            groups[part] = groups.get(part, torch.zeros(())) + value
        pulls = {part: self._gradient(groups[part]) for part in ("seg", "aux", "icr")}
        cosine = nn.functional.cosine_similarity(pulls["seg"], pulls["icr"], dim=0)
        return {**{part: float(g.norm()) for part, g in pulls.items()}, "cosine": float(cosine)}

    def _gradient(self, loss: Tensor) -> Tensor:
        found = torch.autograd.grad(loss, self.shared, retain_graph=True, materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in found])


def follow(overrides: tuple[str, ...], data: Mapping[str, Path], out: Path) -> list[dict[str, Any]]:
    """Train the first steps of one recipe; what was measured."""
    fixed = ("train.steps=1000", "train.threads=1", "data.workers=1")
    config = load_config("phantom-benchmark", None, [*DRAW, *fixed, *overrides])
    folder, stop = RunFolder(out), Stop()
    prepare_run(config, data, folder)
    with process_group(False) as group:
        trainer = Trainer(config, folder, group)
        trainer.objective = watched = Watched(trainer, stop)
        try:
            trainer.loop(stop)
        except Interrupted:
            return watched.rows
    raise AssertionError("the training ended before it was stopped")


def table(found: Mapping[str, list[dict[str, Any]]]) -> str:
    """The section of docs/decisions.md."""
    lines = [
        f"Every {EVERY}th of the first {STEPS} steps of one training (`{DRAW[0]}`).", "",
        "| recipe | L_seg, median | L_aux, median | L_icr, median | L_icr, largest "
        "| L_icr above L_seg | cosine of L_icr with L_seg, median |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for recipe, rows in found.items():
        middle = {k: median(row[k] for row in rows) for k in ("seg", "aux", "icr", "cosine")}
        above = sum(row["icr"] > row["seg"] for row in rows) / len(rows)
        assert all(math.isfinite(row["icr"]) for row in rows)
        lines.append(
            f"| {recipe} | {middle['seg']:.2f} | {middle['aux']:.2f} | {middle['icr']:.2f} "
            f"| {max(row['icr'] for row in rows):.1f} | {above:.0%} | {middle['cosine']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--write", action="store_true", help="only write the table")
    options = parser.parse_args()
    if not options.write:
        data = parse_data(options.data)
        with TemporaryDirectory() as scratch:
            found = {
                name: follow(overrides, data, Path(scratch) / str(i))
                for i, (name, overrides) in enumerate(RECIPES.items())
            }
        write_json(STORED, found)
    write_section(DOCS / "decisions.md", table(read_json(STORED)), "gradients")


if __name__ == "__main__":
    main()
