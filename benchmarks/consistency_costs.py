"""What a training step of every row of consistency_draws.py takes, against V2 on the same network.

    python benchmarks/consistency_costs.py

Forward, loss, backward and clipping of four slices a modality, and the making of second views; the
rows take turns. Writes the table of docs/consistency.md.
"""

from collections.abc import Callable

import torch

from _report import interleave, record
from consistency_draws import PAGE, ROWS, Job, Row
from unpaired.data.plan import Clip, ModalityPlan, Plan
from unpaired.data.sampling import Batch
from unpaired.data.styles import SecondViews
from unpaired.methods import method_of
from unpaired.training.distributed import Group
from unpaired.training.forecast import parameter_counts
from unpaired.training.optim import build_optimizer
from unpaired.training.step import backward, views_of

MODALITIES, SIDE = ("ct", "mr"), 96
CLASSES = ("background", "spleen", "right kidney", "left kidney", "liver")


def plan() -> Plan:
    """Of the phantom's row, without its data."""
    part = ModalityPlan(channel_names=("x",), clip=(Clip(kind="percentile", low=0.5, high=99.5),))
    return Plan(
        classes=CLASSES,
        modalities=dict.fromkeys(MODALITIES, part),
        spacing_mm=(6.0, 3.0, 3.0),
        slice_axis="S",
        patch=(SIDE, SIDE),
    )


def step_of(row: Row) -> tuple[Callable[[], object], int]:
    """A step of the row, and how many parameters it trains."""
    config = Job("phantom", row, 1, 0, 500).config()
    method, chosen = method_of(config), plan()
    torch.manual_seed(0)
    joint = method.joint(config, chosen)
    batches = {
        m: Batch(
            torch.randn(4, 3, SIDE, SIDE),
            torch.randint(len(CLASSES), (4, SIDE, SIDE)),
            ("case",) * 4,
            torch.arange(4),
        )
        for m in MODALITIES
    }
    objective = method.objective(method.settled(config, {"ct": 12, "mr": 1}), chosen)
    optimizer = build_optimizer(joint, config.train, joint.segmenter.backbone.no_decay)
    views = None
    if config.augment.second_view != "none":
        views = SecondViews("gin", 0, {})
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    images = {m: batch.image for m, batch in batches.items()}
    labels = {m: batch.label for m, batch in batches.items()}

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        outputs = joint(images, views_of(views, batches, 0))
        backward(objective(outputs, labels), joint, config.loss.cap, scaler, Group())
        torch.nn.utils.clip_grad_norm_(joint.parameters(), 1.0)
        optimizer.step()
        joint.remember(outputs, labels, lambda x: x)

    return step, parameter_counts(joint)["training"]


def main() -> None:
    torch.set_num_threads(1)
    chosen = [row for row in ROWS if not row.alone and "class styles" not in row.name]
    steps = {row.name: step_of(row) for row in chosen}
    seconds = interleave({name: step for name, (step, _) in steps.items()}, rounds=7)
    rows = [
        {
            "row": name,
            "milliseconds a step": f"{1000 * seconds[name]:.0f}",
            "of V2": f"{seconds[name] / seconds['V2']:.2f}",
            "parameters in training": f"{count:,}",
        }
        for name, (_, count) in steps.items()
    ]
    record("costs", rows, ("torch",), PAGE)


if __name__ == "__main__":
    main()
