"""Voxels marked `ignore` count nowhere: losses, patches, validation, floor, plan, scores."""

import json
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from small_joint import small_joint, small_step
from small_sets import plan, prepared_case, straight
from toy import toy_config, write_toy
from unpaired.config import AugmentConfig
from unpaired.data.augment import augment
from unpaired.data.content import annotated_slices
from unpaired.data.frame import labelled_frame
from unpaired.data.plan import ModalityPlan
from unpaired.data.preprocess import place, preprocess_label
from unpaired.data.sampling import IGNORE_INDEX, Batch, Draws, PatchSampler
from unpaired.datasets.dataset import IGNORED
from unpaired.errors import DataError
from unpaired.evaluation.evaluate import NATIVE, PREPARED, evaluate
from unpaired.evaluation.prior import location_prior, prior_dice
from unpaired.files import read_json
from unpaired.io.volume import Volume
from unpaired.losses import Objective, SegmentationLoss, auxiliary_loss, segmentation
from unpaired.losses.segmentation import cross_entropy, dice_loss
from unpaired.methods.payer.crops import coarse_marks, structures_centre
from unpaired.methods.ummkd import distillation, frequency_cross_entropy, plain_dice_loss
from unpaired.run import RunFolder
from unpaired.training.fit import train
from unpaired.training.validate import _scored

WEIGHTS = torch.tensor([0.5, 1.5, 2.0]).double()


def drawn(space=(4, 6), images=2, seed=0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, a label, and the same label with about half of it ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, 3, *space, generator=generator).double().requires_grad_()
    label = torch.randint(0, 3, (images, *space), generator=generator)
    marked = torch.rand(label.shape, generator=generator) < 0.5
    return logits, label, label.masked_fill(marked, IGNORE_INDEX)


LOSSES = {
    "cross-entropy": cross_entropy,
    "weighted": lambda x, y: cross_entropy(x, y, WEIGHTS),
    "dice": dice_loss,
    "dice without background": lambda x, y: dice_loss(x, y, background=False),
    "both": SegmentationLoss(0.4, 0.6, (0.5, 1.5, 2.0)),
    "ummkd's cross-entropy": frequency_cross_entropy,
    "ummkd's dice": plain_dice_loss,
    "ummkd's distillation": lambda x, y: distillation({"a": x, "b": x.flip(0)}, {"a": y, "b": y}),
}  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_is_that_of_the_annotated_positions(loss) -> None:
    logits, _, label = drawn()
    known = label != IGNORE_INDEX
    value = loss(logits, label)
    if loss is not LOSSES["ummkd's distillation"]:
        alone = loss(logits.movedim(1, -1)[known].T[None], label[known][None])
        torch.testing.assert_close(value, alone)
    # Whatever the network says where nobody annotated, nothing changes.
    other = torch.where(known[:, None], logits.detach(), 7 * torch.randn_like(logits))
    if loss is not LOSSES["ummkd's distillation"]:
        torch.testing.assert_close(loss(other, label), value)
    (slope,) = torch.autograd.grad(value, logits)
    assert slope.isfinite().all()
    if loss is not LOSSES["ummkd's distillation"]:
        assert not slope.movedim(1, -1)[~known].any()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_batch_without_an_annotation_costs_nothing_and_moves_nothing(loss) -> None:
    logits, label, _ = drawn()
    value = loss(logits, torch.full_like(label, IGNORE_INDEX))
    (slope,) = torch.autograd.grad(value, logits)
    assert value.isfinite() and not slope.any()


def test_every_scale_and_every_term_of_the_objective_leaves_them_out(monkeypatch) -> None:
    """Deep supervision, auxiliary loss and L_icr: the same objective with ignored positions whose
    label is another one."""
    joint = small_joint()
    images, labels = small_step()
    hidden = {m: label.clone() for m, label in labels.items()}
    for label in hidden.values():
        label[0, :, 16:] = IGNORE_INDEX
        label[1] = IGNORE_INDEX  # an image that nobody annotated
    output = joint(images)
    terms = Objective()(output, hidden)
    assert terms.total.isfinite()
    for m, label in hidden.items():
        kept = label[:1, :, :16]
        alone = SegmentationLoss()(output[m].logits[:1, :, :, :16], kept)
        torch.testing.assert_close(terms.terms[f"seg/{m}"], alone)
        for target in ("label", "logits"):
            aux = [x.detach().requires_grad_() for x in output[m].auxiliary]
            total = auxiliary_loss(aux, label, target)
            slopes = torch.autograd.grad(total, aux)
            assert total.isfinite() and not any(s[1].any() for s in slopes)
            assert all(s[0].any() for s in slopes)
    present = {m: segmentation.label_at(label, (8, 8)) for m, label in hidden.items()}
    assert all(((p == IGNORE_INDEX) == (segmentation.label_at(hidden[m], (8, 8)) < 0)).all()
               for m, p in present.items())  # fmt: skip


