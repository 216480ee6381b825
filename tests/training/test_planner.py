"""What is planned for a machine and a time, with costs that are made up, so that it is known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nifti_files import dataset
from small_sets import write_set
from unpaired.cli.app import run as program
from unpaired.cli.planned import given_or_planned
from unpaired.config import load_config
from unpaired.data.measure import Geometry, typical_extent_mm
from unpaired.datasets.sources import open_dataset
from unpaired.errors import UsageError
from unpaired.methods import method_of
from unpaired.run import RunFolder
from unpaired.training import planner
from unpaired.training.budget import Cost, paced, parse_budget, schedule
from unpaired.training.forecast import Forecast
from unpaired.training.planner import SIZES, is_planned, plan_training
from unpaired.training.region import coarser

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("8h", 28800), ("2d", 172800), ("90s", 90), ("1.5 h", 5400), ("45min", 2700)],
)
def test_a_budget_is_read(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize(
    ("text", "words"),
    [("30", "has no unit"), ("3w", "the unit 'w' is unknown"), ("soon", "no unit"),
     ("0m", "no time"), ("-5m", "no unit")],
)  # fmt: skip
def test_another_budget_is_refused_with_what_to_write(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_budget(text)


@pytest.mark.parametrize("budget", [600.0, 3600.0, 28800.0, 172800.0])
@pytest.mark.parametrize(
    "cost", [Cost(20.0, 0.7, 4.0), Cost(200.0, 0.05, 60.0), Cost(5.0, 3.0, 0.0)]
)
def test_a_schedule_fills_its_budget_and_never_exceeds_it(budget: float, cost: Cost) -> None:
    found = schedule(budget, cost)
    spent = cost.before + found.steps * cost.step + found.validations * cost.validation
    assert spent <= budget
    if found.steps:
        assert found.seconds == pytest.approx(spent, rel=0.01)
        assert spent > 0.9 * budget
        assert found.validations * cost.validation <= max(0.11 * budget, 3.01 * cost.validation)
        assert (
            found.every * (found.validations - 1) < found.steps <= found.every * found.validations
        )


def test_steps_are_counted_anew_by_the_pace_of_the_warm_up() -> None:
    options = load_config(None, None, [
        "train.steps=1000", "train.warmup_steps=50", "train.steps_per_epoch=100",
        "train.pace_minutes=10",
    ]).train  # fmt: skip
    assert paced(options, 50, 30.0) is None and paced(options, 50, 31.0) is None  # as planned
    assert paced(options, 49, 60.0) is None and paced(options, 51, 60.0) is None
    slow, quick = paced(options, 50, 60.0), paced(options, 50, 15.0)
    assert slow is not None and quick is not None
    assert (slow.steps, slow.steps_per_epoch) == (500, 50)  # 1.2 s a step, ten validations
    assert (quick.steps, quick.steps_per_epoch) == (2000, 200)
    late = paced(options, 50, 700.0)
    assert late is not None and late.steps == 51
    assert paced(options.model_copy(update={"pace_minutes": None}), 50, 60.0) is None


def test_nothing_fits_a_budget_that_preparation_takes() -> None:
    assert schedule(60.0, Cost(59.0, 0.5, 1.0)).steps == 0


def test_planes_are_made_coarser_only_as_far_as_needed() -> None:
    scans = typical_extent_mm([Geometry((5.0, 0.8, 0.8), (40, 512, 400))] * 3)
    assert coarser((5.0, 0.8, 0.8), scans, 512) == (5.0, 0.8, 0.8)
    assert coarser((5.0, 0.8, 0.8), scans, 256) == (5.0, 1.6, 1.6)
    assert coarser((5.0, 0.8, 0.8), scans, 64) == (5.0, 4.0, 4.0)  # tiled from here on
    assert coarser((3.0, 5.0, 5.0), np.array([27.0, 495, 495]), 64) == (3.0, 5.0, 5.0)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    shapes = [(40, 40, 6)] * 5
    return {m: write_set(tmp_path / m, shapes, (3.0, 3.0, 6.0), channels=(m.upper(),))
            for m in ("ct", "mr")}  # fmt: skip


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Seconds of a step of four patches by the width, as a machine might take; memory to spare."""
    costs = {32: 2.0, 24: 1.0, 16: 0.4, 8: 0.1}

    def measured(config: object, plan: object) -> Forecast:
        width = config.model.options["base_width"]  # type: ignore[attr-defined]
        batch = config.train.batch_size  # type: ignore[attr-defined]
        return Forecast(7, 5, batch * GIB, 16 * GIB, costs[width] * batch / 4, "cpu")

    monkeypatch.setattr(planner, "forecast", measured)
    return costs


