"""The run configuration: typed, frozen, unknown keys refused. Every field says what it is."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from unpaired.config.explain import checked, merge
from unpaired.config.section import (
    Fraction,
    NotNegative,
    Option,
    Positive,
    Section,
    Size,
    ordered,
)


class DataConfig(Section):
    """How images are brought to one grid, cut into patches, and split."""

    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Classes to segment, by name; the others are background. none: all the modalities share."""
    spacing_mm: tuple[Positive, Positive, Positive] | None = None
    """Target spacing (slice, row, column) in mm; none: the median over the cases."""
    slice_axis: Literal["auto", "S", "P", "L"] = "auto"
    """Axis that slices are stacked along: S axial, P coronal, L sagittal; auto: the coarsest."""
    dims: Literal[2, 3] = 2
    """2: slice by slice, with neighbouring slices as channels; 3: volumes."""
    patch: tuple[Size, Size] | tuple[Size, Size, Size] | None = None
    """Rows and columns of a training patch (in 3D slices first); none: chosen from the images."""
    plane: tuple[Size, Size] | None = None
    """Rows and columns that slices are cut or padded to for training; none: left whole."""
    context: Annotated[int, Field(ge=1, le=15)] = 3
    """Neighbouring slices the network sees at once in 2D; odd. The middle one is labelled."""
    split: tuple[Fraction, Fraction, Fraction] = (0.7, 0.1, 0.2)
    """Shares of the patients for training, validation and test."""
    split_seed: int = 0
    """Seed of the random split."""
    splits: str | None = None
    """File splits_final.json to use instead of a random split."""
    fold: Annotated[int, Field(ge=0)] = 0
    """Entry of the splits file to train on."""
    cases: dict[str, Size] = Field(default_factory=dict)
    """Modality = number of cases to draw, by split_seed, before the split; the others: all."""
    few_shot: dict[str, Size] = Field(default_factory=dict)
    """Modality = number of training cases to keep, drawn at random; the other parts stay."""
    few_shot_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the few-shot draw."""
    interpolation: Literal[0, 1, 3] = 3
    """Spline order for images: 0 nearest, 1 linear, 3 cubic."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that prepare cases; 0: all in this process."""

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        if self.context % 2 == 0:
            raise ValueError(f"context must be odd (1, 3, 5, ..), got {self.context}")
        if self.patch is not None and len(self.patch) != self.dims:
            raise ValueError(f"patch needs {self.dims} numbers where dims is {self.dims}")
        if abs(sum(self.split) - 1) > 1e-6:
            raise ValueError(f"split must sum to 1, got {sum(self.split):g}")
        return self


class ModalityConfig(Section):
    """How the intensities of one modality are treated."""

    clip: Literal["auto", "window", "percentile", "none"] = "auto"
    """window: fixed limits; percentile: per volume; none; auto: window for CT channels."""
    low: float | None = None
    """Lower limit: an intensity for window, percent for percentile; none: from the data."""
    high: float | None = None
    """Upper limit: an intensity for window, percent for percentile; none: from the data."""
    zscore: Literal["volume", "dataset"] = "volume"
    """Mean and deviation from each volume, or from all training volumes together."""
    plane_centre: Literal["image", "labels"] = "image"
    """Middle of data.plane: the image's, or the mean position of its labelled voxels."""
    slices: Literal["all", "labelled"] = "all"
    """Slices kept for training: all, or from the first to the last that holds a class."""

    @model_validator(mode="after")
    def _check(self) -> "ModalityConfig":
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high are given together or not at all")
        if self.low is None or self.high is None:
            return self
        if self.clip in ("auto", "none"):
            raise ValueError('low and high need clip = "window" or clip = "percentile"')
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")
        if self.clip == "percentile" and not 0 <= self.low < self.high <= 100:
            raise ValueError("percentiles lie between 0 and 100")
        return self


