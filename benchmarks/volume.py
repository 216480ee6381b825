"""Prediction by a network of volumes: 14 classes at 512x512x300, patches of 64x128x128.

A 1x1x1 network stands in, and its time is taken off. Goal: peak memory under 1.1 GiB beside the
model. The sliding window alone runs beside MONAI's on the same image: same patch, overlap and
Gaussian weights. Times are processor seconds on one thread.
"""

import time

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from _report import record
from predict import CLASSES, NATIVE_MM, SIZE, Clock, scan
from resample import peak_mib
from unpaired.artifact.model import Model, probabilities
from unpaired.backbones.base import Backbone, Decoded
from unpaired.config import Config
from unpaired.config.schema import PredictConfig
from unpaired.data.plan import Clip, ModalityPlan, Plan
from unpaired.inference.inferer import Inferer
from unpaired.inference.predictor import Predictor
from unpaired.models import Segmenter

PATCH, OVERLAP, BATCH = (64, 128, 128), 0.5, 1
LENGTHS = (100, 200, 300)
CPU = torch.device("cpu")


class Pointwise(Backbone):
    """A 1x1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.dims, self.in_channels, self.classes = 3, 1, CLASSES
        self.levels, self.multiple, self.input_layers = (), (1, 1, 1), ("encoder",)
        self.pads_input = False
        self.encoder, self.decoder = pointwise(), nn.Identity()

    def forward(self, image: Tensor, *_: object) -> Decoded:
        return Decoded(self.encoder(image), ())


def pointwise() -> nn.Conv3d:
    """Scores that differ clearly from class to class."""
    torch.manual_seed(0)
    network = nn.Conv3d(1, CLASSES, 1).requires_grad_(False)
    network.weight.mul_(4)
    return network


def plan() -> Plan:
    """Of the image's own grid."""
    part = ModalityPlan(channel_names=("x",), clip=(Clip(kind="window", low=-1000, high=400),))
    return Plan(
        classes=("background", *map(str, range(1, CLASSES))),
        modalities={"x": part},
        spacing_mm=(NATIVE_MM[2], *NATIVE_MM[:2]),
        slice_axis="S",
        patch=PATCH,
        context=1,
    )


def predictor() -> Predictor:
    """With the pointwise network."""
    segmenter = Segmenter(Pointwise(), {"x": 1}).eval().requires_grad_(False)
    return Predictor([Model(segmenter, plan(), Config())], CPU, precision="fp32", batch_size=BATCH)


def whole(slices: int) -> dict[str, object]:
    """One row: an image in memory -> labels on its grid."""
    predict, image = predictor(), scan()[..., :slices]
    found: list[np.ndarray] = []

    def job() -> None:
        found[:] = [predict.predict(image, "x", spacing_mm=NATIVE_MM).labels]

    memory = peak_mib(job)
    held = (4 + 1) * image.size / 2**20  # the prepared image and the labels
    print(f"{slices} slices: {memory:.0f} MiB, of which image and labels {held:.0f}")
    return {
        "scan": f"{SIZE[0]} x {SIZE[1]} x {slices}",
        "peak MiB beside the model": memory,
        "of which prepared image and labels": held,
        "the sliding window's own": memory - held,
    }


def ours(network: nn.Module, image: np.ndarray) -> np.ndarray:
    """Our sliding window with its ring."""
    settings = PredictConfig(overlap=OVERLAP, batch_size=BATCH)
    return Inferer(probabilities(network), plan(), settings, CPU).labels(image)


def monai(network: nn.Module, image: np.ndarray) -> np.ndarray:
    """MONAI's sliding window over the whole volume, then the arg max."""
    with torch.no_grad():
        scores = sliding_window_inference(
            torch.from_numpy(image)[None], PATCH, BATCH, lambda x: network(x).softmax(1),
            overlap=OVERLAP, mode="gaussian",
        )  # fmt: skip
        assert isinstance(scores, Tensor)
        return scores[0].argmax(0).to(torch.uint8).numpy()


def against_monai() -> list[dict[str, object]]:
    """Rows: the prepared grid only."""
    network = pointwise()
    image = np.random.default_rng(0).normal(size=(1, SIZE[2], *SIZE[:2])).astype(np.float32)
    jobs = {"MONAI": lambda: monai(network, image), "ours": lambda: ours(network, image)}
    clock, seconds, labels = Clock(network), {}, {}
    for name, job in jobs.items():
        clock.seconds, start = 0.0, time.process_time()
        labels[name] = job()
        seconds[name] = time.process_time() - start - clock.seconds
    agreement = float((labels["MONAI"] == labels["ours"]).mean())
    # Scores that are nearly equal may fall either way: the ring is in half precision here.
    assert agreement > 0.999
    memory = {name: peak_mib(job) for name, job in jobs.items()}
    rows = [
        {
            f"sliding window, {CLASSES} classes, {SIZE[0]} x {SIZE[1]} x {SIZE[2]}": name,
            "outside the network, s": seconds[name],
            "times ours": seconds[name] / seconds["ours"],
            "peak MiB": memory[name],
            "labels as MONAI": f"{100 * (labels[name] == labels['MONAI']).mean():.3f} %",
        }
        for name in jobs
    ]
    for row in rows:
        print(row)
    return rows


def run() -> None:
    """Measure, assert, record."""
    torch.set_num_threads(1)
    record("volume sliding window", against_monai(), ("torch", "numpy", "monai"))
    record("volume", [whole(slices) for slices in LENGTHS])


if __name__ == "__main__":
    run()
