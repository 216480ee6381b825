"""A Swin-Unet of a few thousand parameters, with plans and files to go with it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor, nn

from unpaired.artifact.model import Model
from unpaired.backbones.base import Backbone, Decoded
from unpaired.config import Config, load_config
from unpaired.data.plan import Clip, ModalityPlan, Plan
from unpaired.inference.predictor import Predictor
from unpaired.methods import method_of
from unpaired.models import Segmenter, gains_form

SMALL = {"embed_dim": 12, "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2], "window": 4}


def tiny_config(variant: str = "V3", *more: str) -> Config:
    options = [f"model.options.{name}={value}" for name, value in SMALL.items()]
    extra = [f"model.variant={variant}", "model.heads=4", "train.precision=fp32"]
    return load_config(None, None, [*options, *extra, *more])


def tiny_plan(
    classes: tuple[str, ...] = ("background", "liver", "spleen"),
    modalities: tuple[str, ...] = ("ct", "mr"),
    spacing_mm: tuple[float, float, float] = (3.0, 2.0, 2.0),
    channels: int = 1,
) -> Plan:
    clip = Clip(kind="percentile", low=0.5, high=99.5)
    part = ModalityPlan(
        channel_names=tuple(f"channel {k}" for k in range(channels)), clip=(clip,) * channels
    )
    return Plan(
        classes=classes,
        modalities=dict.fromkeys(modalities, part),
        spacing_mm=spacing_mm,
        slice_axis="S",
        patch=(32, 32),
    )


def tiny_segmenter(config: Config, plan: Plan, seed: int = 0) -> Segmenter:
    """Random weights, perturbed so that nothing is zero or the identity, gains included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        joint = method_of(config).joint(config, plan)
        with torch.no_grad():
            for parameter in joint.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return gains_form(joint).eval()


def write_model(
    folder: Path, plan: Plan | None = None, config: Config | None = None, seed: int = 0
) -> Segmenter:
    plan, config = plan or tiny_plan(), config or tiny_config()
    segmenter = tiny_segmenter(config, plan, seed)
    Model(segmenter, plan, config).save(folder, {"steps": 3})
    return segmenter


class Pointwise(Backbone):
    """One 1x1 convolution: whatever a tiling or a batch does, a voxel's scores stay the same.

    With a larger kernel it sees which way the rows and columns run.
    """

    def __init__(self, in_channels: int, classes: int, seed: int = 0, kernel: int = 1) -> None:
        super().__init__()
        self.dims, self.in_channels, self.classes = 2, in_channels, classes
        self.levels, self.multiple, self.input_layers = (), (1, 1), ("encoder",)
        self.pads_input = False
        self.encoder, self.decoder = (
            nn.Conv2d(in_channels, classes, kernel, padding="same"),
            nn.Identity(),
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.encoder.parameters():
                parameter.copy_(2 * torch.randn(parameter.shape, generator=generator))

    def forward(
        self, image: Tensor, gains: object = None, encoder: nn.Module | None = None
    ) -> Decoded:
        return Decoded(self.encoder(image), ())


def pointwise_model(plan: Plan, seed: int = 0, kernel: int = 1) -> Model:
    channels = {m: plan.context * len(part.channel_names) for m, part in plan.modalities.items()}
    backbone = Pointwise(max(channels.values()), len(plan.classes), seed, kernel)
    segmenter = Segmenter(backbone, channels).eval().requires_grad_(False)
    return Model(segmenter, plan, tiny_config(), Path(f"model {seed}"), f"{seed:064d}")


def pointwise_predictor(plan: Plan, *seeds: int) -> Predictor:
    return Predictor([pointwise_model(plan, seed) for seed in seeds or (0,)], torch.device("cpu"))


def smooth_image(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """int16 [i j k]: a bright blob with texture in air; never symmetric."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    blob = (((grid - np.array([0.1, -0.2, 0.15])[:, None, None, None]) ** 2).sum(0) < 0.8) * 400.0
    wave = 150 * np.sin(4 * grid[0] + 1) + 120 * np.cos(5 * grid[1]) + 90 * grid[2]
    return (blob + (blob > 0) * wave + rng.normal(0, 20, shape)).astype(np.int16)


def write_nifti(
    path: Path, array: np.ndarray, affine: np.ndarray, qform: np.ndarray | None = None
) -> Path:
    """With codes 1 and 2 and, where given, another qform."""
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 2)
    image.set_qform(affine if qform is None else qform, 1)
    image.header.set_xyzt_units("mm", "sec")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path
