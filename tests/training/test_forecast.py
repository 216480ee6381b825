"""What is said before a training starts, and how folds share a data set."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from toy import toy_config, write_toy
from unpaired.config import Config, to_toml
from unpaired.data.plan import Clip, ModalityPlan, Plan
from unpaired.errors import DataError, UsageError
from unpaired.files import read_json, write_json
from unpaired.methods import method_of
from unpaired.training import forecast as module
from unpaired.training.folds import fold_configs
from unpaired.training.forecast import forecast

PART = ModalityPlan(
    channel_names=("x",), clip=(Clip(kind="percentile", low=0.5, high=99.5),), zscore="volume"
)


def plan(patch: tuple[int, int]) -> Plan:
    return Plan(
        classes=("background", "ball", "box"),
        modalities={"aa": PART, "bb": PART},
        spacing_mm=(3.0, 1.0, 1.0),
        slice_axis="S",
        patch=patch,
        context=3,
        order=3,
        reasons={},
    )


RESIDENT = 500 << 20


@pytest.fixture(autouse=True)
def _resident(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of a fixed size, so that what it needs beside can be compared."""
    monkeypatch.setattr(module, "resident_bytes", lambda: RESIDENT)


def test_parameters_are_counted_and_the_batch_scales_the_rest() -> None:
    config = toy_config()
    one, two = (forecast(toy_config(f"train.batch_size={b}"), plan((32, 32))) for b in (1, 2))
    joint = method_of(config).joint(config, plan((32, 32)))
    assert one.training_parameters == sum(p.numel() for p in joint.parameters())
    assert one.test_parameters == sum(p.numel() for p in joint.segmenter.parameters())
    state = RESIDENT + 16 * one.training_parameters
    assert two.memory_bytes - state == 2 * (one.memory_bytes - state)
    assert one.seconds_per_step > 0
    assert one.device == "cpu"
    larger = forecast(toy_config("train.batch_size=1", "data.patch=[64, 64]"), plan((64, 64)))
    assert larger.memory_bytes - state > 3 * (one.memory_bytes - state)


def test_saved_bytes_are_those_of_a_network_one_can_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """x -> W x -> relu: backward keeps x, the relu's result, and W, which is no extra."""
    layer = nn.Linear(10, 20, bias=False)
    x = torch.randn(5, 10, requires_grad=True)
    step = lambda *_: layer(x).relu().sum().backward()  # noqa: E731
    monkeypatch.setattr(module, "_step", step)
    where = toy_config(), plan((32, 32)), layer, torch.device("cpu")
    found = module._saved_bytes(*where)
    assert found == 4 * (5 * 10 + 5 * 20)


def test_global_randomness_stays_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    forecast(toy_config("train.batch_size=1"), plan((32, 32)))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(("limit", "largest"), [(1e9, 3), (0.0, 1)])
def test_quick_steps_are_timed_as_the_trainer_takes_them_and_slow_ones_image_by_image(
    monkeypatch: pytest.MonkeyPatch, limit: float, largest: int
) -> None:
    seen: list[int] = []
    updates: list[int] = []
    build = module.build_optimizer

    def watched(joint: nn.Module, *rest: Any) -> torch.optim.Optimizer:
        def note(_: nn.Module, given: tuple[dict[str, torch.Tensor]]) -> None:
            seen.append(max(len(image) for image in given[0].values()))

        joint.register_forward_pre_hook(note)
        optimizer = build(joint, *rest)
        optimizer.register_step_post_hook(lambda *_: updates.append(1))
        return optimizer

    monkeypatch.setattr(module, "build_optimizer", watched)
    monkeypatch.setattr(module, "_WHOLE_SECONDS", limit)
    found = forecast(toy_config("train.batch_size=3"), plan((32, 32)))
    assert max(seen) == largest and found.seconds_per_step > 0
    assert bool(updates) == (largest == 3)


def toy_data(root: Path) -> dict[str, Path]:
    return {
        "aa": write_toy(root, "aa", 5, True, (1, 2)),
        "bb": write_toy(root, "bb", 4, False, (7, 3)),
    }


def chosen(config: Config) -> dict[str, list[str]]:
    assert config.data.splits is not None
    return read_json(Path(config.data.splits))[config.data.fold]


