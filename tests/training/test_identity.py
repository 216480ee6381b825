"""A run goes on with what it began with, or says by name what changed."""

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from toy import toy_config, write_toy
from unpaired.cli.app import run as program
from unpaired.config import to_toml
from unpaired.errors import DataError, UsageError
from unpaired.evaluation.evaluate import evaluate
from unpaired.files import read_json
from unpaired.report import write_report
from unpaired.run import RunFolder
from unpaired.run.inputs import read_inputs
from unpaired.training.checkpoint import save_checkpoint
from unpaired.training.fit import train
from unpaired.training.prepare import Preparing, prepare_run


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    root = tmp_path / "data"
    return {
        "a": write_toy(root, "a", 4, True, (1, 2)),
        "b": write_toy(root, "b", 4, False, (7, 3)),
    }


@pytest.fixture
def begun(data: dict[str, Path], tmp_path: Path) -> RunFolder:
    """A run that has a state to go on from."""
    run = RunFolder(tmp_path / "run")
    prepare_run(toy_config(), data, run)
    save_checkpoint(run.files.last, {"model": {}, "step": 2})
    return run


def edit(path: Path) -> None:
    """Other voxels."""
    image = nib.load(path)
    array = np.roll(np.asarray(image.dataobj), 1, 0)
    nib.save(nib.Nifti1Image(array, image.affine, image.header), path)


