"""Prediction of 14 classes at 512x512x300: what it costs beside the network, in time and memory.

A 1x1 network stands in, and its time is taken off. Goals: less than 10 % of the wall time outside
the network when that is the default Swin-Unet; peak memory under 1.1 GiB beside the model. The
sliding window alone runs beside MONAI's, on the same 2.5D slices with the same labels. Times are
processor seconds on one thread.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from _report import record
from resample import peak_mib
from unpaired.artifact.model import Model, probabilities
from unpaired.backbones import SwinUnet
from unpaired.backbones.base import Backbone, Decoded
from unpaired.config import Config
from unpaired.config.schema import PredictConfig
from unpaired.data.plan import Clip, ModalityPlan, Plan
from unpaired.inference.inferer import Inferer
from unpaired.inference.predictor import Predictor
from unpaired.models import Segmenter

CLASSES, SIZE, PATCH, CONTEXT, SHORT = 14, (512, 512, 300), (256, 256), 3, 16
NATIVE_MM = (0.8, 0.8, 1.5)
GRIDS = {"the image's own grid": (1.5, 0.8, 0.8), "1.5 x 1.5 x 3 mm": (3.0, 1.5, 1.5)}
CPU = torch.device("cpu")


class Pointwise(Backbone):
    """A 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.dims, self.in_channels, self.classes = 2, CONTEXT, CLASSES
        self.levels, self.multiple, self.input_layers = (), (1, 1), ("encoder",)
        self.pads_input = False
        self.encoder, self.decoder = nn.Conv2d(CONTEXT, CLASSES, 1), nn.Identity()
        with torch.no_grad():
            self.encoder.weight.mul_(4)

    def forward(self, image: Tensor, *_: object) -> Decoded:
        return Decoded(self.encoder(image), ())


class Clock:
    """Counts the seconds and patches of a network's calls."""

    def __init__(self, network: nn.Module) -> None:
        self.seconds, self.patches, self.start = 0.0, 0, 0.0
        network.register_forward_pre_hook(self.before)
        network.register_forward_hook(self.after)

    def before(self, _network: nn.Module, inputs: tuple) -> None:
        self.patches += len(inputs[0])
        self.start = time.process_time()

    def after(self, *_: object) -> None:
        self.seconds += time.process_time() - self.start


def scan() -> np.ndarray:
    """A body in air with smooth texture, int16 [i j k]."""
    rng = np.random.default_rng(0)
    i, j, k = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in SIZE)]
    body = (i**2 + (1.3 * j) ** 2 < 0.8) * np.ones_like(k)
    image = body * (1000 + 200 * np.sin(9 * i) * np.cos(7 * j + 5 * k)) - 1000
    image[...] += rng.normal(0, 8, SIZE[:2])[..., None]
    return image.astype(np.int16)


def plan_of(spacing_mm: tuple[float, float, float]) -> Plan:
    """Pictures of that spacing."""
    part = ModalityPlan(channel_names=("x",), clip=(Clip(kind="window", low=-1000, high=400),))
    return Plan(
        classes=("background", *map(str, range(1, CLASSES))),
        modalities={"x": part},
        spacing_mm=spacing_mm,
        slice_axis="S",
        patch=PATCH,
        context=CONTEXT,
    )


def predictor(spacing_mm: tuple[float, float, float]) -> Predictor:
    """With the pointwise network, on a plan of that spacing."""
    torch.manual_seed(0)
    segmenter = Segmenter(Pointwise(), {"x": CONTEXT}).eval().requires_grad_(False)
    return Predictor([Model(segmenter, plan_of(spacing_mm), Config())], CPU, precision="fp32")


def swin_seconds() -> float:
    """Seconds per patch of the default Swin-Unet, in batches of 8."""
    network = SwinUnet(PATCH, CONTEXT, CLASSES).eval()
    batch, seconds = torch.randn(8, CONTEXT, *PATCH), []
    with torch.no_grad():
        for _ in range(4):
            start = time.process_time()
            network(batch)
            seconds.append(time.process_time() - start)
    return statistics.median(seconds[1:]) / len(batch)


