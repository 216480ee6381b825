"""A method: how a network is planned, fed, built, trained and asked. A comparator is one file."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unpaired.backbones import Backbone
from unpaired.config import Config
from unpaired.config.schema import ModelConfig
from unpaired.data.cache import PreparedCase
from unpaired.data.make_plan import PlanRule, make_plan
from unpaired.data.plan import Plan
from unpaired.data.plan_rules import at_least
from unpaired.data.sampling import Batch, Draws, PatchSampler
from unpaired.datasets.dataset import Dataset
from unpaired.errors import UsageError
from unpaired.losses import Prediction, Term, Terms, weigh
from unpaired.losses.objective import Labels, Outputs, Value
from unpaired.losses.segmentation import Sync, identity
from unpaired.models import Joint, Segmenter
from unpaired.names import did_you_mean

Entry = TypeVar("Entry")
One = TypeVar("One", bound="Method")


@runtime_checkable
class Criterion(Protocol):
    """What a training minimises."""

    def __call__(self, outputs: Mapping[str, Prediction], labels: Mapping[str, Tensor]) -> Terms:
        """The terms of a step, from the outputs [B Z *space] and labels [B *space] by modality."""


@runtime_checkable
class Scores(Protocol):
    """Gives the classes' scores of patches."""

    def __call__(self, image: Float[Tensor, "B K *space"], /) -> Float[Tensor, "B Z *space"]:
        """One batch of patches."""


@runtime_checkable
class Sampler(Protocol):
    """Batches as a pure function of the step."""

    @property
    def places(self) -> int:
        """Number of samples in a pass over all cases."""

    def batch(self, step: int) -> Batch:
        """The batch of this step; the same whenever it is asked for."""


@dataclass(frozen=True)
class Stream:
    """A sampler, and the spacing of its images along their spatial axes."""

    sampler: Sampler
    spacing_mm: tuple[float, ...]


@dataclass(frozen=True)
class Method(ABC):
    """What `model.name` means. The defaults are those of one network that sees patches.

    Attributes:
        added: terms of the loss beside the method's own (`with_term`).
    """

    name: ClassVar[str]
    """As in `model.name`."""
    from_scratch: ClassVar[bool] = True
    """Whether no weights file may fill its backbone (`model.pretrained`)."""
    one_pass: ClassVar[bool] = True
    """Whether one pass of one network labels a patch; else graphs (ONNX, pt2) cannot hold it."""
    sees_views: ClassVar[bool] = False
    """Whether its loss reads second views (`augment.second_view`)."""

    added: Mapping[str, Term] = field(default_factory=dict)

    # What each method says.

    @abstractmethod
    def network(self, model: ModelConfig) -> type[Backbone]:
        """The class of its backbone; `model.options` are the arguments of its constructor."""

    @abstractmethod
    def segmenter(self, config: Config, plan: Plan) -> Segmenter:
        """What is kept at test time, untrained; begins with `self.backbone(config, plan)`."""

    @abstractmethod
    def terms(self, config: Config, plan: Plan, sync: Sync = identity) -> dict[str, Term]:
        """The loss, by the names of its terms.

        Args:
            sync: sums over the processes of a distributed run.
        """

    # What most methods leave as it is.

    def plan_rule(self, config: Config) -> PlanRule | None:
        """What it plans otherwise than by the sizes of the images.

        Raises:
            UsageError: the configuration does not fit the method.
        """
        return None

    def grid_of(self, source: Plan) -> dict[str, Any]:
        """What a run that starts from another one's weights keeps of its plan."""
        names = ("spacing_mm", "slice_axis", "planes", "plane", "patch", "context", "order")
        return {name: getattr(source, name) for name in names}

    def input_shapes(self, plan: Plan) -> dict[str, tuple[int, ...]]:
        """Channels and sizes of the training images by the name of their batches."""
        return {m: (channels, *plan.patch) for m, channels in input_channels(plan).items()}

    def streams(
        self,
        config: Config,
        plan: Plan,
        cases: Mapping[str, Sequence[PreparedCase]],
        draws: Draws,
    ) -> dict[str, Stream]:
        """Where the batches of a step come from: patches of every modality."""
        foreground, spacing = config.train.foreground, plan.spacing_mm[-plan.dims :]
        return {
            m: Stream(
                PatchSampler(members, m, plan.patch, plan.context, foreground, draws), spacing
            )
            for m, members in cases.items()
        }

    def joint(self, config: Config, plan: Plan) -> Joint:
        """Training's network: the segmenter, with what only training needs beside it.

        Raises:
            UsageError: an option is unknown or does not fit the plan.
        """
        return Joint(self.segmenter(config, plan), {})

    def looking(self, scores: Scores, network: nn.Module, modality: str, plan: Plan) -> Scores:
        """How a whole image of a modality is segmented: what has no `slices` sees patch by patch.

        Args:
            scores: of patches (where the method takes more than `one_pass`, probabilities).
            network: that gives them, as it is kept.
        """
        return scores

    def remarks(self, config: Config, modalities: Sequence[str]) -> list[str]:
        """What deserves a look before a training on these modalities, a sentence each."""
        return []

    def settled(self, config: Config, cases: Mapping[str, int]) -> Config:
        """The configuration as the loss is built from it, once the training cases are known.

        Args:
            cases: number of training cases by modality.
        """
        return config

    # What is the same for all.

    def with_term(self: One, name: str, weight: float, value: Value) -> One:
        """This method with `weight * value(outputs, labels)` added to its loss.

        Args:
            name: under which the log has it.
            value: from the outputs by modality (`.logits` [B Z *space], perhaps in half
                precision) and the labels by modality [B *space], a tensor with one number. In a
                distributed run each process computes that of its own images.

        Raises:
            UsageError: the name is taken or not a word, or the weight is no number above 0.
        """
        if not name.isidentifier() or name in self.added:
            raise UsageError(
                f"the loss term {name!r} cannot be added: its name must be a word that no other "
                "term has, such as boundary"
            )
        if not (isfinite(weight) and weight > 0):
            raise UsageError(f"the weight of the loss term {name} is {weight}; give one above 0")
        return replace(self, added={**self.added, name: Term(weight, _Added(name, value))})

    def record(self) -> dict[str, Any] | None:
        """What a run must be given again to go on (method.json); None where its name says all."""
        terms = {
            name: {"weight": term.weight, "function": str(term.value)}
            for name, term in self.added.items()
        }
        return {"name": self.name, "terms": terms} if terms else None

    def size_step(self, config: Config) -> tuple[int, ...]:
        """Per axis of `data.dims`, the step of the image sizes that its backbone takes."""
        kind = self.network(config.model)
        _check_options(kind, config.model.options)
        with of_the_options(config):
            return kind.size_step(config.model.options, config.data.dims)

    def plan(
        self,
        config: Config,
        datasets: Mapping[str, Dataset],
        train: Mapping[str, Sequence[str]] | None = None,
    ) -> Plan:
        """Grid, patch and intensities for these data sets; as `make_plan` says."""
        step, rule = self.size_step(config), self.plan_rule(config)
        plan = make_plan(datasets, config.data, config.modalities, step, train=train, rule=rule)
        if config.data.patch is not None:
            return plan
        return at_least(plan, self.network(config.model).least_side(config.model.options))

    def backbone(self, config: Config, plan: Plan) -> Backbone:
        """The backbone, untrained.

        Raises:
            UsageError: an option is unknown or does not fit the plan, or a modality has a name
                that no module can have.
        """
        _check_names(plan.modalities)
        kind, options = self.network(config.model), dict(config.model.options)
        _check_options(kind, options)
        channels = max(input_channels(plan).values())
        with of_the_options(config):
            built = kind(
                image_size=plan.patch, in_channels=channels, classes=len(plan.classes), **options
            )
        if self.from_scratch and config.model.pretrained is not None:
            raise UsageError(
                f"model.pretrained fills a backbone, and model.name={config.model.name} has a "
                "network of its own. Leave it out; train.init_from starts from another run of the "
                "same kind."
            )
        return built

    def objective(self, config: Config, plan: Plan, sync: Sync = identity) -> Criterion:
        """What is minimised: the weighted sum of its terms and of the added ones.

        Raises:
            UsageError: the class weights do not match the classes, or a name is taken twice.
        """
        weights = config.loss.class_weights
        if weights is not None and len(weights) != len(plan.classes):
            raise UsageError(
                f"loss.class_weights has {len(weights)} values, but there are "
                f"{len(plan.classes)} classes: {', '.join(plan.classes)}"
            )
        if config.augment.second_view != "none" and not self.sees_views:
            raise UsageError(
                f"augment.second_view makes second views, which model.name={self.name} does not "
                "read. Set augment.second_view=none."
            )
        own = self.terms(config, plan, sync)
        if both := sorted(own.keys() & self.added.keys()):
            raise UsageError(f"the loss of {self.name} has a term {both[0]} of its own; rename it")
        terms = own | dict(self.added)
        return lambda outputs, labels: weigh(terms, outputs, labels)


