"""Training as a whole: resuming, stopping, starting from a run."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from toy import toy_config, write_toy
from toy import train_toy as train
from unpaired.artifact.unfinished import unfinished
from unpaired.errors import DataError, Interrupted, UsageError
from unpaired.files import read_json
from unpaired.run import RunFolder
from unpaired.run.log import read_log
from unpaired.training import trainer as training
from unpaired.training.checkpoint import load_checkpoint
from unpaired.training.optim import learning_rate
from unpaired.training.prepare import prepare_run

Finished = Callable[[], Path]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)["model"]


def losses(run: Path) -> list[float]:
    return [r["loss"] for r in read_log(run / "log.jsonl") if r["kind"] == "step"]


def as_text(data: dict[str, Path]) -> str:
    """The folders as a literal for a script."""
    return repr({m: str(path) for m, path in data.items()})


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a signal arrive during the given step."""
    plain = training.Trainer._optimise

    def optimise(self: training.Trainer, batches: object) -> object:
        if self.step + 1 == step:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(training.Trainer, "_optimise", optimise)


def test_same_seed_same_run_other_seed_another(
    data: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    for name, seed in (("two", 0), ("other", 1)):
        train(toy_config(f"train.seed={seed}"), data, tmp_path / name)
    assert losses(whole) == losses(tmp_path / "two")
    assert losses(whole) != losses(tmp_path / "other")
    one, two = (weights(run / "checkpoints/last.pt") for run in (whole, tmp_path / "two"))
    assert same(one, two)


@pytest.mark.parametrize("step", [3, 4])
def test_interrupted_and_resumed_equals_unbroken(
    data: dict[str, Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    config = toy_config()
    with monkeypatch.context() as patch:
        stop_after(step, patch)
        with pytest.raises(Interrupted, match=f"step {step} of 6"):
            train(config, data, tmp_path / "broken")
    model = tmp_path / "broken/model"  # that of the last validation
    assert f"step {step // 2 * 2} of 6" in unfinished(model)
    train(config, data, tmp_path / "broken")
    both = (tmp_path / "broken", whole)
    assert losses(both[0]) == losses(whole)
    for name in ("last.pt", "kept.pt"):
        assert same(*(weights(run / "checkpoints" / name) for run in both))
    broken_state, whole_state = (
        load_checkpoint(run / "checkpoints/last.pt")["optimizer"]["state"] for run in both
    )
    assert all(
        torch.equal(broken_state[i]["exp_avg_sq"], whole_state[i]["exp_avg_sq"])
        for i in whole_state
    )


def test_killed_mid_write_goes_on_from_the_last_whole_state(
    data: dict[str, Path], finished: Finished
) -> None:
    run = finished()
    expected = weights(run / "checkpoints/last.pt")
    stray = run / "checkpoints/.last.0123abcd.pt"
    stray.write_bytes(b"half a checkpoint")
    train(toy_config(), data, run)
    assert same(weights(run / "checkpoints/last.pt"), expected)
    assert not stray.exists()


def test_prefetching_changes_nothing(data: dict[str, Path], whole: Path, tmp_path: Path) -> None:
    """By default one step ahead."""
    for ahead in (0, 3):
        train(toy_config(f"train.prefetch={ahead}"), data, tmp_path / str(ahead))
        assert losses(tmp_path / str(ahead)) == losses(whole)


@pytest.mark.slow
def test_training_learns_the_toy_and_exports_it(data: dict[str, Path], tmp_path: Path) -> None:
    options = ["train.steps=150", "train.steps_per_epoch=50", "train.batch_size=4"]
    options += ["train.learning_rate=0.01", "augment.probability=0.2", "train.foreground=0.7"]
    config = toy_config(*options, "model.options.embed_dim=16", "model.options.drop_path=0.0")
    result = train(config, data, tmp_path)
    assert result.score > 0.6
    first, last = np.mean(losses(tmp_path)[:10]), np.mean(losses(tmp_path)[-10:])
    assert last < 0.6 * first
    description = read_json(tmp_path / "model/model.json")
    counts = (
        description["extra"]["parameters"] if "extra" in description else description["parameters"]
    )
    assert counts["test"] < counts["training"]
    arrays = np.load(tmp_path / "semantics.npz")
    assert {f"correlation/{m}/{s}" for m in "ab" for s in (1, 2)} <= set(arrays.files)
    assert np.isfinite(arrays["correlation/a/1"]).all()
    row = (tmp_path / "metrics.csv").read_text().splitlines()
    assert row[0] == "step,epoch,score,a,a/ball,a/box,b,b/ball,b/box"
    assert len(row) == 1 + 3


def test_early_stop_and_max_minutes(data: dict[str, Path], tmp_path: Path) -> None:
    still = toy_config("train.learning_rate=1e-12", "train.early_stop=2", "train.steps=40")
    result = train(still, data, tmp_path / "early")
    assert (result.stopped, result.step) == ("early_stop", 6)
    quick = train(toy_config("train.max_minutes=1e-9"), data, tmp_path / "quick")
    assert (quick.stopped, quick.step) == ("max_minutes", 1)
    more = train(toy_config(), data, tmp_path / "quick")
    assert (more.stopped, more.step) == ("steps", 6)


def test_another_configuration_is_refused(data: dict[str, Path], finished: Finished) -> None:
    with pytest.raises(UsageError, match=r"train\.learning_rate: 0\.003 -> 0\.1"):
        train(toy_config("train.learning_rate=0.1"), data, finished())


def test_a_finished_run_goes_on_when_steps_are_raised(
    data: dict[str, Path], whole: Path, finished: Finished
) -> None:
    """From the same weights as the shorter run had, on the schedule of the longer one."""
    run = RunFolder(finished())
    done = train(toy_config("train.steps=10"), data, run.root)
    assert (done.step, done.stopped) == (10, "steps")
    assert run.config.train.steps == 10
    assert run.schedules == ({"kind": "schedule", "step": 6, "before": 6, "steps": 10},)
    rates = {r["step"]: r["lr"] for r in run.steps}
    ends = dict.fromkeys(range(1, 7), 6) | dict.fromkeys(range(7, 11), 10)
    for step, end in ends.items():
        expected = learning_rate(toy_config(f"train.steps={end}").train, step - 1)
        assert rates[step] == pytest.approx(expected, abs=1e-6)
    assert rates[7] > rates[6]  # the schedule that ended has gone down further
    assert read_json(run.root / "model/model.json")["extra"]["step"] == 10
    assert not same(weights(whole / "checkpoints/last.pt"), weights(run.files.last))


def test_a_training_that_keeps_its_pace_is_the_one_planned_so(
    data: dict[str, Path], tmp_path: Path
) -> None:
    warm = "train.warmup_steps=2"
    paced = toy_config("train.steps=9", warm, "train.pace_minutes=1e-9")
    done = train(paced, data, tmp_path / "paced")
    assert (done.step, done.stopped) == (3, "steps")
    run = RunFolder(tmp_path / "paced")
    assert run.config.train.steps == 3 and run.config.train.pace_minutes == 1e-9
    every = run.config.train.steps_per_epoch
    train(toy_config("train.steps=3", warm, f"train.steps_per_epoch={every}"), data, tmp_path / "b")
    planned = RunFolder(tmp_path / "b")
    assert same(weights(run.files.last), weights(planned.files.last))
    assert [r["lr"] for r in run.steps] == [r["lr"] for r in planned.steps]
    assert {"kind": "pace", "step": 2, "before": 9, "steps": 3} in read_log(run.files.log)


def test_a_stopped_run_goes_on_when_steps_are_raised(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Interrupted):
            train(toy_config(), data, tmp_path)
    for steps in (8, 10):  # twice, both are noted
        stopped = train(
            toy_config(f"train.steps={steps}", "train.max_minutes=1e-9"), data, tmp_path
        )
        assert stopped.stopped == "max_minutes"
    assert train(toy_config("train.steps=10"), data, tmp_path).step == 10
    ends = [(r["step"], r["before"], r["steps"]) for r in RunFolder(tmp_path).schedules]
    assert ends == [(3, 6, 8), (4, 8, 10)]
    assert [r["step"] for r in RunFolder(tmp_path).steps] == list(range(1, 11))


def test_fewer_steps_or_another_change_with_more_are_refused(
    data: dict[str, Path], finished: Finished
) -> None:
    run = RunFolder(finished())
    with pytest.raises(UsageError, match=r"train\.steps: 6 -> 3"):
        train(toy_config("train.steps=3"), data, run.root)
    only = r"configuration \(train\.learning_rate: 0\.003 -> 0\.1\)"
    with pytest.raises(UsageError, match=only):
        train(toy_config("train.steps=8", "train.learning_rate=0.1"), data, run.root)
    assert run.config.train.steps == 6 and run.schedules == ()


def test_every_record_of_the_log_is_told(data: dict[str, Path], tmp_path: Path) -> None:
    told: list[dict[str, object]] = []
    bar: list[tuple[int, int, str]] = []
    train(
        toy_config(), data, str(tmp_path), on_step=told.append,
        progress=lambda *call: bar.append(call),
    )  # fmt: skip
    assert told == read_log(tmp_path / "log.jsonl")
    assert [r["kind"] for r in told].count("validation") == 3
    assert [call[:2] for call in bar] == [(n, 8) for n in range(1, 9)] + [
        (n, 6) for n in range(1, 7)
    ]


def test_cases_are_prepared_once(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unpaired.cli.train import one_run
    from unpaired.training import prepare

    calls: list[object] = []
    plain = prepare.prepare
    monkeypatch.setattr(prepare, "prepare", lambda *a: calls.append(a) or plain(*a))
    one_run(toy_config("train.steps=2"), data, tmp_path)
    assert len(calls) == 1


def test_the_new_end_of_the_schedule_is_said(
    data: dict[str, Path], finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    from unpaired.cli.train import one_run

    run = finished()
    for steps in (6, 8):
        one_run(toy_config(f"train.steps={steps}"), data, run)
        said = capsys.readouterr().out
        assert ("train.steps was raised from 6 to 8: from step 6 on" in said) == (steps == 8)
    assert "Stopped at step 8 (steps)" in said


def test_a_plan_that_changed_is_refused(data: dict[str, Path], finished: Finished) -> None:
    run = finished()
    plan = json.loads((run / "plan.json").read_text())
    plan["reasons"]["patch"] = "edited"
    (run / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(DataError, match=r"plan\.json changed"):
        train(toy_config(), data, run)


def test_other_data_under_the_same_names_are_refused(
    data: dict[str, Path], finished: Finished, tmp_path: Path
) -> None:
    config, run = toy_config(), finished()
    fewer = shutil.copytree(data["b"], tmp_path / "b")
    (fewer / "imagesTr/b_00_0000.nii.gz").unlink()
    (fewer / "labelsTr/b_00.nii.gz").unlink()
    with pytest.raises((UsageError, DataError), match=r"b_00|other data"):
        train(config, {**data, "b": fewer}, run)
    renamed = shutil.copytree(data["b"], tmp_path / "renamed")
    meta = json.loads((renamed / "dataset.json").read_text())
    (renamed / "dataset.json").write_text(json.dumps({**meta, "channel_names": {"0": "CT"}}))
    with pytest.raises(UsageError, match="the channels of b were"):
        train(config, {**data, "b": renamed}, run)


def test_settings_for_a_modality_that_is_not_there_are_refused(
    data: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"modalities\.A is .*Did you mean modalities\.a"):
        train(toy_config("modalities.A.clip=percentile"), data, tmp_path)


def test_settings_of_a_protocol_do_not_pass_a_modality_by(
    data: dict[str, Path], tmp_path: Path
) -> None:
    """A preset for ct and mr, the data are a and ct: `a` would be prepared by other rules."""
    named = {"ct": data["a"], "a": data["b"]}
    settings = ("modalities.ct.clip=none", "modalities.mr.clip=none")
    with pytest.raises(UsageError, match=r"so a would have none.*--data mr=FOLDER"):
        prepare_run(toy_config(*settings), named, RunFolder(tmp_path / "no"))
    config = toy_config(*settings, "modalities.a.clip=auto")
    prepare_run(config, named, RunFolder(tmp_path / "own"))
    prepare_run(toy_config(*settings), {"a": data["b"]}, RunFolder(tmp_path / "alone"))


def test_without_a_checkpoint_the_run_is_planned_anew(
    data: dict[str, Path], tmp_path: Path
) -> None:
    """A preparation that failed must not fix the split and the grid of the next call."""
    folder = RunFolder(tmp_path)
    for spacing, seed in (("[3, 1, 1]", 0), ("[3, 2, 2]", 5)):
        config = toy_config(f"data.spacing_mm={spacing}", f"data.split_seed={seed}")
        prepare_run(config, data, folder)
        assert read_json(folder.files.plan)["spacing_mm"] == list(config.data.spacing_mm or ())
    kept = {path.name for path in folder.files.prepared.iterdir()}
    assert len(kept) == 2  # each plan its own prepared cases


def test_held_out_cases_are_for_testing_only(data: dict[str, Path], tmp_path: Path) -> None:
    root = shutil.copytree(data["a"], tmp_path / "a")
    for kind, name in (("images", "a_01_0000"), ("labels", "a_01")):
        (root / f"{kind}Ts").mkdir()
        (root / f"{kind}Tr/{name}.nii.gz").rename(root / f"{kind}Ts/{name}.nii.gz")
    for seed in range(4):
        folder = RunFolder(tmp_path / f"run{seed}")
        prepare_run(toy_config(f"data.split_seed={seed}"), {"a": root}, folder)
        split = read_json(folder.files.splits)[0]
        assert "a/a_01" in split["test"]
        assert "a/a_01" not in split["train"] + split["val"]


def test_two_runs_on_one_folder_are_refused(data: dict[str, Path], tmp_path: Path) -> None:
    with RunFolder(tmp_path).lock(), pytest.raises(UsageError, match="another process"):
        train(toy_config(), data, tmp_path)


def test_a_loss_that_is_not_a_number_stops_with_the_batch_saved(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = training.Trainer._optimise

    def poison(self: training.Trainer, batches: dict[str, training.Batch]) -> object:
        if self.step == 3:
            batches["b"].image[1, 0, 5, 5] = float("nan")
        return plain(self, batches)

    monkeypatch.setattr(training.Trainer, "_optimise", poison)
    with pytest.raises(DataError, match="not a number at step 4"):
        train(toy_config("augment.probability=0"), data, tmp_path)
    saved = np.load(tmp_path / "nan_batch.npz")
    assert np.isnan(saved["b/image"][1]).any() and not np.isnan(saved["a/image"]).any()
    assert len(saved["b/case"]) == 2
    state = load_checkpoint(tmp_path / "checkpoints/last.pt")
    assert state["step"] == 2 and all(torch.isfinite(v).all() for v in state["model"].values())


def test_start_from_a_run_with_a_modality_added(
    data: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    extra = write_toy(tmp_path, "c", 4, True, (1, 2))
    config = toy_config("train.steps=1", "train.learning_rate=1e-12", "train.warmup_steps=0",
                        f"train.init_from={whole}")  # fmt: skip
    train(config, {**data, "c": extra}, tmp_path / "second")
    before = weights(whole / "checkpoints/kept.pt")
    after = weights(tmp_path / "second/checkpoints/last.pt")
    assert before.keys() < after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-9)
    plans = [read_json(run / "plan.json") for run in (whole, tmp_path / "second")]
    assert plans[0]["spacing_mm"] == plans[1]["spacing_mm"]
    assert plans[0]["modalities"]["a"] == plans[1]["modalities"]["a"]


def test_start_from_a_run_on_one_modality(data: dict[str, Path], tmp_path: Path) -> None:
    """It built no correlations; they begin fresh when a second modality joins."""
    train(toy_config("train.steps=2"), {"a": data["a"]}, tmp_path / "one")
    config = toy_config("train.steps=1", "train.learning_rate=1e-12",
                        f"train.init_from={tmp_path / 'one'}")  # fmt: skip
    train(config, data, tmp_path / "two")
    before, after = (weights(tmp_path / n / "checkpoints/kept.pt") for n in ("one", "two"))
    torch.testing.assert_close(
        after["segmenter.backbone.decoder.classify.weight"],
        before["segmenter.backbone.decoder.classify.weight"],
        rtol=0, atol=1e-9,
    )  # fmt: skip
    assert "semantics.a.modules_per_scale.0.kernel" in after.keys() - before.keys()


def test_a_gradient_that_is_not_a_number_stops_too(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = torch.nn.utils.clip_grad_norm_

    def poison(parameters: object, limit: float) -> torch.Tensor:
        found = list(parameters)  # type: ignore[call-overload]
        found[0].grad[:] = float("nan")
        return plain(found, limit)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", poison)
    with pytest.raises(DataError, match="gradient became not a number at step 1"):
        train(toy_config(), data, tmp_path)
    assert not (tmp_path / "checkpoints/last.pt").exists()


def test_weights_that_do_not_fit_name_the_layers(
    data: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    wide = toy_config("model.options.embed_dim=16", f"train.init_from={whole}")
    with pytest.raises(UsageError, match=r"of another shape: .*segmenter\."):
        train(wide, data, tmp_path / "second")
    with pytest.raises(UsageError, match=r"holds no checkpoints/kept\.pt"):
        train(toy_config(f"train.init_from={tmp_path}"), data, tmp_path / "third")


def test_one_modality_trains_alone(data: dict[str, Path], tmp_path: Path) -> None:
    config = toy_config("model.variant=V2", "loss.alpha=0", "loss.beta=0", "loss.gamma=0")
    train(config, {"a": data["a"]}, tmp_path)
    names = weights(tmp_path / "checkpoints/last.pt").keys()
    assert not any(name.startswith(("semantics", "scaling")) for name in names)


@pytest.mark.slow
@pytest.mark.unix
def test_ctrl_c_from_outside_leaves_a_resumable_run(data: dict[str, Path], tmp_path: Path) -> None:
    script = tmp_path / "go.py"
    script.write_text(
        "import sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from toy import toy_config; from unpaired.training.fit import train\n"
        "from unpaired.errors import Interrupted\n"
        "try:\n"
        f"    train(toy_config('train.steps=100000'), {as_text(data)},\n"
        f"          Path({str(tmp_path / 'run')!r}))\n"
        "except Interrupted:\n"
        "    sys.exit(5)\n"
    )
    process = subprocess.Popen([sys.executable, str(script)])
    log = tmp_path / "run/log.jsonl"
    for _ in range(1200):
        if log.exists() and len(read_log(log)) > 5:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(180) == 5
    state = load_checkpoint(tmp_path / "run/checkpoints/last.pt")
    steps = [r["step"] for r in read_log(log) if r["kind"] == "step"]
    assert state["step"] == steps[-1]
