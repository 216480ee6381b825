"""What a run has stored and then lost or damaged: mended aloud, or one sentence; never silent."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from toy import toy_config
from toy import train_toy as train
from unpaired.errors import DataError, UnpairedError, UsageError
from unpaired.run import RunFolder
from unpaired.run.log import note_schedule, read_log
from unpaired.training import trainer as training
from unpaired.training.checkpoint import TrainingState, find_state, load_checkpoint, save_checkpoint
from unpaired.training.prepare import prepare_run

Finished = Callable[[], Path]


@pytest.fixture(scope="module")
def unbroken(
    data: dict[str, Path], whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of the unbroken run, for each `train.keep`."""
    best = tmp_path_factory.mktemp("unbroken")
    train(toy_config("train.keep=best"), data, best)
    return {"last": kept(whole), "best": kept(best)}


def kept(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "checkpoints/kept.pt")["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(b ^ 255 for b in content[middle : middle + 200])
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


HOW = {"damaged": damage, "cut short": cut, "missing": Path.unlink}


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_the_state_before_takes_the_place_of_a_bad_one(
    data: dict[str, Path], whole: Path, finished: Finished, how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    run = RunFolder(finished())
    assert load_checkpoint(run.files.previous)["step"] == 4
    HOW[how](run.files.last)
    assert train(toy_config(), data, run.root).step == 6
    assert re.search(r"last\.pt .*Going on from .*previous\.pt, at step 4", caplog.text)
    assert same(kept(run.root), kept(whole))
    assert load_checkpoint(run.files.last)["step"] == 6


def test_two_bad_states_end_the_run_with_the_way_out(
    data: dict[str, Path], finished: Finished
) -> None:
    run = RunFolder(finished())
    damage(run.files.last)
    cut(run.files.previous)
    before = run.files.kept.read_bytes()
    with pytest.raises(DataError, match=r"last\.pt .*previous\.pt .*(Restore|another --out)"):
        train(toy_config(), data, run.root)
    assert run.files.kept.read_bytes() == before


def test_weights_without_a_state_are_not_trained_over(
    data: dict[str, Path], finished: Finished
) -> None:
    run = RunFolder(finished())
    run.files.last.unlink()
    run.files.previous.unlink()
    before = {p: p.read_bytes() for p in run.root.rglob("*") if p.is_file()}
    with pytest.raises(DataError, match=r"kept\.pt, model/model\.safetensors.*init_from.*delete"):
        train(toy_config(), data, run.root)
    run.files.kept.unlink()
    with pytest.raises(DataError, match=r"holds weights of a training \(model/model"):
        train(toy_config(), data, run.root)
    left = {p: p.read_bytes() for p in run.root.rglob("*") if p.is_file()}
    assert left == {p: content for p, content in before.items() if p != run.files.kept}


@pytest.mark.slow
def test_a_run_that_had_saved_nothing_begins_again(
    data: dict[str, Path], whole: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Killed at step 1, before the first checkpoint: nothing is lost but a step."""
    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_report", _killed)
        with pytest.raises(Killed):
            train(toy_config(), data, tmp_path / "run")
    train(toy_config(), data, tmp_path / "run")
    assert same(kept(tmp_path / "run"), kept(whole))


class Killed(BaseException):
    """As `kill -9`, as far as Python can be told."""


def _killed(*_: object) -> None:
    raise Killed


@pytest.mark.slow
@pytest.mark.parametrize("when", [1, 2, 3])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_killed_between_the_state_and_the_weights_it_keeps(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int, keep: str,
    unbroken: dict[str, dict[str, torch.Tensor]],
) -> None:  # fmt: skip
    config = toy_config(f"train.keep={keep}")
    calls: list[object] = []
    real = TrainingState.keep

    def killed(self: TrainingState, run: RunFolder) -> None:
        calls.append(self)
        if len(calls) == when:
            raise Killed
        real(self, run)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "keep", killed)
        try:
            train(config, data, tmp_path / "run")
        except Killed:
            assert len(calls) == when
    train(config, data, tmp_path / "run")
    assert same(kept(tmp_path / "run"), unbroken[keep])


def test_kept_weights_that_cannot_be_made_again(data: dict[str, Path], finished: Finished) -> None:
    """The last are the state's own; of the best of an earlier step there is no second copy."""
    run = RunFolder(finished())
    good = kept(run.root)
    damage(run.files.kept)
    train(toy_config(), data, run.root)
    assert same(kept(run.root), good)
    state = torch.load(run.files.last, weights_only=True)
    state["choice"]["kept_step"] = 2
    save_checkpoint(run.files.last, state)
    run.files.kept.unlink()
    with pytest.raises(DataError, match=r"kept\.pt.*those of step 2.*delete"):
        train(toy_config(), data, run.root)


def test_a_newer_state_is_not_thrown_away(data: dict[str, Path], tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    save_checkpoint(run.files.previous, {"model": {}, "step": 1})
    save_checkpoint(run.files.last, {"model": {}, "step": 2, "schema": 99})
    with pytest.raises(DataError, match="newer version"):
        find_state(run)
    assert run.files.last.exists()


def test_without_hard_links_the_state_before_is_kept_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, Path]
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    train(toy_config(), data, tmp_path)
    steps = [load_checkpoint(tmp_path / "checkpoints" / f"{n}.pt")["step"]
             for n in ("previous", "last")]  # fmt: skip
    assert steps == [4, 6]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_refused_checkpoint_passes_on_no_advice_of_torch(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("ran",)

    run = RunFolder(tmp_path)
    run.files.last.parent.mkdir(parents=True)
    torch.save({"model": Bomb()}, run.files.last)
    with pytest.raises(DataError) as told:
        find_state(run)
    text = str(told.value)
    assert "weights_only" not in text and "PyTorch" not in text
    assert "running code" in text and "last.pt" in text


def test_not_a_number_before_the_first_checkpoint(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = training.Trainer._optimise

    def poison(self: training.Trainer, batches: dict[str, training.Batch]) -> object:
        if self.step == limit:
            batches["b"].image[1, 0, 5, 5] = float("nan")
        return plain(self, batches)

    monkeypatch.setattr(training.Trainer, "_optimise", poison)
    for limit, words in ((0, "no checkpoint was written before"), (3, r"of step 2, in .*last\.pt")):
        out = tmp_path / str(limit)
        with pytest.raises(DataError, match=words) as told:
            train(toy_config("augment.probability=0"), data, out)
        assert ("last.pt" in str(told.value)) == (out / "checkpoints/last.pt").exists()


BAD = {
    "model.heads=3": "model.heads=3 does not divide",
    "loss.class_weights=[1, 2]": "loss.class_weights has 2 values",
    "predict.largest_component=['bal']": "Did you mean 'ball'|Did you mean ball",
    "evaluate.tolerance_mm={bxo=1.0}": "Did you mean 'box'|Did you mean box",
    "model.options.window=0": "swin_unet",
    "model.options.heads=[1, 3, 5]": "swin_unet",
    "model.pretrained=nowhere.pt": "there is no file nowhere",
}


@pytest.mark.parametrize("setting", BAD)
def test_faults_of_the_configuration_come_before_any_case_is_prepared(
    data: dict[str, Path], tmp_path: Path, setting: str
) -> None:
    done: list[object] = []
    with pytest.raises(UnpairedError, match=BAD[setting]):
        prepare_run(
            toy_config(setting), data, RunFolder(tmp_path), progress=lambda *a: done.append(a)
        )
    assert not done and not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize(
    ("network", "setting"),
    [
        (("model.backbone=nnformer",), "model.options.heads=[5]"),
        (("model.backbone=resenc_unet",), "model.options.kernels=[2]"),
        (("model.backbone=unet",), "model.options.strides=[2, 2]"),
        (("model.name=ummkd",), "model.options.nonsense=1"),
        (("model.name=valindria",), "model.options.nonsense=1"),
        (("model.name=payer", "data.dims=3"), "model.options.nonsense=1"),
    ],
)
def test_of_every_network(
    data: dict[str, Path], tmp_path: Path, network: tuple[str, ...], setting: str
) -> None:
    from unpaired.config import load_config

    config = load_config(None, None, ["train.device=cpu", *network, setting])
    with pytest.raises(UsageError):
        prepare_run(config, data, RunFolder(tmp_path))
    assert not list(tmp_path.rglob("*.npy"))


def test_a_device_that_is_not_there_is_refused_first(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unpaired.cli.train import one_run

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnpairedError, match="no GPU"):
        one_run(toy_config("train.device=cuda"), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_log_is_read_as_far_as_it_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "log.jsonl"
    good = b'{"kind": "step", "step": 1, "loss": 0.5}\n'
    log.write_bytes(good + b"\xff\xfe\n" + b"5\n" + good.replace(b"1,", b"2,") + b'{"kind": "st')
    assert [record["step"] for record in read_log(log)] == [1, 2]
    assert "damaged lines are left out (2, 3)" in caplog.text
    note_schedule(log, 2, 4)
    assert [record["kind"] for record in read_log(log)] == ["step", "step", "schedule"]