class ModelConfig(Section):
    """The network."""

    name: str = "consistency"
    """Method: consistency (the paper's), or a comparator: ummkd, valindria, payer."""
    backbone: str = "swin_unet"
    """Name of the backbone; a comparator has its own network."""
    variant: Literal["V1", "V2", "V3"] = "V3"
    """V1: an encoder per modality; V2: all shared; V3: all shared, channels scaled per modality."""
    norms: Literal["shared", "private"] = "shared"
    """private: scale, shift and statistics of every norm are a modality's own."""
    scaling_at_test: bool = True
    """Keep the modality's channel scaling in the exported model (V3 only)."""
    heads: Size = 8
    """Heads of each External Attention Module."""
    maps: Literal["raw", "scaled", "mean"] = "raw"
    """Maps A: raw as in the paper; divided by the root of the width; mean: and over the heads."""
    modules: Literal["private", "shared"] = "private"
    """External Attention Modules per modality, or one chain for all; embeddings stay private."""
    options: dict[str, Option] = Field(default_factory=dict)
    """Arguments of the network's constructor, such as embed_dim or window."""
    pretrained: str | None = None
    """Weights file to start the backbone from."""
    shared_embeddings: bool = False
    """One set of class embeddings for all modalities: the control for what separate sets give."""

    @property
    def network(self) -> str:
        """What the network is called: its backbone's name, or the comparator's."""
        return self.backbone if self.name == "consistency" else self.name

    @property
    def trained_as(self) -> str:
        """The variant, or which comparator it is."""
        own = self.name == "consistency"
        return f"variant {self.variant}" if own else f"comparator {self.name}"


class LossConfig(Section):
    """Weights of the objective."""

    alpha: NotNegative = 0.4
    """Weight of the auxiliary segmentation loss; 0 builds no auxiliary heads."""
    beta: NotNegative = 0.1
    """Weight of the consistency of class embeddings between modalities."""
    gamma: NotNegative = 0.1
    """Weight of the consistency of semantic correlations between images."""
    tau: Positive = 32.0
    """Temperature of the correlation consistency; the paper's is 4 (docs/decisions.md)."""
    ce: NotNegative = 1.0
    """Weight of the cross-entropy in each segmentation loss."""
    dice: NotNegative = 1.0
    """Weight of the Dice loss in each segmentation loss."""
    dice_background: bool = True
    """Count the background in the Dice loss."""
    class_weights: tuple[NotNegative, ...] | None = None
    """Cross-entropy weight per class, background first; none: all equal."""
    aux_target: Literal["label", "logits"] = "label"
    """Compare at the map's size (label brought down) or at full size (logits brought up)."""
    mask_absent: bool = True
    """Leave classes absent from a slice out of the correlation consistency; the paper does not."""
    consistency: Literal["paper", "guided", "views", "prototypes", "distill"] = "paper"
    """Form of the consistency between modalities; all but the paper's: docs/consistency.md."""
    rich: str | None = None
    """Modality that guided and prototypes hold fixed; none: the one of most training cases."""
    ramp: Fraction = 0.3
    """Share of the steps in which the weight of guided, views or prototypes rises."""
    cap: Positive | None = 0.3
    """Largest gradient of guided, views or prototypes, as a share of the other losses'."""
    view_weight: NotNegative = 0.5
    """Weight of the segmentation loss of second views (augment.second_view)."""
    distill: NotNegative = 0.5
    """Weight of the distillation between modalities (comparator ummkd, consistency distill)."""
    distill_tau: Positive = 2.0
    """Temperature of that distillation."""


class LocateConfig(Section):
    """Finding the structures before segmenting them (model.name = payer)."""

    coarse_mm: Positive = 10.0
    """Size that the cells of the coarse view of the whole image come close to, in mm."""
    sigma_mm: Positive = 20.0
    """Width of the Gaussian of the heat map, in mm."""
    margin_mm: NotNegative = 20.0
    """Room on each side of the largest box of the training cases in the crop, in mm."""
    jitter_mm: NotNegative = 10.0
    """Largest shift of a training crop's centre, along each axis both ways, in mm."""
    weight: NotNegative = 1.0
    """Weight of the heat map's squared error."""


