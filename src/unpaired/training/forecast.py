"""What a training will need, said before it starts: parameters, memory, time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter

import psutil
import torch
from torch import Tensor, nn

from unpaired.config import Config
from unpaired.config.schema import ModalityConfig
from unpaired.data.augment import augment
from unpaired.data.plan import Plan
from unpaired.data.sampling import Batch
from unpaired.data.styles import SecondViews, seen_as
from unpaired.datasets.dataset import Dataset
from unpaired.device import autocast, autocast_dtype, find_device, resident_bytes
from unpaired.methods import method_of
from unpaired.models import Joint, View
from unpaired.training.distributed import Group
from unpaired.training.optim import build_optimizer
from unpaired.training.step import backward, views_of
from unpaired.training.threads import (
    LONG_SECONDS,
    choose,
    free_to_choose,
    step_seconds,
    typical_seconds,
)

STATE_BYTES = {"adamw": 16, "sgd": 12}
"""Per parameter: weight, gradient, and the optimiser's moments, in float32."""

# Of a step: slower ones are not repeated, but reckoned from one image.
_WHOLE_SECONDS = 8.0


@dataclass(frozen=True)
class Forecast:
    """Estimates: memory from one image per modality, time from full batches where they are quick.

    Attributes:
        memory_bytes: of the GPU, or on the CPU of the whole process as the system counts it.
        memory_available_bytes: free, or held by this process already.
    """

    training_parameters: int
    test_parameters: int
    memory_bytes: int
    memory_available_bytes: int
    seconds_per_step: float
    device: str
    by_threads: Mapping[int, float] = field(default_factory=dict)
    """Seconds of a step by the number of threads, where that was measured."""

    @property
    def threads(self) -> int | None:
        """The number to train with; None where it was not measured."""
        return choose(self.by_threads) if self.by_threads else None


def forecast(config: Config, plan: Plan, threads: bool = False) -> Forecast:
    """Build the network and take it once forward and back. Global randomness stays as it was.

    Args:
        threads: where the training will be long and their number is open, find the best one.
    """
    device = find_device(config.train.device)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        joint = method_of(config).joint(config, plan).to(device)
        saved = _saved_bytes(config, plan, joint, device)  # also warms up
        # Made, it loads a good part of torch; stepped, it would only add what `state` counts.
        build_optimizer(joint, config.train, joint.segmenter.backbone.no_decay)
        process = resident_bytes() if device.type == "cpu" else 0
        began = perf_counter()
        _step(config, plan, joint, device)
        seconds = (perf_counter() - began) * config.train.batch_size
        counts = parameter_counts(joint)
        state = counts["training"] * STATE_BYTES[config.train.optimizer]
        memory = process + state + saved * config.train.batch_size
        available = _available(device) + process
        long = seconds * config.train.steps > LONG_SECONDS
        by_threads: dict[int, float] = {}
        if seconds < _WHOLE_SECONDS and memory < available:
            step, images = whole_step(config, plan, joint, device), config.train.batch_size
        else:
            step, images = (lambda: _step(config, plan, joint, device)), 1
        if threads and long and free_to_choose(config, device):
            found = step_seconds(step)
            by_threads = {n: s * config.train.batch_size / images for n, s in found.items()}
            seconds = by_threads[choose(by_threads)]
        elif images > 1:
            seconds = typical_seconds(step)
    return Forecast(
        counts["training"],
        counts["test"],
        memory,
        available,
        seconds,
        device.type,
        by_threads,
    )


def whole_step(
    config: Config, plan: Plan, joint: Joint, device: torch.device
) -> Callable[[], None]:
    """A step as the trainer takes it: full batches, augmented, clipped gradients, an update."""
    method, options = method_of(config), config.train
    objective = method.objective(config, plan)
    optimizer = build_optimizer(joint, options, joint.segmenter.backbone.no_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    views = None
    if config.augment.second_view != "none":
        views = SecondViews("gin", options.seed, {})
    count = options.batch_size
    positions, cases = torch.arange(count), ("",) * count
    batches = {
        name: Batch(
            torch.randn(count, *shape),
            torch.randint(len(plan.classes), (count, *shape[1:])),
            cases,
            positions,
        )
        for name, shape in method.input_shapes(plan).items()
    }

    def step() -> None:
        made = {
            name: augment(
                batch.to(device), config.augment, (False,) * plan.dims, options.seed, name
            )
            for name, batch in batches.items()
        }
        images, shown = {name: b.image for name, b in made.items()}, views_of(views, made, 0)
        with autocast(device, autocast_dtype(options.precision, device)):
            outputs = joint(images, shown) if shown else joint(images)
        labels = {name: batch.label for name, batch in made.items()}
        optimizer.zero_grad(set_to_none=True)
        backward(objective(outputs, labels), joint, config.loss.cap, scaler, Group())
        if options.gradient_clip is not None:
            nn.utils.clip_grad_norm_(joint.parameters(), options.gradient_clip)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def _step(config: Config, plan: Plan, joint: nn.Module, device: torch.device) -> None:
    """Forward, objective and backward for one image per modality."""
    assert isinstance(joint, Joint)
    method = method_of(config)
    shapes = method.input_shapes(plan)
    images = {name: torch.randn(1, *shape, device=device) for name, shape in shapes.items()}
    labels = {
        name: torch.randint(len(plan.classes), (1, *shape[1:]), device=device)
        for name, shape in shapes.items()
    }
    views = None
    if config.augment.second_view != "none":
        others = seen_as(list(images), 0)
        views = {m: View(others[m], image) for m, image in images.items()}
    with autocast(device, autocast_dtype(config.train.precision, device)):
        outputs = joint(images, views) if views else joint(images)
    terms = method.objective(config, plan)(outputs, labels)
    backward(
        terms, joint, config.loss.cap, torch.amp.GradScaler(device.type, enabled=False), Group()
    )
    joint.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _saved_bytes(config: Config, plan: Plan, joint: nn.Module, device: torch.device) -> int:
    """Bytes that one image per modality keeps for the backward pass, parameters not counted."""
    own = {p.untyped_storage().data_ptr() for p in joint.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        _step(config, plan, joint, device)
    return sum(kept.values())


def parameter_counts(joint: Joint) -> dict[str, int]:
    """What is trained, and what is kept at test time (gains not counted)."""
    return {
        "training": sum(p.numel() for p in joint.parameters()),
        "test": sum(p.numel() for p in joint.segmenter.parameters()),
    }


def _available(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


# What a training on data sets would need, before anything is prepared.


def training_needs(
    config: Config, datasets: Mapping[str, Dataset], bad: Mapping[str, set[str]]
) -> tuple[Plan, Forecast]:
    """The plan's grid and patch, and what a step on it takes.

    The intensities are not read again: the plan's windows are not those of a training.

    Args:
        bad: case ids that cannot be read, by modality.

    Raises:
        DataError: no case is left, or no class is shared.
        UsageError: the configuration does not fit the data.
    """
    good = {
        modality: replace(
            dataset,
            cases=tuple(c for c in dataset.cases if c.label and c.id not in bad.get(modality, ())),
        )
        for modality, dataset in datasets.items()
    }
    quick = {modality: ModalityConfig(clip="percentile") for modality in good}
    plan = method_of(config).plan(config.model_copy(update={"modalities": quick}), good)
    return plan, forecast(config, plan)