def opened(data: dict[str, Path]) -> dict[str, object]:
    return {m: open_dataset(m, root) for m, root in data.items()}


@pytest.mark.parametrize(
    ("budget", "width"), [("10m", 16), ("1h", 24), ("4h", 32), ("2d", 32), ("2m", 8)]
)
def test_more_time_buys_a_larger_network(
    data: dict[str, Path], seconds: dict[int, float], budget: str, width: int
) -> None:
    found = plan_training(opened(data), [], parse_budget(budget))  # type: ignore[arg-type]
    assert found.config.model.options["base_width"] == width
    assert found.config.model.backbone == "resenc_unet"
    steps = found.config.train.steps
    assert steps * seconds[width] / 2 < parse_budget(budget)  # two patches a step
    assert steps >= min(size.steps for size in SIZES["cpu"] if size.width == width)
    reason = found.reasons["steps"]
    assert str(steps) in reason and "validations" in reason
    assert "Residual-encoder U-Net" in found.reasons["network"]


def test_what_the_user_sets_is_kept(data: dict[str, Path], seconds: dict[int, float]) -> None:
    own = ["train.batch_size=2", "train.learning_rate=0.0005", "data.spacing_mm=[6, 3, 3]",
           "train.steps=700", "loss.gamma=0"]  # fmt: skip
    found = plan_training(opened(data), own, 3600.0).config  # type: ignore[arg-type]
    assert (found.train.batch_size, found.train.learning_rate) == (2, 0.0005)
    assert (found.data.spacing_mm, found.train.steps, found.loss.gamma) == ((6, 3, 3), 700, 0)