def test_folds_share_out_all_but_the_test_part(tmp_path: Path) -> None:
    data, out = toy_data(tmp_path / "data"), tmp_path / "out"
    found = fold_configs(toy_config(), data, out, 3)
    assert list(found) == ["fold_0", "fold_1", "fold_2"]
    parts = [chosen(config) for config in found.values()]
    (test,) = {tuple(sorted(p["test"])) for p in parts}
    everything = {f"{m}/{m}_{n:02d}" for m, k in (("aa", 5), ("bb", 4)) for n in range(k)}
    assert test
    assert sorted(c for p in parts for c in p["val"]) == sorted(everything - set(test))
    for p in parts:
        assert set(p["train"]) == everything - set(test) - set(p["val"])
    again = fold_configs(toy_config(), data, out, 3)
    assert again == found
    with pytest.raises(UsageError, match="other folds"):
        fold_configs(toy_config("split_seed=5"), data, out, 3)
    with pytest.raises(DataError, match="too few for 9 folds"):
        fold_configs(toy_config(), data, tmp_path / "many", 9)
    assert [p.name for p in out.iterdir()] == ["splits_final.json"]


def test_a_given_splits_file_is_used_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    write_json(file, [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}])
    found = fold_configs(toy_config(f'splits="{file}"'), {}, tmp_path / "out", 2)
    assert [chosen(config)["train"] for config in found.values()] == [["a"], ["b"]]
    assert not (tmp_path / "out").exists()


def test_a_splits_file_with_another_number_of_folds(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    write_json(file, [{"train": ["a"], "val": ["b"]}] * 3)
    for folds in (2, 5):
        with pytest.raises(UsageError, match=rf"--folds {folds}, .*mine\.json holds 3\."):
            fold_configs(toy_config(f'splits="{file}"'), {}, tmp_path / "out", folds)
    write_json(file, {"train": ["a"], "val": ["b"]})
    with pytest.raises(DataError, match="must be a list"):
        fold_configs(toy_config(f'splits="{file}"'), {}, tmp_path / "out", 2)


def hold_out(folder: Path, case: str) -> None:
    """Move a labelled case to imagesTs and labelsTs."""
    for kind, name in (("images", f"{case}_0000.nii.gz"), ("labels", f"{case}.nii.gz")):
        (folder / f"{kind}Ts").mkdir(exist_ok=True)
        (folder / f"{kind}Tr" / name).rename(folder / f"{kind}Ts" / name)


@pytest.mark.parametrize("fractions", ["[0.75, 0.25, 0.0]", "[0.5, 0.25, 0.25]"])
def test_held_out_cases_are_in_the_test_part_of_every_fold(tmp_path: Path, fractions: str) -> None:
    data = toy_data(tmp_path / "data")
    for case in ("aa_01", "aa_03"):
        hold_out(data["aa"], case)
    for kind, ending in (("images", "_0000.nii.gz"), ("labels", ".nii.gz")):
        folder = data["bb"] / f"{kind}Tr"  # the patient of aa_01, scanned in the other modality
        (folder / f"bb_02{ending}").rename(folder / f"aa_01{ending}")
    config = toy_config(f"data.split={fractions}")
    parts = [chosen(c) for c in fold_configs(config, data, tmp_path / "out", 2).values()]
    held = {"aa/aa_01", "aa/aa_03", "bb/aa_01"}
    for part in parts:
        assert set(part["test"]) >= held
        assert not held & {*part["train"], *part["val"]}
        assert (set(part["test"]) == held) == fractions.endswith("0.0]")


@pytest.mark.slow
@pytest.mark.linux
def test_a_training_stays_within_its_forecast(tmp_path: Path) -> None:
    """The whole process, as the system counts it at its largest, and a fifth."""
    data = write_toy(tmp_path, "aa", 4, True, (1, 2))
    settings = tmp_path / "toy.toml"
    settings.write_text(to_toml(toy_config("train.threads=1", "train.batch_size=8")))
    program = (
        "import sys; from pathlib import Path; from unpaired.cli.app import run\n"
        "code = run(sys.argv[1:])\n"
        "text = Path('/proc/self/status').read_text()\n"
        "print('peak', int(text.split('VmHWM:')[1].split()[0]) >> 10)\n"
        "sys.exit(code)"
    )
    call = [
        "train",
        "--data",
        f"aa={data}",
        "--config",
        str(settings),
        "--out",
        str(tmp_path / "r"),
    ]
    ended = subprocess.run(
        [sys.executable, "-c", program, *call], capture_output=True, text=True, check=True
    )
    said = re.search(r"About (\d+) MiB of memory on cpu", ended.stdout)
    peak = re.search(r"peak (\d+)", ended.stdout)
    assert said and peak
    assert int(peak[1]) <= 1.2 * int(said[1])
    assert int(said[1]) <= 2 * int(peak[1])