@dataclass(frozen=True)
class _Added:
    """A function of a user's own as a term of the loss, at least in float32."""

    name: str
    function: Value

    def __call__(self, outputs: Outputs, labels: Labels) -> Tensor:
        number = self.function(outputs, labels)
        if not isinstance(number, Tensor) or number.numel() != 1:
            what = (
                f"a tensor of {tuple(number.shape)}" if isinstance(number, Tensor) else repr(number)
            )
            raise UsageError(
                f"the loss term {self.name} gave {what}; return a tensor with one number, such as "
                "a mean"
            )
        return number.reshape(()).to(torch.promote_types(number.dtype, torch.float32))

    def __str__(self) -> str:
        module = getattr(self.function, "__module__", "")
        return f"{module}.{getattr(self.function, '__qualname__', type(self.function).__name__)}"


def input_channels(plan: Plan) -> dict[str, int]:
    """K_m of every modality: neighbouring slices times its channels."""
    return {m: plan.context * len(part.channel_names) for m, part in plan.modalities.items()}


def entry(table: Mapping[str, Entry], name: str, key: str) -> Entry:
    """What is registered under a name.

    Raises:
        UsageError: nothing is; the sentence begins with the setting `key`.
    """
    if name not in table:
        hint = did_you_mean(name, table, most=1)
        raise UsageError(f"{key}={name!r} is unknown.{hint} Known: {', '.join(table)}.")
    return table[name]


@contextmanager
def of_the_options(config: Config) -> Iterator[None]:
    """What a constructor says of its arguments is the configuration's fault."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UsageError(f"the network {config.model.network} cannot be built: {error}") from error


def _check_names(names: Mapping[str, Any]) -> None:
    """Raise UsageError for a name that cannot be a module's."""
    for name in names:
        if not name.isidentifier() or hasattr(nn.ModuleDict(), name):
            raise UsageError(
                f"the modality name {name!r} cannot be used; choose letters, digits and "
                "underscores that do not form a reserved word, for example t1 or cbct"
            )


def _check_options(kind: type[Backbone], options: Mapping[str, Any]) -> None:
    known = kind.option_names()
    for name in options:
        if name not in known:
            hint = did_you_mean(name, known, most=1)
            raise UsageError(
                f"model.options.{name} is unknown.{hint} Known: {', '.join(sorted(known))}."
            )
