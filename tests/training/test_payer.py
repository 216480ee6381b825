"""Payer et al. 2017 through the ordinary commands: learns, resumes, predicts, exports."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from toy import toy_config
from unpaired.artifact.export import export
from unpaired.config import Config, load_config
from unpaired.data.plan import Plan
from unpaired.data.sampling import Draws
from unpaired.errors import UsageError
from unpaired.evaluation.evaluate import evaluate, folded_differences
from unpaired.evaluation.localisation import localisation_errors_mm
from unpaired.files import read_json
from unpaired.inference.predictor import Predictor
from unpaired.methods import method_of
from unpaired.metrics import dice
from unpaired.run import RunFolder
from unpaired.training.checkpoint import load_checkpoint
from unpaired.training.fit import train
from unpaired.training.forecast import forecast
from unpaired.training.prepare import prepare_run
from unpaired.training.validate import validate

pytestmark = pytest.mark.slow

COARSE_MM = 3.0


def config_of(*more: str) -> Config:
    """The toy of 10 x 36 x 40 voxels of 3 x 1 x 1 mm, in small networks."""
    kept = toy_config().train.model_dump(exclude_none=True)
    base = [
        "data.dims=3", "data.workers=0", "data.split=[0.5, 0.25, 0.25]", "model.name=payer",
        "model.options.width=8", "model.options.levels=3", "model.options.configuration_width=8",
        "model.options.configuration_kernel=3", "model.options.coarse_width=8",
        "model.options.coarse_levels=2", f"locate.coarse_mm={COARSE_MM}", "locate.margin_mm=2",
        "locate.jitter_mm=2", "locate.sigma_mm=6", "augment.probability=0.1",
        *(f"train.{k}={v}" for k, v in kept.items()), "train.learning_rate=0.01",
    ]  # fmt: skip
    return load_config(None, None, [*base, *more])


@pytest.fixture(scope="module")
def learnt(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt the toy's two modalities."""
    run = tmp_path_factory.mktemp("learnt") / "run"
    train(config_of("train.steps=50", "train.steps_per_epoch=50"), data, run)
    return run


def truth_of(image: Path) -> np.ndarray:
    path = image.parents[1] / "labelsTr" / image.name.replace("_0000", "")
    return np.asarray(nib.load(path).dataobj)


def test_it_overfits_a_tiny_set_on_the_grid_of_the_files(
    learnt: Path, data: dict[str, Path]
) -> None:
    predictor = Predictor.from_folder(learnt, device="cpu")
    values = {"a": (1, 2), "b": (7, 3)}
    scores = []
    for m, cases in RunFolder(learnt).prepared_cases("train").items():
        for case in cases:
            image = data[m] / "imagesTr" / f"{case.id}_0000.nii.gz"
            found, truth = predictor.predict(image, m).labels, truth_of(image)
            scores += [dice(found == z, truth == v) for z, v in enumerate(values[m], 1)]
    assert len(scores) == 8 and np.mean(scores) > 0.9


def test_it_finds_the_structures_within_a_cell(learnt: Path) -> None:
    """The bound: half the diagonal of a coarse cell, which no maximum can undercut, and as much
    again for the network."""
    bound = COARSE_MM * np.sqrt(3)
    for part in ("train", "val"):
        errors = localisation_errors_mm(learnt, part, "cpu")
        assert set(errors) == {"a", "b"}
        assert max(max(cases.values()) for cases in errors.values()) < bound


def test_the_model_of_the_folder_labels_as_the_live_one_validated(learnt: Path) -> None:
    """The validation scores in the log are those of the exported model."""
    setup = RunFolder(learnt)
    config = config_of()
    joint = method_of(config).joint(config, setup.plan)
    joint.load_state_dict(load_checkpoint(learnt / "checkpoints" / "last.pt")["model"])
    live = validate(joint, setup.prepared_cases("val"), config, setup.plan)
    evaluate(learnt, part="val", device="cpu")
    scored = read_json(learnt / "evaluation_val" / "evaluation.json")["cases"]
    # On the toy the prepared grid is that of the files.
    for row in scored:
        assert row["dice"] == pytest.approx(live.dice[row["modality"]][row["cls"]], abs=1e-12)
    assert len(scored) == 4


def test_the_box_may_touch_the_border_of_the_scan(learnt: Path, data: dict[str, Path]) -> None:
    """A scan cut through its structures still gives labels on its own grid, up to the edge."""
    image = nib.load(next((data["a"] / "imagesTr").glob("*.nii.gz")))
    cut = np.asarray(image.dataobj)[8:, 12:, :]
    labels = (
        Predictor.from_folder(learnt, device="cpu")
        .predict(cut.astype(np.float32), "a", affine=np.asarray(image.affine))
        .labels
    )
    assert labels.shape == cut.shape
    assert (labels[0] == 1).any()  # the ball is cut by the first plane


def test_what_is_far_from_the_crop_is_background(learnt: Path, data: dict[str, Path]) -> None:
    image = nib.load(next((data["a"] / "imagesTr").glob("*.nii.gz")))
    large = np.pad(np.asarray(image.dataobj), [(0, 40), (0, 30), (0, 10)], mode="reflect")
    predictor = Predictor.from_folder(learnt, device="cpu")
    labels = predictor.predict(
        large.astype(np.float32), "a", affine=np.asarray(image.affine)
    ).labels
    found = np.argwhere(labels > 0)
    extent = found.max(0) - found.min(0) + 1
    assert np.all(extent <= np.array(predictor.plan.patch)[::-1])  # file order i j k
    whole = predictor.predict(
        large.astype(np.float32), "a", affine=np.asarray(image.affine), probabilities=True
    )
    assert whole.probabilities is not None
    assert np.allclose(whole.probabilities.sum(0), 1, atol=1e-5)