class TrainConfig(Section):
    """Optimisation."""

    steps: Size = 20000
    """Optimisation steps in all; raised, a run goes on, at its end too."""
    batch_size: Size = 12
    """Images per modality in a step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum."""
    learning_rate: Positive = 5e-4
    """Highest learning rate."""
    weight_decay: NotNegative = 0.01
    """Weight decay; embeddings, norms and biases have none."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    schedule: Literal["cosine", "poly"] = "cosine"
    """How the learning rate falls to zero: half a cosine, or (1 - t)^0.9."""
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    """Steps of linear warm-up."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the moving mean of the weights that is validated and kept, such as 0.99; 0: none."""
    fused: bool = False
    """AdamW in one kernel: faster, and other in the last digits."""
    gradient_clip: Positive | None = 1.0
    """Largest norm of the gradient; none: not clipped."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the forward pass; auto: what the device does well."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: CUDA if there is one."""
    threads: Size | None = None
    """CPU threads; none: as many as torch takes."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of weights, sampling and augmentation."""
    steps_per_epoch: Size | None = None
    """Steps between validations; none: one pass over the longest modality."""
    foreground: Fraction = 0.33
    """Share of samples drawn from slices that hold a chosen class."""
    keep: Literal["auto", "last", "best"] = "auto"
    """Weights kept: the last, or the best by smoothed score; auto: last, unless early_stop."""
    early_stop: Size | None = None
    """Stop after so many epochs without gain of the smoothed score; none: never."""
    max_minutes: Positive | None = None
    """Stop, resumable, after so many minutes; none: never."""
    pace_minutes: Positive | None = None
    """What the steps should take: after the warm-up they are counted anew; none: `steps` stays."""
    heartbeat_seconds: Positive = 60.0
    """Without a sign of life for so long, a worker or another process counts as stalled."""
    log_every: Size = 10
    """Steps between log lines."""
    deterministic: bool = False
    """Only algorithms whose result never varies, also on a GPU."""
    init_from: str | None = None
    """Run folder whose weights to start from."""
    prefetch: Annotated[int, Field(ge=0)] = 1
    """Batches drawn ahead in a thread; 0: none."""


class AugmentConfig(Section):
    """Random changes of training images. Numbers are largest changes; pairs are (low, high)."""

    probability: Fraction = 0.5
    """Chance of each change, per image."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 15.0
    """Rotation in the plane, both ways."""
    scale: tuple[Positive, Positive] = (0.85, 1.2)
    """Range of the zoom factor."""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Shift as a fraction of the patch, both ways."""
    mirror: Literal["auto", "none"] = "auto"
    """auto: mirror where no class has a left or right twin."""
    gain: tuple[Positive, Positive] = (0.85, 1.15)
    """Range of the factor on intensities."""
    offset: NotNegative = 0.1
    """Offset of intensities, in standard deviations, both ways."""
    gamma: tuple[Positive, Positive] = (0.8, 1.25)
    """Range of the gamma exponent."""
    noise: NotNegative = 0.05
    """Largest deviation of added noise, in standard deviations of the volume."""
    blur_sigma: Annotated[float, Field(ge=0, le=10)] = 0.8
    """Largest width of the blur in pixels."""
    gin: Annotated[float, Field(ge=0, le=0.3)] = 0.0
    """Chance that a random intensity network changes an image."""
    second_view: Literal["none", "gin", "classes"] = "none"
    """Each image once more in another style: of a random network, or of another modality's case."""

    @model_validator(mode="after")
    def _check(self) -> "AugmentConfig":
        for name in ("scale", "gain", "gamma"):
            ordered(name, getattr(self, name))
        return self


class PredictConfig(Section):
    """From image to labels."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Overlap of neighbouring tiles."""
    batch_size: Size = 8
    """Tiles in one forward pass."""
    mirror: Literal["auto", "none"] = "none"
    """auto: mean over the mirrorings that training used, at 2, 4 or 8 times the time."""
    largest_component: tuple[str, ...] = ()
    """Classes of which only the largest connected piece is kept."""


class EvaluateConfig(Section):
    """Scores."""

    tolerance_mm: NotNegative | dict[str, NotNegative] = 2.0
    """Tolerance of the normalised surface distance, one number or one per class."""


class Config(Section):
    """The whole configuration of a run."""

    data: DataConfig = Field(default_factory=DataConfig)
    """Grid, patches, split."""
    modalities: dict[str, ModalityConfig] = Field(default_factory=dict)
    """One table per modality that needs other than the default treatment."""
    model: ModelConfig = Field(default_factory=ModelConfig)
    """Network."""
    loss: LossConfig = Field(default_factory=LossConfig)
    """Objective."""
    locate: LocateConfig = Field(default_factory=LocateConfig)
    """Localisation before segmentation."""
    train: TrainConfig = Field(default_factory=TrainConfig)
    """Optimisation."""
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    """Augmentation."""
    predict: PredictConfig = Field(default_factory=PredictConfig)
    """Prediction."""
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    """Evaluation."""

    def replace(self, **tables: Mapping[str, Any]) -> "Config":
        """A configuration with some settings changed: `replace(train={"steps": 5000})`.

        As in a file, another method or backbone drops the network's options.

        Raises:
            UsageError: an unknown table or key (with what was meant), or a wrong value.
        """
        return checked(Config, merge(self.model_dump(), tables), "the configuration")
