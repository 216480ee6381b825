"""The Python face: data in memory, scores, settings, and the errors of the command line."""

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import unpaired as up
from toy import toy_config, write_toy
from unpaired.api.data import RECORD, MemoryDataset
from unpaired.run.scores import Evaluation, Score


def cases(count: int = 8) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A bright box in noise, as arrays [i j k]."""
    images, labels = {}, {}
    for n in range(count):
        rng = np.random.default_rng(n)
        truth = np.zeros((36, 32, 6), np.uint8)
        truth[8 + n % 3 : 24 + n % 3, 10:24, 1:5] = 1
        images[f"case{n}"] = (90.0 * truth + rng.normal(0, 8, truth.shape)).astype(np.float32)
        labels[f"case{n}"] = truth
    return images, labels


def memory(**changes: object) -> MemoryDataset:
    images, labels = cases()
    options: dict[str, object] = {"classes": {"box": 1}, "spacing_mm": (1.0, 1.0, 3.0), **changes}
    return up.make_dataset(images, labels, **options)  # type: ignore[arg-type]


def test_importing_brings_no_torch() -> None:
    code = "import sys, unpaired; print('torch' in sys.modules, 'numpy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_every_public_name_is_there() -> None:
    assert dir(up) == up.__all__
    for name in up.__all__:
        assert getattr(up, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = up.trian  # type: ignore[attr-defined]


def test_strings_go_wherever_paths_go() -> None:
    public = [getattr(up, name) for name in up.__all__]
    methods = [m for one in public if inspect.isclass(one) for m in vars(one).items()]
    found = [(one.__name__, one) for one in public if inspect.isfunction(one)]
    found += [(n, getattr(m, "__func__", m)) for n, m in methods if not n.startswith("_")]
    takes = [
        (name, argument, str(kind))
        for name, one in found
        for argument, kind in getattr(one, "__annotations__", {}).items()
        if argument != "return" and "Path" in str(kind)
    ]
    assert len(takes) > 10
    assert not [one for one in takes if "str" not in one[2]]


def test_scans_in_memory_are_written_as_they_are(tmp_path: Path) -> None:
    images, _ = cases()
    tensors = {i: torch.from_numpy(x) for i, x in images.items()}
    data = up.make_dataset(
        tensors, cases()[1], classes={"box": 1, "background": 0}, spacing_mm=(1, 1, 3)
    )
    folder = data.write(tmp_path / "mr")
    opened = up.open_dataset(str(folder))
    assert [case.id for case in opened.cases] == sorted(images)
    assert opened.labels == {"background": 0, "box": 1}
    written = up.read(opened.cases[3].images[0])
    assert np.array_equal(written.array, images["case3"])
    assert written.spacing_mm == (1.0, 1.0, 3.0)
    assert "8 cases of MR: box" in repr(data)


def test_other_scans_in_memory_are_refused_where_a_run_began(tmp_path: Path) -> None:
    memory().write(tmp_path)
    before = (tmp_path / "imagesTr" / "case0_0000.nii.gz").stat().st_mtime_ns
    memory().write(tmp_path)
    assert (tmp_path / "imagesTr" / "case0_0000.nii.gz").stat().st_mtime_ns == before
    assert (tmp_path / RECORD).is_file()
    images, labels = cases()
    images["case5"] = images["case5"] + 1
    other = up.make_dataset(images, labels, classes={"box": 1}, spacing_mm=(1, 1, 3))
    with pytest.raises(up.DataError, match=r"case5 \(one of 1\) is not what it was"):
        other.write(tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"spacing_mm": None}, up.UsageError, "an array needs its geometry: give affine="),
        ({"spacing_mm": (1.0, 1.0)}, up.UsageError, "must be three numbers, one an axis"),
        ({"spacing_mm": (40.0, 1, 1)}, up.UsageError, r"Did you mean \(1.0, 1.0, 40.0\)\?"),
        ({"spacing_mm": (1.0, 1.0, 0.0)}, up.DataError, "the spacing is 1 x 1 x 0 mm"),
        ({"spacing_mm": None, "affine": np.eye(3)}, up.UsageError, "affine must be 4 x 4"),
        ({"classes": {"box": 2}}, up.DataError, "holds 1, which no class has"),
        ({"channels": ("T1", "T2")}, up.DataError, "has 1 channels, but 2 are named: T1, T2"),
    ],
)
def test_what_does_not_fit_is_refused(
    changes: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        memory(**changes)


def test_images_and_labels_belong_together() -> None:
    images, labels = cases()
    del labels["case2"]
    with pytest.raises(up.DataError, match="'case2' has no partner"):
        up.make_dataset(images, labels, classes={"box": 1}, spacing_mm=(1, 1, 3))
    with pytest.raises(up.UsageError, match="there is no image"):
        up.make_dataset({}, {}, classes={"box": 1}, spacing_mm=(1, 1, 3))
    images, labels = cases()
    labels["case1"] = labels["case1"][:-1]
    with pytest.raises(up.DataError, match="bring both to one grid"):
        up.make_dataset(images, labels, classes={"box": 1}, spacing_mm=(1, 1, 3))


def test_settings_are_checked_as_on_the_command_line() -> None:
    config = up.preset("demo").replace(train={"steps": 7}, loss={"gamma": 0.2})
    assert (config.train.steps, config.loss.gamma) == (7, 0.2)
    assert config.train.learning_rate == up.preset("demo").train.learning_rate
    with pytest.raises(up.UsageError, match=r"train\.stepz: there is no such key\. Did you mean"):
        config.replace(train={"stepz": 7})
    with pytest.raises(up.UsageError, match="Did you mean demo"):
        up.preset("demoo")
    other = config.replace(model={"backbone": "swin_unet"})
    assert other.model.options == {}, "another network has other options"


def test_a_wrong_folder_is_said() -> None:
    with pytest.raises(up.DataError, match="no/such/folder"):
        up.open_dataset("no/such/folder")


def test_scores_are_a_table_and_rows(tmp_path: Path) -> None:
    def one(modality: str, case: str, cls: str, dice: float) -> Score:
        return Score(modality, case, cls, dice, 1.0, 2.0, 0.9, 10, 12)

    found = (
        one("ct", "a", "liver", 0.8), one("ct", "b", "liver", 0.9), one("ct", "a", "spleen", 0.5),
        one("mr", "c", "liver", 0.6),
    )  # fmt: skip
    scores = up.Scores(Evaluation(found, {}, (), 2.0))
    assert scores.mean("dice", modality="ct") == pytest.approx((0.85 + 0.5) / 2)
    assert scores.mean("dice", modality="ct", cls="liver") == pytest.approx(0.85)
    assert scores.mean() == pytest.approx((0.675 + 0.6) / 2)
    assert "| liver |" in repr(scores)
    assert len(scores) == 4
    scores.to_csv(str(tmp_path / "s.csv"))
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines[0].startswith("modality,case,class,dice,asd_mm")
    assert lines[1].startswith("ct,a,liver,0.8,1.0")
    with pytest.raises(up.UsageError, match=r"no metric 'dise'\. Did you mean 'dice'"):
        scores.mean("dise")
    with pytest.raises(up.UsageError, match="no modality 'pet'"):
        scores.mean(modality="pet")


def test_pandas_is_used_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = up.Scores(Evaluation((), {}, (), 2.0))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(up.UsageError, match="pip install pandas"):
        scores.to_pandas()


@pytest.mark.slow
def test_from_folders_to_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_toy(tmp_path / "scans", "ct", 8, True, (1, 2))
    kinds: list[str] = []
    images, labels = cases()
    balls = up.make_dataset(
        images, labels, classes={"ball": 1, "box": 2}, spacing_mm=(1.0, 1.0, 3.0)
    )
    data = {"ct": up.open_dataset(folder), "mr": balls}
    config = toy_config("train.steps=4")
    run = up.train(
        data, config, out=str(tmp_path / "run"), on_step=lambda r: kinds.append(r["kind"])
    )
    assert kinds.count("step") == 4
    assert "validation" in kinds
    assert "step 4 of 4" in repr(run)
    scores = run.evaluate()
    assert {row["modality"] for row in scores} == {"ct", "mr"}
    longer = up.train(data, config.replace(train={"steps": 6}), out=tmp_path / "run")
    assert [r["step"] for r in longer.log if r["kind"] == "step"] == [1, 2, 3, 4, 5, 6]

    model = up.load(str(tmp_path / "run"))
    image = images["case0"]
    seg = model.predict(image, modality="mr", spacing_mm=(1.0, 1.0, 3.0))
    again = model.predict(torch.from_numpy(image), modality="mr", affine=np.diag([1.0, 1, 3, 1]))
    assert np.array_equal(seg.labels, again.labels)
    assert "array" not in repr(seg)
    assert len(repr(seg)) < 300
    seg.save(str(tmp_path / "out" / "labels.nii.gz"))
    assert np.array_equal(up.read(tmp_path / "out" / "labels.nii.gz").array, seg.labels)
    assert seg.volume_ml("ball") == pytest.approx(0.003 * float((seg.labels == 1).sum()))
    with pytest.raises(up.UsageError, match=r"no class 'bal'\. Did you mean 'ball'"):
        seg.volume_ml("bal")
    with pytest.raises(up.UsageError, match="does not know the modality 'pet'"):
        model.predict(image, modality="pet", spacing_mm=(1.0, 1.0, 3.0))
    plain = model.fold("mr")
    assert isinstance(plain, torch.nn.Module)
    with pytest.raises(up.UsageError, match="modality 'pet'"):
        model.fold("pet")