def same_size_edit(path: Path) -> None:
    """One byte of a plain file, its size and time as they were."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size


def named(caught: pytest.ExceptionInfo[UsageError]) -> list[str]:
    return [line.strip() for line in str(caught.value).splitlines()[1:-1]]


def test_every_input_is_recorded_by_its_sha256(begun: RunFolder) -> None:
    files = begun.inputs.files
    split = begun.split
    used = [f"{m}/{i}" for part in ("train", "val", "test") for m, ids in split.part(part).items()
            for i in ids]  # fmt: skip
    wanted = {f"{one} {what}" for one in used for what in ("image", "label")}
    assert files.keys() == wanted | {"a dataset.json", "b dataset.json", "splits_final.json"}
    assert len(used) == 8 and all(len(digest) == 64 for digest in files.values())


def test_all_changed_files_are_named_and_nothing_is_written(
    begun: RunFolder, data: dict[str, Path]
) -> None:
    for path in sorted((data["a"] / "imagesTr").iterdir()):
        edit(path)
    edit(data["b"] / "labelsTr/b_02.nii.gz")
    meta = data["b"] / "dataset.json"
    meta.write_text(meta.read_text() + "\n")
    before = {p: p.read_bytes() for p in begun.root.rglob("*") if p.is_file()}
    with pytest.raises(UsageError, match="--accept-changes") as caught:
        prepare_run(toy_config(), data, begun)
    wanted = [*(f"a/a_{n:02d} image" for n in range(4)), "b/b_02 label", "b dataset.json"]
    assert sorted(named(caught)) == sorted(wanted)
    assert {p: p.read_bytes() for p in begun.root.rglob("*") if p.is_file()} == before


def test_an_edit_that_keeps_size_and_time_is_found(data: dict[str, Path], tmp_path: Path) -> None:
    """When the run goes on, and when cases are only prepared again."""
    for path in sorted((data["a"] / "imagesTr").iterdir()):
        nib.save(nib.load(path), str(path).removesuffix(".gz"))
        path.unlink()
    run = RunFolder(tmp_path / "run")
    prepare_run(toy_config(), data, run, Preparing(tmp_path / "cache"))
    (cache,) = (tmp_path / "cache").iterdir()
    old = (cache / "a/a_01.npy").read_bytes()
    same_size_edit(data["a"] / "imagesTr/a_01_0000.nii")
    prepare_run(toy_config(), data, RunFolder(tmp_path / "other"), Preparing(tmp_path / "cache"))
    assert (cache / "a/a_01.npy").read_bytes() != old
    save_checkpoint(run.files.last, {"model": {}, "step": 2})
    with pytest.raises(UsageError) as caught:
        prepare_run(toy_config(), data, run, Preparing(tmp_path / "cache"))
    assert named(caught) == ["a/a_01 image"]


@pytest.mark.parametrize("which", ["the run's own", "data.splits"])
def test_another_split_is_refused(which: str, data: dict[str, Path], tmp_path: Path) -> None:
    given, config = tmp_path / "given.json", toy_config()
    prepare_run(config, data, RunFolder(tmp_path / "draw"))
    shutil.copy(tmp_path / "draw/splits_final.json", given)
    config = toy_config(f"data.splits={given.as_posix()}")
    run = RunFolder(tmp_path / "run")
    prepare_run(config, data, run)
    save_checkpoint(run.files.last, {"model": {}, "step": 2})
    path = given if which == "data.splits" else run.files.splits
    (fold,) = json.loads(path.read_text())
    test = fold["test"].pop(0)
    fold["train"].append(test)
    path.write_text(json.dumps([fold]))
    with pytest.raises(UsageError) as caught:
        prepare_run(config, data, run)
    assert named(caught) == ["data.splits" if which == "data.splits" else "splits_final.json"]
    if which != "data.splits":
        with pytest.raises(DataError, match=r"splits_final\.json changed since"):
            _ = RunFolder(run.root).split
    prepare_run(config, data, run, Preparing(accept_changes=True))
    assert test in read_json(run.files.splits)[0]["train"], "what was accepted counts"
    assert run.inputs.accepted[0]["step"] == 2
    prepare_run(config, data, run)


def test_weights_to_start_from_are_inputs(data: dict[str, Path], tmp_path: Path) -> None:
    train(toy_config("train.steps=1"), data, tmp_path / "source")
    config = toy_config(f"train.init_from={(tmp_path / 'source').as_posix()}")
    run = RunFolder(tmp_path / "run")
    prepare_run(config, data, run)
    assert "train.init_from" in run.inputs.files
    save_checkpoint(run.files.last, {"model": {}, "step": 2})
    save_checkpoint(tmp_path / "source/checkpoints/kept.pt", {"model": {}, "step": 9})
    with pytest.raises(UsageError) as caught:
        prepare_run(config, data, run)
    assert named(caught) == ["train.init_from"]


@pytest.mark.slow
def test_accepted_changes_are_recorded_and_shown(
    data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    settings = tmp_path / "toy.toml"
    settings.write_text(to_toml(toy_config("train.steps=2")))
    call = ["train", "--out", str(tmp_path / "run"), "--config", str(settings)]
    call += [part for m, root in data.items() for part in ("--data", f"{m}={root}")]
    assert program(call) == 0
    run = RunFolder(tmp_path / "run")
    (test,) = run.split.test["a"]
    edit(data["a"] / f"imagesTr/{test}_0000.nii.gz")
    capsys.readouterr()
    assert program([*call, "train.steps=4"]) == 2
    said = capsys.readouterr().err
    assert f"a/{test} image" in said and "--accept-changes" in said
    assert program([*call, "train.steps=4", "--accept-changes"]) == 0
    (accepted,) = read_inputs(run.files.inputs).accepted
    assert accepted["step"] == 2 and accepted["changed"] == [f"a/{test} image"]
    assert accepted["when"].startswith("20") and "+00:00" in accepted["when"]
    assert f"from step 2 on with changed inputs: a/{test} image" in caplog.text
    page = write_report(run.root).read_text()
    assert "From step 2 on" in page and f"a/{test} image" in page
    assert program([*call, "train.steps=6"]) == 0, "accepted once, it is what the run has"


def test_python_accepts_changes_too(data: dict[str, Path], tmp_path: Path) -> None:
    import unpaired as up

    up.train(data, toy_config("train.steps=1"), out=tmp_path / "run")
    edit(data["a"] / "labelsTr/a_00.nii.gz")
    with pytest.raises(UsageError, match="a/a_00 label"):
        up.train(data, toy_config("train.steps=1"), out=tmp_path / "run")
    again = up.train(data, toy_config("train.steps=1"), out=tmp_path / "run", accept_changes=True)
    assert again.inputs.accepted[0]["changed"] == ["a/a_00 label"]


def test_evaluate_says_that_test_scans_changed(
    data: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(toy_config("train.steps=1"), data, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert evaluate(run.root)["native"].notes == ()
    (test,) = run.split.test["b"]
    edit(data["b"] / f"labelsTr/{test}.nii.gz")
    (note,) = evaluate(run.root)["native"].notes
    assert f"b/{test} label" in note and "training" in note and note in caplog.text
    assert run.scores.notes == (note,)
    page = (run.files.evaluation() / "evaluation.md").read_text()
    assert f"b/{test} label" in page.replace("\\", "")
    assert f"b/{test} label" in write_report(run.root).read_text()


def test_a_run_without_a_record_is_compared_with_its_prepared_cases(
    begun: RunFolder, data: dict[str, Path]
) -> None:
    """As an earlier version left it."""
    begun.files.inputs.unlink()
    prepare_run(toy_config(), data, begun)
    assert begun.inputs.files
    begun.files.inputs.unlink()
    edit(data["b"] / "labelsTr/b_01.nii.gz")
    with pytest.raises(UsageError) as caught:
        prepare_run(toy_config(), data, begun)
    assert named(caught) == ["b/b_01 label"]


def test_a_record_that_changed_is_refused(begun: RunFolder, data: dict[str, Path]) -> None:
    text = begun.files.inputs.read_text()
    begun.files.inputs.write_text(text.replace("a/a_00", "a/a_0x"))
    with pytest.raises(DataError, match=r"inputs\.json changed since"):
        prepare_run(toy_config(), data, begun)


def test_moved_data_are_the_same_data(
    begun: RunFolder, data: dict[str, Path], tmp_path: Path
) -> None:
    moved = {m: shutil.move(root, tmp_path / f"moved_{m}") for m, root in data.items()}
    prepare_run(toy_config(), {m: Path(root) for m, root in moved.items()}, begun)


def test_values_in_data_json_that_changed_are_refused(begun: RunFolder, tmp_path: Path) -> None:
    text = begun.files.data.read_text()
    begun.files.data.write_text(text.replace('"7": 1', '"7": 2'))
    with pytest.raises(DataError, match=r"data\.json changed since it was written"):
        _ = begun.data
    begun.files.data.write_text(text.replace(str(tmp_path / "data"), str(tmp_path / "moved")))
    assert RunFolder(begun.root).data.classes, "places may be mended by hand"


def test_dicom_slices_count_whatever_they_are_called(tmp_path: Path) -> None:
    from unpaired.datasets.dataset import Case
    from unpaired.run.inputs import digests_of, inputs_of

    folder = tmp_path / "s"
    folder.mkdir()
    for n in range(3):
        (folder / f"{n}.dcm").write_bytes(bytes([n]))
    case = Case("x", "mr", (folder,), None, "x")
    first = digests_of(inputs_of([case]), {})
    (folder / "0.dcm").rename(folder / "9.dcm")
    assert digests_of(inputs_of([case]), {}) == first
    (folder / "9.dcm").write_bytes(b"9")
    assert digests_of(inputs_of([case]), {}) != first
