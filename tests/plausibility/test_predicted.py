"""From a training to what `predict` and `evaluate` say."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from sealed import unsealed
from tiny_model import pointwise_model, pointwise_predictor, smooth_image, tiny_plan
from toy import write_toy
from unpaired.cli.app import run
from unpaired.config import load_config
from unpaired.datasets.dataset import Case
from unpaired.inference.compared import Agreement
from unpaired.inference.ensemble import Ensemble
from unpaired.inference.native import best_class
from unpaired.inference.predictor import Predictor
from unpaired.io.volume import Volume
from unpaired.metrics import dice
from unpaired.plausibility.files import Entry, read_entries, write_entries
from unpaired.plausibility.judge import Measured, Plausibility
from unpaired.report import write_report
from unpaired.run import RunFolder
from unpaired.run.scores import Evaluation, Score, alarm_sentence, alarm_table, markdown
from unpaired.training.fit import train
from unpaired.training.validate import read_validated

Output = pytest.CaptureFixture[str]
SETTINGS = [
    *("data.patch=[32, 32]", "data.workers=0", "data.split=[0.5, 0.25, 0.25]", "data.context=1"),
    *("model.backbone=resenc_unet", "model.variant=V2", "model.options.base_width=8"),
    *("model.options.stages=2", "model.options.blocks=[1,1]"),
    *("loss.alpha=0", "loss.beta=0", "loss.gamma=0", "augment.probability=0.1"),
    *("train.steps=80", "train.steps_per_epoch=80", "train.batch_size=4", "train.foreground=0.7"),
    *("train.learning_rate=0.01", "train.warmup_steps=5", "train.precision=fp32"),
    "train.device=cpu",
]
"""A network of seconds that learns the toy to a Dice of 0.95."""


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data sets a and b and a run that has learnt them."""
    root = tmp_path_factory.mktemp("learnt")
    data = {"a": write_toy(root, "a", 8, True, (1, 2)), "b": write_toy(root, "b", 8, False, (7, 3))}
    train(load_config(None, None, SETTINGS), data, root / "run")
    return root


def first_test_case(learnt: Path, modality: str) -> Case:
    return next(iter(RunFolder(learnt / "run").cases("test")[modality].values()))


def test_a_model_knows_its_labels_and_its_validation(learnt: Path) -> None:
    run = RunFolder(learnt / "run")
    plan = Predictor.from_folder(run.root).plan
    for m, cases in run.cases("train").items():
        known = plan.modalities[m].expected
        assert known is not None and known.cases == len(cases) and known.validated == 2
        volumes = []
        for case in cases.values():
            label = nib.load(case.label)
            value = run.data.tables[m]
            (ball,) = [v for v, index in value.items() if plan.classes[index] == "ball"]
            volumes.append((np.asarray(label.dataobj) == ball).sum() * 3 / 1000)
        ball_index = plan.classes.index("ball")
        middle = np.exp(known.classes[ball_index].log_ml.middle)
        assert middle == pytest.approx(np.median(volumes), rel=0.1)
        validated = read_validated(run.files.validated, 80)
        assert validated[m].keys() == run.cases("val")[m].keys()
        scores = np.mean([rows[:, 0] for rows in validated[m].values()])
        assert scores == pytest.approx(run.validations[-1]["mean"][m])
    assert read_validated(run.files.validated, 79) == {}, "of other weights"
    assert "expected" not in run.plan.model_dump_json(), "a plan is made before it is known"
    plain = plan.modalities["a"].model_copy(update={"expected": None})
    without = plan.model_copy(update={"modalities": {**plan.modalities, "a": plain}})
    assert without.fingerprint("a") == plan.fingerprint("a"), "caches stay valid"


