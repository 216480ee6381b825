"""What each backbone costs with and without the External Attention Modules: docs/backbones.md.

One step is forward, objective and backward for one image of each of two modalities, in float32 and
in bfloat16 where the processor computes in it. "With" is V3 with every loss; "without" is the plain
network with the segmentation loss. At test time the modules are gone. FLOPs are torch's count of
matrix products and convolutions in one forward pass (two per multiplication and addition).

    python benchmarks/backbones.py [NAME ...]
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from _report import interleave, record
from unpaired.config import Config, load_config
from unpaired.data.plan import Clip, ModalityPlan, Plan
from unpaired.methods import input_channels, method_of
from unpaired.models import fold, gains_form

PAGE = Path(__file__).resolve().parents[1] / "docs" / "backbones.md"
CLASSES = ("background", "spleen", "right kidney", "left kidney", "liver")
PICTURE, VOLUME = (256, 256), (32, 96, 96)
ROWS: dict[str, tuple[str, tuple[int, ...], list[str]]] = {
    "Swin-Unet": ("swin_unet", PICTURE, []),
    "ResEnc U-Net, 2D": ("resenc_unet", PICTURE, []),
    "nnFormer, Synapse size": ("nnformer", VOLUME, []),
    "ResEnc U-Net, 3D": ("resenc_unet", VOLUME, []),
    "Swin-Unet, 3D": ("swin_unet", VOLUME, ["model.options.patch=[2, 4, 4]"]),
    "MONAI SwinUNETR": ("monai_swin_unetr", VOLUME, []),
    "MONAI UNETR": ("monai_unetr", VOLUME, []),
    "MONAI DynUNet": ("monai_dynunet", VOLUME, []),
    "MONAI SegResNet": ("monai_segresnet", VOLUME, []),
}
ALONE = ["model.variant=V2", "loss.alpha=0", "loss.beta=0", "loss.gamma=0"]


def config_of(backbone: str, size: tuple[int, ...], options: list[str], more: list[str]) -> Config:
    """Defaults of the backbone, two modalities of one channel."""
    base = [f"model.backbone={backbone}", f"data.dims={len(size)}"]
    return load_config(None, None, [*base, *options, *more])


def plan_of(size: tuple[int, ...]) -> Plan:
    """Pictures are three slices, volumes one channel."""
    part = ModalityPlan(channel_names=("x",), clip=(Clip(kind="percentile", low=1, high=99),))
    return Plan(
        classes=CLASSES, modalities={"a": part, "b": part}, spacing_mm=(3.0, 1.5, 1.5),
        slice_axis="S", patch=size, context=3 if len(size) == 2 else 1,
    )  # fmt: skip


def step_of(config: Config, plan: Plan) -> tuple[nn.Module, Callable[[], None]]:
    """A network and one of its training steps."""
    torch.manual_seed(0)
    method = method_of(config)
    joint, objective = method.joint(config, plan), method.objective(config, plan)
    channels = input_channels(plan)
    images = {m: torch.randn(1, n, *plan.patch) for m, n in channels.items()}
    labels = {m: torch.randint(len(CLASSES), (1, *plan.patch)) for m in channels}

    def step(kind: torch.dtype | None = None) -> None:
        with torch.autocast("cpu", kind, enabled=kind is not None):
            outputs = joint(images)
        objective(outputs, labels).total.backward()
        joint.zero_grad(set_to_none=True)

    return joint, step


def saved_bytes(step: Callable[[], None], network: nn.Module) -> int:
    """What a step keeps for its backward pass, parameters not counted."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        step()
    return sum(kept.values())


def gigaflops(network: nn.Module, plan: Plan) -> float:
    """Of one forward pass of the folded network for one image."""
    image = torch.randn(1, next(iter(input_channels(plan).values())), *plan.patch)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops() / 1e9


def row(name: str) -> dict[str, object]:
    """One backbone."""
    backbone, size, options = ROWS[name]
    plan = plan_of(size)
    joint, whole = step_of(config_of(backbone, size, options, []), plan)
    bare, plain = step_of(config_of(backbone, size, options, ALONE), plan)
    folded = fold(gains_form(joint), "a").eval()
    jobs = {
        "with": whole, "without": plain,
        "with bf16": lambda: whole(torch.bfloat16), "without bf16": lambda: plain(torch.bfloat16),
    }  # fmt: skip
    kept = {
        n: saved_bytes(step, net) / 2**20
        for n, net, step in (("with", joint, whole), ("without", bare, plain))
    }
    seconds = interleave(jobs, 2)
    millions = {
        "training": sum(p.numel() for p in joint.parameters()) / 1e6,
        "test": sum(p.numel() for p in folded.parameters()) / 1e6,
    }
    found = {
        "backbone": name,
        "input": " x ".join(map(str, size)),
        "parameters at test, millions": f"{millions['test']:.1f}",
        "in training with the modules": f"{millions['training']:.1f}",
        "GFLOPs forward, folded": gigaflops(folded, plan),
        "kept for backward, MiB: without": f"{kept['without']:.0f}",
        "with": f"{kept['with']:.0f}",
        "step fp32, s: without ": seconds["without"],
        "with ": seconds["with"],
        "step bf16, s: without  ": seconds["without bf16"],
        "with  ": seconds["with bf16"],
    }
    print(found, flush=True)
    return found


def run() -> None:
    """Measure, record."""
    names = sys.argv[1:] or list(ROWS)
    record("cost", [row(name) for name in names], ("torch", "monai"), PAGE)


if __name__ == "__main__":
    run()