def test_labels_without_the_mark_take_the_same_road(monkeypatch) -> None:
    """Bit for bit: nothing is selected, so no sum runs in another order."""
    logits, label, _ = drawn((16, 16))
    kept = segmentation.annotated(logits, label)
    assert kept[0] is logits and kept[1] is label


def test_the_numbers_agree() -> None:
    assert IGNORE_INDEX == segmentation.IGNORE_INDEX == torch.nn.CrossEntropyLoss().ignore_index
    assert import_module("unpaired.metrics.score").IGNORED == IGNORED


# Preparing and sampling.


def test_a_prepared_label_keeps_them_and_no_class_wins_their_place() -> None:
    array = np.zeros((12, 12, 6), np.uint8)
    array[2:10, 2:10, :3] = 3
    array[:, :, 3:] = 9
    label = Volume(array, straight((1.0, 1.0, 3.0)))
    image = Volume(np.random.default_rng(0).normal(size=array.shape), label.affine)
    chosen = plan(spacing=(2.0, 1.5, 1.5))
    where = place([image], "ct", chosen)
    found = preprocess_label(label, where, {0: 0, 3: 1, 9: IGNORED}, 3)
    assert set(np.unique(found)) == {0, 1, IGNORED} and found.shape == where.grid
    half = found.shape[0] / 2
    assert (found[: int(half)] != IGNORED).all() and (found[int(half + 0.5) :] == IGNORED).all()


def test_the_frame_of_a_label_is_that_of_its_classes() -> None:
    label = np.full((8, 10, 10), IGNORED, np.uint8)
    label[3:5] = 0
    label[3:5, 4:6, 2:4] = 1
    recipe = ModalityPlan(
        channel_names=("CT",), clip=plan().modalities["ct"].clip, plane_centre="labels",
        slices="labelled",
    )  # fmt: skip
    frame = labelled_frame(label, (4.0, 5.0, 5.0), plan(plane=(4, 4)), recipe)
    assert frame == ((3, 5), (3, 7), (1, 5))
    with pytest.raises(DataError, match="holds none of the classes"):
        labelled_frame(np.full((4, 4, 4), IGNORED, np.uint8), (2.0, 2.0, 2.0), plan(), recipe)


@pytest.fixture
def sparse(tmp_path: Path) -> list:
    """Two cases of 8 slices: of the first two slices are annotated, one of them in part; the
    second is whole."""
    cases = []
    for number in range(2):
        rng = np.random.default_rng(number)
        image = rng.integers(-900, 900, (1, 8, 24, 24)).astype(np.int16)
        label = rng.integers(0, 3, (8, 24, 24)).astype(np.uint8)
        if number == 0:
            mask = np.ones(label.shape, bool)
            mask[2], mask[5, :3, :3] = False, False
            label[mask] = IGNORED
        case = prepared_case(tmp_path, f"c{number}", image, label)
        annotated = annotated_slices(label)
        cases.append(type(case)(**{**vars(case), "annotated": annotated and np.array(annotated)}))
    return cases


@pytest.mark.parametrize("patch", [(8, 8), (24, 24), (3, 8, 8), (8, 32, 32)])
@pytest.mark.parametrize("foreground", [0.0, 0.5])
def test_every_patch_shows_something_annotated(sparse, patch, foreground) -> None:
    draw = PatchSampler(sparse, "ct", patch, 1, foreground, Draws(4, 0))
    seen: set[int] = set()
    for step in range(12):
        batch = draw.batch(step)
        for label in batch.label:
            assert (label != IGNORE_INDEX).any()
            seen |= set(label.unique().tolist())
    assert seen == {IGNORE_INDEX, 0, 1, 2}
    assert all(set(case.slices) == {1, 2} for case in sparse)
    if len(patch) == 2:
        assert draw.places == 2 + 8


def test_cases_that_nobody_annotated_are_said(tmp_path) -> None:
    label = np.full((4, 8, 8), IGNORED, np.uint8)
    case = prepared_case(tmp_path, "c", np.zeros((1, 4, 8, 8), np.int16), label)
    bare = type(case)(**{**vars(case), "annotated": np.array([], int)})
    assert annotated_slices(label) == [] and annotated_slices(np.zeros((2, 3, 3))) is None
    for patch in ((8, 8), (4, 8, 8)):
        with pytest.raises(DataError, match="ct has no annotated voxel"):
            PatchSampler([bare], "ct", patch, 1, 0.0, Draws(1, 0))


