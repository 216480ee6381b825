"""What the consistency between modalities does in a run, and why it does nothing.

    python benchmarks/consistency.py RUN         # tables of that run
    python benchmarks/consistency.py             # the eight findings, on the phantom
    python benchmarks/consistency.py --write     # only the table of docs/consistency.md

Of a run, per scale: size and entropy of E, its divergence within and between the modalities, what
each loss pulls at on the segmenter and on what is thrown away, and whether the modules alone, on a
frozen network, satisfy L_icr. Without a run the diagnostic training of the phantom is run first
(8 + 8 cases of level "benchmark", one seed, 120 steps of preset phantom-benchmark, V3 with L_aux;
once more with one chain of modules for all; 120 steps of a residual U-Net), what was found is
stored in docs/consistency.json, and the table of docs/consistency.md is written from that alone.
"""

import argparse
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from _consistency import (
    PAPER,
    absorbed,
    describe_scales,
    flipped_head,
    gains_apart,
    likeness,
    load_joint,
    modules_alone,
    offset_shares,
    pooled_shares,
    pulls,
    slices,
)
from _findings import section
from _report import machine, write_section
from unpaired.config import Config, load_config
from unpaired.errors import UnpairedError
from unpaired.files import read_json, write_json
from unpaired.losses import Objective, Terms
from unpaired.methods import method_of
from unpaired.models import Joint
from unpaired.phantom import write_phantom
from unpaired.run import RunFolder
from unpaired.run.log import read_log
from unpaired.tables import Table
from unpaired.training.distributed import Group, Stop
from unpaired.training.prepare import prepare_run
from unpaired.training.trainer import Trainer

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, STORED = DOCS / "consistency.md", DOCS / "consistency.json"
STEPS, LOOKS, EVERY = 120, (0, 20, 120), 5
AT = (0, 15, 60)
"""Steps of the modules alone."""
SETTINGS = (
    "data.split=[0.8,0.2,0]",
    "loss.beta=0",
    "loss.gamma=1e-12",  # the correlations are built, and not trained
    "loss.tau=4",
    "loss.mask_absent=false",
    f"train.steps={STEPS}",
    f"train.steps_per_epoch={STEPS * 4 // 5}",  # validated before the last fifth, and at the end
    "train.threads=1",
    "data.workers=1",
)
UNET = ("model.backbone=resenc_unet", "model.options={}", "model.options.base_width=16",
        "model.options.blocks=[1,1,1,1,1]", "model.options.stages=5",
        "train.learning_rate=2e-3")  # fmt: skip


class Watched:
    """An objective that looks at the network before some of the steps, and at L_seg's gradient."""

    def __init__(self, trainer: Trainer, look: Any) -> None:
        self.trainer, self.objective, self.look = trainer, trainer.objective, look
        self.calls, self.looks, self.norms = 0, {}, []

    def __call__(self, outputs: Mapping[str, Any], labels: Mapping[str, Tensor]) -> Terms:
        terms = self.objective(outputs, labels)
        if self.calls in LOOKS:
            self.looks[self.calls] = self.look(self.trainer.joint)
        if self.calls % EVERY == 0:
            shared = list(self.trainer.joint.segmenter.parameters())
            seg = sum(v for name, v in terms.terms.items() if name.startswith("seg"))
            assert isinstance(seg, Tensor)
            parts = torch.autograd.grad(
                seg, shared, retain_graph=True, materialize_grads=True, allow_unused=True
            )
            self.norms.append(float(torch.cat([part.flatten() for part in parts]).norm()))
        self.calls += 1
        return terms


def follow(changes: tuple[str, ...], data: Mapping[str, Path], out: Path) -> Any:
    """Train; the trainer with what was seen: descriptions at `LOOKS`, and norms of L_seg."""
    config = load_config("phantom-benchmark", None, [*SETTINGS, *changes])
    folder = RunFolder(out)
    prepare_run(config, data, folder)
    trainer = Trainer(config, folder, Group())
    images, labels = slices(folder, config, trainer.plan)
    trainer.objective = watched = Watched(
        trainer, lambda joint: [asdict(d) for d in describe_scales(joint, images, 4.0)]
    )
    first = pulls(trainer.joint, Objective(**PAPER), images, labels)
    trainer.loop(Stop())
    watched.looks[STEPS] = watched.look(trainer.joint)
    return trainer, watched, images, labels, first