def test_nothing_is_shared_between_the_modalities(learnt: Path) -> None:
    config, plan = config_of(), Plan.read(learnt / "plan.json")
    joint = method_of(config).joint(config, plan)
    objective = method_of(config).objective(config, plan)
    setup = RunFolder(learnt)
    batches = {
        name: stream.sampler.batch(0)
        for name, stream in method_of(config)
        .streams(config, plan, setup.prepared_cases("train"), Draws(2, 0))
        .items()
    }
    assert set(batches) == {"a", "b", "a/whole", "b/whole"}
    for m, other in (("a", "b"), ("b", "a")):
        joint.zero_grad(set_to_none=True)
        own = {name: batch for name, batch in batches.items() if name.split("/")[0] == m}
        outputs = joint({name: batch.image for name, batch in own.items()})
        objective(outputs, {name: batch.label for name, batch in own.items()}).total.backward()
        for name, p in joint.named_parameters():
            touched = p.grad is not None and bool(p.grad.abs().sum() > 0)
            assert touched == (f"encoders.{m}." in name), name
            assert f".{m}." in name or f".{other}." in name, name


def test_the_stems_stay_the_identity(learnt: Path) -> None:
    state = load_checkpoint(learnt / "checkpoints" / "last.pt")["model"]
    stems = {name: value for name, value in state.items() if ".stems." in name}
    assert len(stems) == 4
    assert all(float(value.flatten()) == 1.0 for value in stems.values())


def test_an_interrupted_training_ends_as_an_unbroken_one(
    data: dict[str, Path], tmp_path: Path
) -> None:
    more = ["train.steps=5", "train.batch_size=1"]
    train(config_of(*more), data, tmp_path / "whole")
    broken = tmp_path / "broken"
    short = config_of(*more, "train.max_minutes=0.0001")
    calls = 1
    while train(short, data, broken).step < 5:
        calls += 1
    assert calls > 2
    a, b = (
        load_checkpoint(run / "checkpoints" / "last.pt") for run in (tmp_path / "whole", broken)
    )
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])


def test_a_run_starts_from_another_and_keeps_its_crop(
    learnt: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    other = ("locate.margin_mm=9", "locate.coarse_mm=6")
    config = config_of("train.steps=1", f"train.init_from={learnt}", *other)
    train(config, data, tmp_path / "next")
    before, after = Plan.read(learnt / "plan.json"), Plan.read(tmp_path / "next" / "plan.json")
    assert after.patch == before.patch and after.coarse == before.coarse


def test_the_folded_networks_find_and_segment_alike(
    learnt: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    assert folded_differences(learnt) == {"a": 0, "b": 0}
    export(learnt, tmp_path / "folded", form="folded")
    export(learnt, tmp_path / "gains")
    predictors = [
        Predictor.from_folder(place, device="cpu")
        for place in (learnt, tmp_path / "folded", tmp_path / "gains")
    ]
    for m, root in data.items():
        image = next((root / "imagesTr").glob("*.nii.gz"))
        labels = [predictor.predict(image, m).labels for predictor in predictors]
        assert labels[0].any()
        assert all(np.array_equal(labels[0], other) for other in labels[1:])


@pytest.mark.parametrize("name", ["pt2", "bundle"])
def test_formats_of_one_graph_are_refused(name: str, learnt: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="first looks for the structures"):
        export(learnt, tmp_path / "out", form="folded", formats=[name])
    assert not (tmp_path / "out").exists()


def test_an_average_of_two_looks_where_each_finds_the_structures(
    learnt: Path, data: dict[str, Path]
) -> None:
    image = next((data["b"] / "imagesTr").glob("*.nii.gz"))
    one = Predictor.from_folder(learnt, device="cpu").predict(image, "b", probabilities=True)
    two = Predictor.from_folder([learnt, learnt], device="cpu")
    both = two.predict(image, "b", probabilities=True)
    assert one.probabilities is not None and both.probabilities is not None
    assert np.allclose(one.probabilities, both.probabilities, atol=1e-6)


def test_needs_are_said_beforehand(learnt: Path) -> None:
    ahead = forecast(config_of(), Plan.read(learnt / "plan.json"))
    assert ahead.training_parameters == ahead.test_parameters > 10_000
    assert ahead.memory_bytes > 0


def test_pictures_are_refused(data: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"set data.dims=3"):
        prepare_run(config_of("data.dims=2"), data, RunFolder(tmp_path))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("model.options.levels=0", "levels=0"),
        ("model.options.configuration_stride=3", "power of two"),
        ("model.options.configuration_kernel=4", "must be odd"),
        ("model.options.depth=4", "options.depth is unknown"),
        ("model.pretrained=x.pt", "network of its own"),
    ],
)
def test_options_out_of_range_are_refused(
    option: str, said: str, learnt: Path, tmp_path: Path, data: dict[str, Path]
) -> None:
    with pytest.raises(UsageError, match=said):
        train(config_of(option, "train.steps=1"), data, tmp_path / "run")