def test_augmentation_moves_them_whole() -> None:
    label = torch.zeros(2, 24, 24, dtype=torch.int64)
    label[:, 4:12], label[:, 12:] = 2, IGNORE_INDEX
    image = torch.randn(2, 1, 24, 24)
    batch = Batch(image, label, ("a", "b"), torch.arange(2))
    options = AugmentConfig(probability=1.0, rotation_degrees=25.0)
    moved = augment(batch, options, (True, True), 3, "ct")
    assert set(moved.label.unique().tolist()) == {0, 2, IGNORE_INDEX}
    assert (moved.label != label).any()


def test_the_localisers_view_and_the_floor_do_not_see_them() -> None:
    label = np.full((4, 6, 6), IGNORED, np.uint8)
    label[1:3, 1:3, 1:3] = 1
    assert structures_centre(label).tolist() == [1.5, 1.5, 1.5]
    from unpaired.data.plan import CoarseView

    view = CoarseView(stride=(2, 2, 2), shape=(2, 3, 3), step=1)
    assert coarse_marks(label, view).sum() == 8
    whole = np.zeros((4, 6, 6), np.uint8)
    whole[1:3, 1:3, 1:3] = 1
    # Annotated in one of three cases: there, one of one says liver.
    unknown = np.full((4, 6, 6), IGNORED, np.uint8)
    prior = location_prior([whole, unknown, unknown], 2, (4, 6, 6))
    assert (prior == whole).all()
    assert prior_dice(np.ones((4, 6, 6), np.uint8), [label], 2).tolist() == [[1.0]]


def test_validation_leaves_them_out(tmp_path) -> None:
    label = np.zeros((4, 8, 8), np.uint8)
    label[:2, 2:6, 2:6] = 1
    found = label.copy()
    found[2:] = 1
    label[2:] = IGNORED
    case = prepared_case(tmp_path, "c", np.zeros((1, 4, 8, 8), np.int16), label)
    case = type(case)(**{**vars(case), "annotated": np.array([0, 1])})
    one = plan().model_copy(update={"classes": ("background", "liver")})
    assert _scored(found, case, one, ())[:, 0].tolist() == [1.0]


# From labels to scores.


def mark(root: Path, value: int) -> None:
    """Slices 0 to 3 of every label become `ignore`, slice 2 aside."""
    for path in (root / "labelsTr").iterdir():
        image = nib.load(path)
        array = np.asarray(image.dataobj).copy()
        array[:, :, [0, 1, 3]] = value
        nib.save(nib.Nifti1Image(array, image.affine), path)
    about = read_json(root / "dataset.json")
    about["labels"]["ignore"] = value
    (root / "dataset.json").write_text(json.dumps(about))


def test_training_with_an_ignore_label_from_files_to_scores(tmp_path) -> None:
    data = {
        "a": write_toy(tmp_path, "a", 4, True, (1, 2)),
        "b": write_toy(tmp_path, "b", 4, False, (7, 3)),
    }
    mark(data["a"], 5)
    run = train(toy_config("train.steps=2"), data, tmp_path / "run").run
    folder = RunFolder(run)
    assert folder.plan.classes == ("background", "ball", "box")
    for case in folder.prepared["a"].values():
        assert case.annotated.tolist() == [2, *range(4, 10)] and set(case.slices) == {1, 2}
        assert IGNORED in case.label()
    assert all(case.annotated is None for case in folder.prepared["b"].values())
    assert folder.data.tables["a"] == {0: 0, 1: 1, 2: 2, 5: IGNORED}
    both = evaluate(run, grids=(PREPARED, NATIVE))
    files = evaluate(run)[NATIVE]
    for found in (*both.values(), files):
        assert {one.cls for one in found.scores} == {"ball", "box"} and not found.failures
    # The truth has no voxel of a class outside the annotated slices.
    shown = {(s.case, s.cls): s.truth_voxels for s in files.scores if s.modality == "a"}
    for (case, cls), voxels in shown.items():
        truth = np.asarray(nib.load(data["a"] / "labelsTr" / f"{case}.nii.gz").dataobj)
        assert voxels == (truth == {"ball": 1, "box": 2}[cls]).sum()
    written = [nib.load(p) for p in (run / "predictions" / "a").glob("*.nii.gz")]
    assert written and all(np.asarray(image.dataobj).max() <= 2 for image in written)
