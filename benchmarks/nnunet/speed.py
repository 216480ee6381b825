"""What the work costs in both tools: preparing, a step, memory, and a large scan.

    python benchmarks/nnunet/speed.py --nnunet ENVIRONMENT/bin/python --out runs/nnunet-speed

Both train the same residual U-Net on the same patch, batch and grid, with one thread, on scans that
this script draws; then they label one scan of 512 x 512 x 200 voxels, with 5 and with 60 classes.
nnU-Net does so with its default mean over four mirrorings and without; ours has none. Processor
seconds, from the start of a command to its end, but for the step. The networks learn for half a
minute: what they find is not looked at. A limit of memory is worth having, 60 classes are large:
--through "prlimit --as=17179869184".
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from commands import run
from raw import write_images
from rows import ROWS, Job
from tools import NnUnet, Ours, Study, once

from unpaired.datasets.sources import open_dataset
from unpaired.datasets.split_file import Split, write_splits
from unpaired.errors import DataError
from unpaired.files import write_json

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _report import PAGE, record

SECTION = "nnunet speed"
CASES, SHAPE, SPACING_MM = 8, (256, 256, 40), (1.5, 1.5, 3.0)
LARGE, LARGE_MM = (512, 512, 200), (0.75, 0.75, 3.0)
WIDTH, WIDEST, BLOCKS = 16, 256, (1, 2, 2, 2, 2)
PATCH, BATCH = 256, 4
NETWORK = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
CLASSES = (5, 60)
STEPS = (5, 35)
FAILED = "failed"
OURS = (
    "model.backbone=resenc_unet",
    "model.variant=V2",
    f"model.options.base_width={WIDTH}",
    f"model.options.max_width={WIDEST}",
    f"model.options.stages={len(BLOCKS)}",
    f"model.options.blocks={list(BLOCKS)}",
    "loss.alpha=0",
    "loss.beta=0",
    "loss.gamma=0",
    "data.context=1",
    f"data.spacing_mm={list(SPACING_MM[::-1])}",
    f"data.patch=[{PATCH},{PATCH}]",
    f"train.batch_size={BATCH}",
    "train.log_every=1",
)


def plan_of_the_same_network() -> dict[str, Any]:
    """What replaces nnU-Net's own choice: the network of `OURS`, as its library builds it."""
    stages = len(BLOCKS)
    architecture = {
        "network_class_name": NETWORK,
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [min(WIDEST, WIDTH * 2**i) for i in range(stages)],
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "kernel_sizes": [[3, 3]] * stages,
            "strides": [[1, 1], *[[2, 2]] * (stages - 1)],
            "n_blocks_per_stage": list(BLOCKS),
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": False,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }
    own = {"patch_size": [PATCH, PATCH], "batch_size": BATCH, "spacing": list(SPACING_MM[:2])}
    return {**own, "architecture": architecture}


def draw(folder: Path, classes: int) -> Path:
    """A data set: noise, and an equal block for every class, in each case elsewhere."""
    rng = np.random.default_rng(classes)
    sizes = {f"case_{i}": (SHAPE, SPACING_MM) for i in range(CASES)} | {"large": (LARGE, LARGE_MM)}
    for name, (shape, spacing) in sizes.items():
        image = rng.normal(100, 30, shape).astype(np.int16)
        labels = np.zeros(shape, np.uint8)
        for number in range(1, classes):
            row, column = divmod(number, 8)
            corner = np.array([row, column]) * 24 * shape[0] // 256 + rng.integers(8, 24, 2)
            side = 20 * shape[0] // 256
            block = tuple(slice(c, c + side) for c in corner)
            labels[block] = number
            image[block] += 4 * number
        affine = np.diag([*spacing, 1.0])
        for kind, values in (("imagesTr", image), ("labelsTr", labels)):
            path = folder / kind / f"{name}{'_0000' if kind == 'imagesTr' else ''}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, affine), path)
    about = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, **{f"class {i}": i for i in range(1, classes)}},
        "numTraining": len(sizes),
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", about)
    return folder


def study_of(out: Path, classes: int, through: Sequence[str]) -> Study:
    """The drawn data set, its large scan kept aside."""
    root = out / f"scans-{classes}"
    if not (root / "dataset.json").exists():
        draw(root, classes)
    datasets = {"mr": open_dataset("mr", root)}
    names = tuple(case.id for case in datasets["mr"].cases if case.id != "large")
    split = Split(train={"mr": names[:-2]}, val={"mr": names[-2:]}, test={"mr": ("large",)})
    split_file = out / f"split-{classes}.json"
    write_splits(split_file, [split])
    write_images(datasets, split, out / f"classes-{classes}")
    folder = out / f"classes-{classes}"
    return Study({"mr": root}, datasets, split, split_file, folder, through)