def findings(data: Mapping[str, Path], scratch: Path) -> dict[str, Any]:
    """Everything that docs/consistency.json holds."""
    trainer, watched, images, labels, first = follow((), data, scratch / "private")
    joint = trainer.joint.eval()
    shared, _, _, _, _ = follow(("model.modules=shared",), data, scratch / "shared")
    unet, _, unet_images, unet_labels, _ = follow(UNET, data, scratch / "unet")
    widths = [level.channels for level in joint.segmenter.backbone.levels]
    log = read_log(trainer.run.files.log)
    small = {m: x[:4] for m, x in images.items()}  # as many as in a step
    last = [r["mean"] for r in log if r["kind"] == "validation"][-2:]
    return {
        "steps": STEPS,
        "cases": 8,
        "classes": len(trainer.plan.classes),
        "slices": len(next(iter(images.values()))),
        "root_of_width": [math.sqrt(c // trainer.config.model.heads) for c in widths],
        "looks": {str(step): look for step, look in watched.looks.items()},
        "offset_share": offset_shares(joint, images, 4.0),
        "flipped_head": flipped_head(joint, images),
        "modules_alone": dict(
            zip(map(str, AT), modules_alone(joint, images, 4.0, AT), strict=True)
        ),
        "pulls": pulls(joint, Objective(**PAPER), small, {m: y[:4] for m, y in labels.items()}),
        "pulls_at_start": first,
        "shared": [asdict(d) for d in describe_scales(shared.joint, images, 4.0)],
        "absorbed": absorbed(joint),
        "gains": gains_apart(joint),
        "pooled": pooled_shares(joint, images),
        "seg_norms": watched.norms,
        "clip": trainer.config.train.gradient_clip,
        "last_fifth": last,
        "unet_aux": likeness(unet.joint, unet_images, unet_labels),
        "machine": machine(("torch",)),
    }


def describe_run(root: Path) -> list[Table]:
    """The tables of a run: correlations by scale, gradients by loss, the modules alone."""
    run = RunFolder(root)
    config: Config = run.config
    joint: Joint = load_joint(run, method_of(config))
    images, labels = slices(run, config, run.plan)
    tau = config.loss.tau
    scales = describe_scales(joint, images, tau)
    own = [(name, m) for name in ("norm", "entropy", "within") for m in images]
    rows = [
        [k, *(f"{getattr(d, name)[m]:.3g}" for name, m in own), f"{d.across:.3g}", f"{d.ratio:.2f}"]
        for k, d in enumerate(scales, 1)
    ]
    names = ("size of E", "entropy", "within")
    head = ["scale", *(f"{name}, {m}" for name in names for m in images), "between", "ratio"]
    objective = Objective(
        **{n: getattr(config.loss, n) for n in ("alpha", "beta", "gamma", "tau", "mask_absent")}
    )
    few = config.train.batch_size
    found = pulls(joint, objective, {m: x[:few] for m, x in images.items()},
                  {m: y[:few] for m, y in labels.items()})  # fmt: skip
    sums = [sum(p[i] for p in found.values()) or 1.0 for i in (0, 1)]
    shares = [
        [name, *(text for i in (0, 1) for text in (f"{p[i]:.3g}", f"{100 * p[i] / sums[i]:.0f}"))]
        for name, p in found.items()
    ]
    alone = modules_alone(joint, images, tau, AT, config.train.learning_rate)
    return [
        Table(head, rows, f"Correlations, τ = {tau:g}"),
        Table(("loss", "on the segmenter", "%", "on what is thrown away", "%"), shares,
              "Norm of the weighted gradient, and its share of the sum of norms"),
        Table(("steps", "L_icr"), [[s, f"{v:.3g}"] for s, v in zip(AT, alone, strict=True)],
              "The modules alone, the network frozen"),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, help="a run folder; without it the phantom")
    parser.add_argument("--phantom", action="store_true", help="the phantom, as without RUN")
    parser.add_argument("--data", type=Path, help="where the phantom is kept, or written")
    parser.add_argument("--write", action="store_true", help="only write the table")
    options = parser.parse_args()
    if options.run is not None:
        try:
            for table in describe_run(options.run):
                print(*table.markdown(), "", sep="\n")
        except UnpairedError as error:
            parser.exit(1, f"{error}\n")
        return
    if not options.write:
        with tempfile.TemporaryDirectory() as scratch:
            root = options.data or Path(scratch) / "phantom"
            data = write_phantom(root, {"ct": 10, "mr": 10}, level="benchmark", seed=0)
            torch.set_num_threads(1)
            found = findings(data, Path(scratch))
        write_json(STORED, found)
    write_section("findings", section(read_json(STORED)), PAGE)
    print(*section(read_json(STORED)), sep="\n")


if __name__ == "__main__":
    main()