def whole(name: str, spacing_mm: tuple[float, float, float], patch_s: float) -> dict[str, object]:
    """One row: an image in memory -> labels on its grid."""
    predict, image = predictor(spacing_mm), scan()
    result: list[np.ndarray] = []

    def job() -> None:
        result[:] = [predict.predict(image, "x", spacing_mm=NATIVE_MM).labels]

    memory = peak_mib(job)
    clock = Clock(predict.models[0].segmenter)
    start = time.process_time()
    job()
    outside = time.process_time() - start - clock.seconds
    assert result[0].shape == SIZE and result[0].any()
    inside = clock.patches * patch_s
    share = outside / (outside + inside)
    print(f"{name}: {outside:.1f} s beside {clock.patches} patches, {share:.1%}, {memory:.0f} MiB")
    return {
        "prepared grid": name,
        "patches": clock.patches,
        "outside the network, s": outside,
        "Swin-Unet at this speed, s": inside,
        "share outside": f"{100 * share:.1f} %",
        "peak MiB beside the model": memory,
    }


def near(image: np.ndarray, i: int) -> np.ndarray:
    """Slice `i` with its neighbours as channels, the edge repeated."""
    places = np.arange(i - CONTEXT // 2, i + CONTEXT // 2 + 1).clip(0, image.shape[1] - 1)
    return image[:, places].reshape(-1, *image.shape[2:])


def monai_labels(network: nn.Module, image: np.ndarray) -> np.ndarray:
    """MONAI's sliding window over the slices as a batch, then the arg max."""
    stack = np.stack([near(image, i) for i in range(image.shape[1])])
    with torch.no_grad():
        scores = sliding_window_inference(
            torch.from_numpy(stack), PATCH, 8, network, overlap=0.5, mode="gaussian"
        )
        assert isinstance(scores, Tensor)
        return scores.softmax(1).argmax(1).to(torch.uint8).numpy()


def monai_slices(network: nn.Module, image: np.ndarray) -> np.ndarray:
    """The same, slice by slice: slower or not, it needs little memory."""
    found = np.empty(image.shape[1:], np.uint8)
    for i in range(image.shape[1]):
        stack = torch.from_numpy(near(image, i))[None]
        with torch.no_grad():
            scores = sliding_window_inference(
                stack, PATCH, 8, network, overlap=0.5, mode="gaussian"
            )
        assert isinstance(scores, Tensor)
        found[i] = scores.softmax(1).argmax(1)[0].numpy()
    return found


def our_labels(network: nn.Module, image: np.ndarray) -> np.ndarray:
    """Our sliding window with a running maximum."""
    plan = plan_of(NATIVE_MM)
    return Inferer(probabilities(network), plan, PredictConfig(), CPU).labels(image)


def against_monai() -> list[dict[str, object]]:
    """Rows: the prepared grid only, SHORT slices, so that MONAI's scores fit the memory."""
    torch.manual_seed(0)
    network = nn.Conv2d(CONTEXT, CLASSES, 1)
    with torch.no_grad():
        network.weight.mul_(4)
    image = np.random.default_rng(0).normal(size=(1, SHORT, *SIZE[:2])).astype(np.float32)
    jobs: dict[str, Callable[[], np.ndarray]] = {
        "MONAI, all slices as a batch": lambda: monai_labels(network, image),
        "MONAI, slice by slice": lambda: monai_slices(network, image),
        "ours": lambda: our_labels(network, image),
    }
    ours = jobs["ours"]()
    for name, job in jobs.items():
        # The weighted sums are taken in another order: exact ties aside the labels are equal.
        assert (job() != ours).mean() < 1e-5, name
    memory = {name: peak_mib(job) for name, job in jobs.items()}
    clock = Clock(network)
    outside: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(5):
        for name, job in jobs.items():
            clock.seconds, start = 0.0, time.process_time()
            job()
            outside[name].append(time.process_time() - start - clock.seconds)
    seconds = {name: statistics.median(values) for name, values in outside.items()}
    rows = [
        {
            f"sliding window, {SHORT} slices": name,
            "outside the network, ms a slice": 1e3 * seconds[name] / SHORT,
            "times ours": seconds[name] / seconds["ours"],
            "peak MiB": memory[name],
        }
        for name in jobs
    ]
    for line in rows:
        print(line)
    return rows


def run() -> None:
    """Measure, assert, record."""
    torch.set_num_threads(1)
    record("sliding window", against_monai(), ("torch", "numpy", "monai"))
    patch_s = swin_seconds()
    record("predict", [whole(name, grid, patch_s) for name, grid in GRIDS.items()])


if __name__ == "__main__":
    run()