def costs(study: Study, python: Path) -> dict[str, dict[str, Any]]:
    """Tool -> what its parts cost."""
    row = ROWS["nnunet-alone-adamw"]
    nnunet_settings = {"configuration": "2d", "override": plan_of_the_same_network()}
    theirs = Job("speed", row, "mr", ("mr",), 0, 0.5, "test", nnunet_settings)
    peer = NnUnet(python, study)
    return {"nnU-Net": _of_peer(peer, theirs), "ours": _of_ours(study)}


def _of_peer(peer: NnUnet, job: Job) -> dict[str, Any]:
    prepared, trained = peer.prepare(job), peer.train(job)
    folder = peer.study.of(job)
    predicted = _tried(lambda: peer.predict(job, folder / "test")["cost"])
    plain = _tried(lambda: peer.predict(job, folder / "plain", mirror=False)["cost"])
    return {
        "prepare": prepared["cost"],
        "train": trained["cost"],
        "predict": predicted,
        "plain": plain,
        "step": trained["training_seconds"] / trained["steps"],
        "parameters": trained["parameters"],
    }


def _of_ours(study: Study) -> dict[str, Any]:
    """Prepared by the verb alone, so that it is timed apart from the training; a step is what a
    longer training takes more than a short one, both with one validation."""
    ours = Ours(study)
    few, more = (_ours_job(number, steps) for number, steps in enumerate(STEPS))
    folder = study.of(more)
    alone = [f"--data=mr={study.roots['mr']}", f"data.splits={study.split_file}", "--workers=0"]
    command = [sys.executable, "-m", "unpaired", "prepare", "--preset=default", *alone, *OURS]
    where = f"--out={folder / 'prepared'}"
    prepared = once(
        folder / "prepare.json",
        lambda: vars(run([*command, where], folder / "prepare.log", through=study.through)),
    )
    trained = ours.train(more)
    longer = trained["cost"]["processor_seconds"] - ours.train(few)["cost"]["processor_seconds"]
    predicted = _tried(lambda: ours.predict(more, folder / "test")["cost"])
    return {
        "prepare": prepared,
        "train": trained["cost"],
        "predict": predicted,
        "plain": predicted,
        "step": longer / (STEPS[1] - STEPS[0]),
        "parameters": trained["parameters"],
    }


def _ours_job(number: int, steps: int) -> Job:
    overrides = [*OURS, f"train.steps={steps}", f"train.steps_per_epoch={steps}"]
    settings = {"preset": "default", "overrides": overrides}
    return Job("speed", ROWS["ours-alone"], "mr", ("mr",), number, 0.5, "test", settings)


def _tried(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What it cost; nothing where it failed, such as for want of memory: the log says why."""
    try:
        return work()
    except DataError as error:
        print(error, file=sys.stderr)
        return {}


def rows_of(classes: int, found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, object]]:
    """Lines of the table: what, nnU-Net, ours, how many times ours."""
    takes = {
        f"preparing {CASES} cases, s": ("prepare", "processor_seconds"),
        "a training step, s": ("step",),
        "peak of the training, MiB": ("train", "peak_mib"),
        "labels of the large scan, default, s": ("predict", "processor_seconds"),
        "the same without mirroring, s": ("plain", "processor_seconds"),
        "peak of the prediction, MiB": ("predict", "peak_mib"),
        "parameters of the network": ("parameters",),
    }
    lines = []
    for what, place in takes.items():
        theirs, ours = (_at(found[tool], place) for tool in ("nnU-Net", "ours"))
        lines.append(
            {
                "classes": classes,
                "what": what,
                "nnU-Net": FAILED if theirs is None else theirs,
                "ours": FAILED if ours is None else ours,
                "ratio": "" if theirs is None or ours is None else theirs / ours,
            }
        )
    return lines


def _at(found: Mapping[str, Any], place: Sequence[str]) -> float | None:
    value: Any = found
    for name in place:
        value = value.get(name) if value is not None else None
    return None if value is None else float(value)


def main() -> None:
    """Measure what is not there yet; write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nnunet", type=Path, required=True, metavar="PYTHON")
    parser.add_argument("--out", type=Path, default=Path("runs/nnunet-speed"))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--through", type=shlex.split, default=[])
    options = parser.parse_args()
    lines = []
    for classes in CLASSES:
        study = study_of(options.out.resolve(), classes, options.through)
        lines += rows_of(classes, costs(study, options.nnunet))
    record(SECTION, lines, ("torch", "numpy", "nibabel"), options.page)


if __name__ == "__main__":
    main()
