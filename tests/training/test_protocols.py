"""The literature's protocols from import to scores: presets on miniatures and phantoms."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.abdomen import MIDDLE, ORGANS
from datasets.miniatures import HEART, write_mmwhs
from unpaired.artifact.model import Model
from unpaired.config import load_config
from unpaired.config.schema import PredictConfig
from unpaired.data.cache import Intensities
from unpaired.datasets.mmwhs_btcv import MMWHS_LABELS as LABELS
from unpaired.evaluation.evaluate import evaluate
from unpaired.files import read_json
from unpaired.importing.run import ImportOptions, import_source
from unpaired.inference.inferer import Inferer
from unpaired.io.read import read_image, read_label_image
from unpaired.io.volume import Orientation
from unpaired.metrics import dice
from unpaired.phantom import write_phantom
from unpaired.run import RunFolder
from unpaired.training.fit import train
from unpaired.training.prepare import prepare_run

pytestmark = pytest.mark.slow

PARTS = ("train", "val", "test")
# The heart's miniature wears the abdomen's shapes under the heart's values.
WEARS = {HEART[organ]: organ for organ in ORGANS}
SMALL = (
    "model.options.embed_dim=8",
    "model.options.depths=[1, 1, 1, 1]",
    "model.options.heads=[1, 1, 2, 2]",
    "model.heads=2",
    "train.steps=1",
    "train.batch_size=1",
    "train.warmup_steps=0",
    "train.precision=fp32",
    "train.device=cpu",
    "data.workers=0",
)


def positions(case, affine):
    """Patient coordinates [3 d h w] in mm of the voxels of a prepared case."""
    turn = Orientation(
        tuple(case.record["orientation"]["axes"]), tuple(case.record["orientation"]["flips"])
    )
    native = case.record["native_shape"]
    canonical = turn.affine(affine, [native[turn.axes.index(axis)] for axis in range(3)])
    corner = [start for start, _ in case.frame] if case.frame else [0, 0, 0]
    at = []
    for index, first, (start, stop), n in zip(
        np.indices(case.shape), corner, case.box, case.grid, strict=True
    ):
        at.append(start + (index + first + 0.5) * (stop - start) / n - 0.5)
    return np.einsum("ij,jdhw->idhw", canonical[:3, :3], at) + canonical[:3, 3].reshape(3, 1, 1, 1)


@pytest.fixture(scope="module")
def heart(tmp_path_factory):
    """MM-WHS in miniature through import and preparation by the preset paper-cardiac-2d."""
    root = tmp_path_factory.mktemp("heart")
    archive = write_mmwhs(root / "archive", (1001, 1002, 1003, 1007))
    options = ImportOptions(literature_split=True, workers=1)
    import_source("mmwhs", archive, root / "data", options)
    data = {m: root / "data" / m for m in ("ct", "mr")}
    config = load_config("paper-cardiac-2d", None, ["data.workers=0"])
    folder = RunFolder(root / "run")
    prepare_run(config, data, folder)
    return folder, folder


def test_cardiac_preset_on_a_miniature_of_mmwhs(heart):
    _, setup = heart
    plan = setup.plan
    assert plan.classes[1:] == (
        "myocardium", "left atrium", "left ventricle", "ascending aorta",
    )  # fmt: skip
    assert plan.axes == ("P", "S", "L") and plan.spacing_mm == (1.0, 1.0, 1.0)
    assert all(r.clip[0].model_dump() == {"kind": "percentile", "low": 0, "high": 98}
               for r in plan.modalities.values())  # fmt: skip
    assert setup.split.test == {"ct": ("ct_train_1003",), "mr": ("mr_train_1007",)}
    for m in ("ct", "mr"):
        assert "comes from the labels" in plan.reasons[f"frame.{m}"]
        assert [len(setup.split.part(p)[m]) for p in PARTS] == [2, 1, 1]


def test_the_heart_lies_in_the_crop_as_in_the_patient(heart):
    _, setup = heart
    data = read_json(heart[0].files.data)["modalities"]
    for m, cases in setup.prepared.items():
        for case in cases.values():
            about = data[m]["cases"][case.id]
            label = read_label_image(Path(about["label"]))
            places = positions(case, read_image(Path(about["images"][0])).affine)
            found = np.asarray(case.label())
            assert case.shape[1:] == (256, 256)
            # Where each structure is, by its formula in patient coordinates.
            for z, name in enumerate(setup.plan.classes[1:], 1):
                centre, radius = ORGANS[WEARS[LABELS[name]]]
                away = places - (MIDDLE + centre).reshape(3, 1, 1, 1)
                truth = (away**2).sum(0) < radius**2
                assert dice(found == z, truth) > 0.78, (case.id, name)  # of voxels of 9 mm
                held = np.argwhere(label.array == LABELS[name])  # 421 is a voxel of one label
                mean_mm = label.affine[:3, :3] @ held.mean(0) + label.affine[:3, 3]
                assert np.linalg.norm(places[:, found == z].mean(1) - mean_mm) < 1, case.id
            # The middle of the plane is the mean of the labelled voxels of the file, in mm, and
            # the slices are those of the labels and no more.
            held = np.argwhere(np.isin(label.array, [*HEART.values(), 421]))
            mean_mm = label.affine[:3, :3] @ held.mean(0) + label.affine[:3, 3]
            middle = places[:, :, 127:129, 127:129].mean((2, 3))
            row, column = places[:, 0, 1, 0], places[:, 0, 0, 1]
            for axis in (row - places[:, 0, 0, 0], column - places[:, 0, 0, 0]):
                unit = axis / np.linalg.norm(axis)
                # Slices are perpendicular to the plane, so any of them will do.
                assert abs((mean_mm - middle[:, 0]) @ unit) < 1.5
            assert found[0].any() and found[-1].any()


def test_intensities_of_the_heart_are_those_of_the_crop(heart):
    _, setup = heart
    for cases in setup.prepared.values():
        for case in cases.values():
            image = case.intensities(np.asarray(case.image()[0]), 0)
            span = tuple(
                slice(max(0, -a), min(b, n) - a)
                for (a, b), n in zip(case.frame, case.grid, strict=True)
            )
            kept = image[span].astype(np.float64)
            assert kept.mean() == pytest.approx(0, abs=1e-3)
            assert kept.std() == pytest.approx(1, abs=1e-3)
            share = (kept >= kept.max() - 1e-3).mean()
            assert 0.019 < share < 0.1  # the upper 2 %, and what equals the limit
            padding = np.ones(image.shape, bool)
            padding[span] = False
            assert np.ptp(image[padding]) == 0 and image[padding][0] == image.min()


def test_abdominal_preset_with_draws_from_phantom_to_scores(tmp_path):
    write_phantom(tmp_path / "p", {"ct": 4, "mr": 5}, level="easy", quality=4.0, workers=1)
    data = {m: tmp_path / "p" / m for m in ("ct", "mr")}
    draws = ["data.cases={mr=4}", "data.few_shot={ct=1}", "data.split=[0.5, 0.25, 0.25]"]
    config = load_config("abdomen-2d", None, [*SMALL, *draws])
    run = tmp_path / "run"
    train(config, data, run, prepared=tmp_path / "prepared")
    folder = RunFolder(run)
    setup = folder
    plan = setup.plan
    assert "comes from the labels" in plan.reasons["frame.ct"]
    assert "frame.mr" not in plan.reasons
    assert "4 of 5 cases drawn" in plan.reasons["split.mr"]
    assert "Few-shot: 1 of the 2" in plan.reasons["split.ct"]
    for m, cases in setup.prepared.items():
        for case in cases.values():
            label = np.asarray(case.label())
            assert case.shape[1:] == (256, 256)
            assert case.spacing_mm == pytest.approx((8.0, 1.5, 1.5), rel=0.03)
            held = [bool(plane.any()) for plane in label]
            if m == "ct":
                assert held[0] and held[-1] and case.shape[0] < case.grid[0]
            else:
                assert case.shape[0] == case.grid[0]
    assert [len(setup.prepared_cases(p)["mr"]) for p in PARTS] == [2, 1, 1]
    assert [len(setup.prepared_cases(p)["ct"]) for p in PARTS] == [1, 1, 1]
    # Native scores: the whole scan is predicted, without its label, on the file's own grid.
    native = evaluate(run)
    for m in ("ct", "mr"):
        (case,) = setup.prepared_cases("test")[m]
        found = read_label_image(run / "predictions" / m / f"{case.id}.nii.gz")
        image = read_image(data[m] / "imagesTr" / f"{case.id}_0000.nii.gz")
        assert found.array.shape == image.array.shape
        np.testing.assert_allclose(found.affine, image.affine, atol=1e-4)
    assert json.loads((run / "evaluation" / "evaluation.json").read_text())
    on_crop = evaluate(run, grids=("prepared",), device="cpu")
    assert_scored_on_the_crop(run, setup, {g: s.scores for g, s in (native | on_crop).items()})


def assert_scored_on_the_crop(run, setup, scores):
    """On the prepared grid the network sees the crop, as in the literature; natively the scan."""
    model = Model.load(RunFolder(run).files.model)
    segmenter, plan = model.segmenter, model.plan
    for m in ("ct", "mr"):
        (case,) = setup.prepared_cases("test")[m]
        network = lambda x, m=m: segmenter(x, m).logits.softmax(1)  # noqa: E731
        inferer = Inferer(network, plan, PredictConfig(), torch.device("cpu"))
        labels = inferer.labels(Intensities(case))
        for one in scores["prepared"]:
            if one.modality == m:
                z = plan.classes.index(one.cls)
                assert one.dice == pytest.approx(dice(labels == z, np.asarray(case.label()) == z))
        assert {one.modality for one in scores["native"]} == {"ct", "mr"}