def test_a_batch_fits_the_memory(
    data: dict[str, Path], monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]
) -> None:
    roomy = planner.forecast

    def tight(config: object, plan: object) -> Forecast:
        return replace(roomy(config, plan), memory_available_bytes=7 * GIB // 5)  # type: ignore

    monkeypatch.setattr(planner, "forecast", tight)
    assert plan_training(opened(data), [], 600.0).config.train.batch_size == 1  # type: ignore


def test_a_budget_that_no_network_fits_says_what_would(
    data: dict[str, Path], seconds: dict[int, float]
) -> None:
    with pytest.raises(UsageError, match=r"holds \d+ steps .* 600 are needed. Give --budget 1m"):
        plan_training(opened(data), [], 20.0)  # type: ignore[arg-type]


def labelled(root: Path, cases: int, shape: tuple[int, ...], classes: int) -> Path:
    """Boxes of so many classes, a voxel at least."""
    rng, scans = np.random.default_rng(classes), {}
    for n in range(cases):
        label = np.zeros(shape, np.uint8)
        places = rng.permutation(label.size)[:classes]
        label.flat[places] = np.arange(1, classes + 1)
        image = rng.normal(0, 9, shape) + 20 * label
        scans[f"c{n}"] = ([image.astype(np.int16)], label, np.diag([1, 1, 3, 1]))
    names = {"background": 0} | {f"organ {k}": k for k in range(1, classes + 1)}
    return dataset(root, scans, labels=names, channels=("T1",))


@pytest.mark.parametrize(
    ("one", "other", "classes", "said"),
    [
        ((5, (40, 36, 10), 2), (1, (40, 36, 10), 2), 3, ""),
        ((5, (40, 36, 10), 2), (5, (40, 36, 10), 3), 3, "Not every modality has organ 3 (b)"),
        ((5, (40, 36, 12), 60), (5, (40, 36, 12), 60), 61, ""),
        ((5, (64, 64, 3), 2), (5, (64, 64, 3), 2), 3, ""),
        ((5, (6, 6, 3), 2), (5, (5, 7, 3), 2), 3, "a side of 8 voxels; these images are smaller"),
    ],
    ids=["one case", "a class of one", "sixty classes", "three slices", "tiny"],
)
@pytest.mark.parametrize("dims", [2, 3])
def test_odd_sets_are_planned_too(
    tmp_path: Path, seconds: dict[int, float], one: tuple[int, tuple[int, ...], int],
    other: tuple[int, tuple[int, ...], int], classes: int, said: str, dims: int,
) -> None:  # fmt: skip
    data = {m: labelled(tmp_path / m, *what) for m, what in (("a", one), ("b", other))}
    found = plan_training(opened(data), [f"data.dims={dims}"], 600.0)  # type: ignore[arg-type]
    method = method_of(found.config)
    plan = method.plan(found.config, opened(data))  # type: ignore[arg-type]
    assert len(plan.classes) == classes
    assert said in " ".join(plan.reasons.values())
    backbone = method.backbone(found.config, plan).eval()
    with torch.no_grad():
        scores = backbone(torch.zeros(1, backbone.in_channels, *plan.patch)).logits
    assert scores.shape == (1, classes, *plan.patch)


def test_a_preset_of_fixed_levels_takes_small_images(tmp_path: Path) -> None:
    data = {"a": labelled(tmp_path / "a", 3, (20, 24, 4), 2)}
    config = load_config("default")  # five levels
    plan = method_of(config).plan(config, opened(data))  # type: ignore[arg-type]
    assert plan.patch == (64, 16)  # rows of 24 voxels, columns of 20
    method_of(config).backbone(config, plan)


def test_a_network_of_ones_own_is_not_planned() -> None:
    assert is_planned(["train.steps=10", "loss.beta=0"])
    assert not is_planned(["model.backbone=swin_unet"])
    assert not is_planned(["model.options.base_width=8"])
    assert load_config("default").model.backbone == "resenc_unet"


SMALL = ["train.steps=2", "train.batch_size=1", "data.workers=0", "train.device=cpu",
         "data.split=[0.6,0.2,0.2]"]  # fmt: skip


def test_from_the_command_line_to_a_model_and_on(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(planner, "SIZES", {"cpu": (planner.Size(8, 64, 2, (1, 1)),)})
    call = ["train", "--out", str(tmp_path / "run"), "--quick"]
    call += [word for m, root in data.items() for word in ("--data", f"{m}={root}")]
    assert program([*call, *SMALL]) == 0
    said = capsys.readouterr().out
    assert "Residual-encoder U-Net (resenc_unet), 2D, width 8" in said
    run = RunFolder(tmp_path / "run")
    assert run.config.model.options["base_width"] == 8
    assert run.plan.reasons["network"] == json.loads(run.files.choices.read_text())["network"]
    assert run.files.model.is_dir()
    # The same command, and one with more steps, go on with the network that was planned.
    monkeypatch.setattr(planner, "SIZES", {"cpu": (planner.Size(16, 64, 2, (1, 1)),)})
    assert program([*call, *SMALL]) == 0
    assert "goes on as it was planned" in capsys.readouterr().err
    assert program([*call, *SMALL, "train.steps=3"]) == 0
    assert "Stopped at step 3" in capsys.readouterr().out
    assert RunFolder(tmp_path / "run").config.model.options["base_width"] == 8


@pytest.mark.parametrize(
    "words", [["--preset", "demo"], ["model.backbone=swin_unet"], ["--budget", "1h"]]
)
def test_quick_is_for_planned_trainings(
    data: dict[str, Path], tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["train", "--out", str(tmp_path / "run"), "--data", f"ct={data['ct']}", "--quick"]
    assert program([*call, *words]) == 2
    assert "--budget" in capsys.readouterr().err
    assert not np.any([path.name == "run" for path in tmp_path.iterdir()])


def test_a_file_that_names_no_network_is_told_which_it_gets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    for text, said in (("[train]\nsteps = 3\n", True), ('[model]\nbackbone = "nnformer"\n', False)):
        file.write_text(text)
        config, choices = given_or_planned({}, tmp_path / "run", [], None, file, None)
        assert (("no network is named" in capsys.readouterr().err), choices) == (said, {})
        assert config.model.backbone == ("swin_unet" if said else "nnformer")