def test_odd_results_are_said_and_strict_is_3(learnt: Path, tmp_path: Path, capsys: Output) -> None:
    scans, sound = (
        tmp_path / "scans",
        first_test_case(learnt, "a"),
    )
    scans.mkdir()
    shutil.copy(sound.images[0], scans / "sound.nii.gz")
    image = nib.load(sound.images[0])
    flat = np.random.default_rng(0).normal(0, 8, image.shape).astype(np.int16)
    nib.save(nib.Nifti1Image(flat, image.affine), scans / "empty.nii.gz")
    call = ["predict", str(scans), f"--model={learnt / 'run'}", "--modality=a"]
    call += [f"--out={tmp_path / 'out'}", "--device=cpu"]
    assert run(call) == 0
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith(("empty:", "sound:"))]
    assert len(lines) == 1 and lines[0].startswith("empty: ") and "ball" in lines[0]
    assert ", 1 odd, in " in said.out
    found = json.loads((tmp_path / "out" / "plausibility.json").read_text())["cases"]
    assert {case: one["odd"] for case, one in found.items()} == {"empty": True, "sound": False}
    assert found["empty"]["says"] == lines[0].removeprefix("empty: ")
    with (tmp_path / "out" / "plausibility.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows if row["odd"] == "yes"} == {"empty"}
    (volume,) = [
        r for r in rows
        if (r["case"], r["about"], r["measure"]) == ("sound", "ball", "volume_ml")
    ]  # fmt: skip
    assert float(volume["low"]) < float(volume["value"]) < float(volume["high"])
    # Kept from before it is as odd as it was; and what is not known is found anew.
    assert run([*call, "--strict"]) == 3
    assert "2 kept from before, 1 odd" in capsys.readouterr().out
    (tmp_path / "out" / "plausibility.json").unlink()
    assert run([*call, "--strict", "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert list(told["odd"]) == ["empty"] and len(told["written"]) == 2
    one = [*call[:1], str(scans / "sound.nii.gz"), *call[2:-2], "--device=cpu", "--strict"]
    assert run([*one, f"--out={tmp_path / 'one.nii.gz'}"]) == 0
    assert (tmp_path / "one_plausibility.csv").is_file()
    assert not json.loads((tmp_path / "one_plausibility.json").read_text())["cases"]["one"]["odd"]


def test_in_python(learnt: Path) -> None:
    case = first_test_case(learnt, "b")
    predictor = Predictor.from_folder(learnt / "run", device="cpu")
    found = predictor.predict(case.images[0], "b")
    assert found.plausibility.compared and not found.plausibility.odd, found.plausibility.line
    volume = {m.about: m.value for m in found.plausibility.measures if m.measure == "volume_ml"}
    assert volume["ball"] == pytest.approx(found.volume_ml("ball"), rel=1e-6)
    image = nib.load(case.images[0])
    negative = Volume(-np.asarray(image.dataobj), image.affine)
    odd = predictor.predict(negative, "b")
    assert odd.plausibility.odd and odd.notes == (odd.plausibility.line,)
    assert odd.plausibility.line in repr(odd)


def test_an_older_model_says_so(learnt: Path, tmp_path: Path, capsys: Output) -> None:
    model = Predictor.from_folder(learnt / "run").models[0]
    parts = {
        m: part.model_copy(update={"expected": None, "levels": ()})
        for m, part in model.plan.modalities.items()
    }
    type(model)(
        model.segmenter, model.plan.model_copy(update={"modalities": parts}), model.config
    ).save(tmp_path / "model", {})
    case = first_test_case(learnt, "b")
    call = ["predict", str(case.images[0]), f"--model={tmp_path / 'model'}", "--modality=b"]
    assert run([*call, f"--out={tmp_path / 'one.nii.gz'}", "--strict"]) == 0
    assert "what its training labels measure; nothing was compared" in capsys.readouterr().err
    found = json.loads((tmp_path / "one_plausibility.json").read_text())["cases"]["one"]
    assert not found["compared"] and not found["odd"]


def test_evaluate_and_the_report_tell_false_alarms(learnt: Path, capsys: Output) -> None:
    assert run(["evaluate", str(learnt / "run")]) == 0
    capsys.readouterr()
    scores = RunFolder(learnt / "run").scores
    assert scores.odd.keys() == {
        f"{m}/{i}" for m, own in RunFolder(learnt / "run").cases("test").items() for i in own
    }
    assert "prediction called 0 of 0 failed cases odd" in markdown(scores)
    page = write_report(learnt / "run").read_text()
    assert alarm_sentence(scores) in page and "<h3>Odd results</h3>" in page


def test_the_table_of_alarms() -> None:
    def score(case: str, cls: str, value: float) -> Score:
        return Score("mr", case, cls, value, 1.0, 1.0, 1.0, 5, 5)

    scores = [
        score("caught", "liver", 0.1), score("caught", "spleen", 0.9),
        score("false", "liver", 0.8), score("quiet", "liver", 0.7),
        score("missed", "spleen", 0.4), score("unknown", "liver", 0.2),
        score("absent", "liver", float("nan")),
    ]  # fmt: skip
    odd = {"mr/caught": "liver in 7 pieces", "mr/false": "x", "mr/quiet": "", "mr/missed": ""}
    evaluation = Evaluation(tuple(scores), odd=odd)
    assert "called 1 of 2 failed cases odd" in alarm_sentence(evaluation)
    assert "and 1 of 2 sound ones" in alarm_sentence(evaluation)
    table = alarm_table(evaluation)
    assert table is not None
    assert [row[:3] for row in table.rows] == [
        ["mr/caught", "liver", "liver in 7 pieces"],
        ["mr/false", "liver", "x"],
        ["mr/missed", "spleen", "(not noticed)"],
    ]
    assert alarm_table(Evaluation(tuple(scores))) is None


def test_agreement_is_the_mean_dice_with_the_mean() -> None:
    predictor = pointwise_predictor(tiny_plan(), 0, 1, 2)
    rng = torch.Generator().manual_seed(0)
    each = [torch.rand(4, 5, 6, 7, generator=rng) for _ in range(3)]
    each = [scores.index_fill(1, torch.tensor([4]), 0) for scores in each]  # never the best
    mean = sum(each) / 3
    counts = Agreement(3, 5)
    for z in range(4):  # slices may come one by one
        counts.add([best_class(one[z : z + 1]) for one in each], best_class(mean[z : z + 1]))
    labels = [best_class(one).numpy() for one in (*each, mean)]
    wanted = [np.mean([dice(one == z, labels[-1] == z) for one in labels[:-1]]) for z in (1, 2, 3)]
    assert counts.dice()[:3] == pytest.approx(wanted) and np.isnan(counts.dice()[3])
    image = Volume(smooth_image((20, 22, 8)), np.diag([2.0, 2.0, 3.0, 1.0]))
    alone = pointwise_predictor(tiny_plan(), 0)
    for one, several in ((alone, False), (predictor, True)):
        found = one._ensemble.segment([image], "ct")
        assert (found.agreement is not None) == several


def test_agreement_of_models_whose_grids_differ() -> None:
    """Dice of what each segments alone with what they segment together."""
    models = [
        pointwise_model(tiny_plan(spacing_mm=mm), seed)
        for seed, mm in enumerate([(3.0, 2.0, 2.0), (4.0, 3.0, 2.5)])
    ]
    image = Volume(smooth_image((20, 22, 8)), np.diag([2.0, 2.0, 3.0, 1.0]))
    cpu = torch.device("cpu")
    alone = [Ensemble([one], cpu).segment([image], "ct").labels for one in models]
    together = Ensemble(models, cpu).segment([image], "ct")
    wanted = [np.mean([dice(one == z, together.labels == z) for one in alone]) for z in (1, 2)]
    assert together.agreement == pytest.approx(wanted) and 0 < min(wanted) < 1


def test_the_files_are_read_back_and_damage_is_nothing(tmp_path: Path) -> None:
    measures = (
        Measured("liver", "volume_ml", 0.4, 900.0, 2400.0, True, "liver has 0.4 ml"),
        Measured("scan", "modality", float("nan"), odd=False),
    )
    found = Plausibility("mr", True, measures)
    write_entries(tmp_path, {"=a,b": Entry(found, "mark")})
    (again,) = read_entries(tmp_path).values()
    assert again.mark == "mark" and repr(again.found) == repr(found)
    path = tmp_path / "plausibility.json"
    path.write_text(path.read_text().replace("900.0", "901.0"))
    assert read_entries(tmp_path) == {}
    path.write_text(unsealed(path.read_text()))
    assert len(read_entries(tmp_path)) == 1
    for text in ("[]", "{}", '{"version": 1, "cases": {"a": {}}}', "x"):
        path.write_text(text)
        assert read_entries(tmp_path) == {}
