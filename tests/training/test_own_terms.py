"""A loss term of one's own: weighed, logged, recorded; needed to go on, not to predict."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tiny_model import tiny_config, tiny_plan
from toy import SHAPE, toy_config
from unpaired.errors import DataError, UsageError
from unpaired.files import read_json
from unpaired.inference.predictor import Predictor
from unpaired.losses import Terms
from unpaired.losses.objective import Labels, Outputs
from unpaired.methods import Consistency, Method, Ummkd, Valindria
from unpaired.run import RunFolder
from unpaired.run.log import read_log
from unpaired.training.checkpoint import load_checkpoint
from unpaired.training.fit import train


def boundary(outputs: Outputs, labels: Labels) -> Tensor:
    """How much the predictions change along the rows where the label does not."""
    steps = [
        output.logits.softmax(1).diff(dim=-1).abs().sum(1)[labels[m].diff(dim=-1) == 0].mean()
        for m, output in outputs.items()
    ]
    return torch.stack(steps).sum()


MINE = Consistency().with_term("boundary", 0.1, boundary)


def terms_of(method: Method, half: bool = False) -> tuple[Terms, Outputs, Labels]:
    config, plan = tiny_config(), tiny_plan()
    torch.manual_seed(0)
    joint = method.joint(config, plan).eval()
    images = {m: torch.randn(2, 3, 32, 32) for m in plan.modalities}
    labels = {m: torch.randint(3, (2, 32, 32)) for m in plan.modalities}
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        outputs = joint(images)
    return method.objective(config, plan)(outputs, labels), outputs, labels


def test_the_term_is_added_and_no_other_number_changes() -> None:
    plain, (mine, outputs, labels) = terms_of(Consistency())[0], terms_of(MINE)
    assert list(mine.terms) == [*plain.terms, "boundary"]
    assert all(torch.equal(mine.terms[name], value) for name, value in plain.terms.items())
    assert torch.equal(mine.terms["boundary"], boundary(outputs, labels))
    assert torch.equal(mine.weighted["boundary"], 0.1 * boundary(outputs, labels))
    torch.testing.assert_close(mine.total, plain.total + mine.weighted["boundary"])
    assert Consistency().added == {} and list(MINE.added) == ["boundary"]


def test_in_half_precision_the_sum_is_not_halved() -> None:
    mine, outputs, _ = terms_of(MINE, half=True)
    assert outputs["ct"].logits.dtype == torch.bfloat16
    assert mine.terms["boundary"].dtype == mine.total.dtype == torch.float32


def test_every_method_takes_terms_and_several() -> None:
    for method in (Consistency(), Ummkd(), Valindria()):
        found = method.with_term("a", 1.0, boundary).with_term("b", 2.0, boundary)
        assert type(found) is type(method)
        assert [term.weight for term in found.added.values()] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("name", "weight", "words"),
    [
        ("boundary", 1.0, "a word that no other term has"),
        ("two words", 1.0, "a word that no other term has"),
        ("other", 0.0, "give one above 0"),
        ("other", float("nan"), "give one above 0"),
    ],
)
def test_what_cannot_be_added_is_said(name: str, weight: float, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        MINE.with_term(name, weight, boundary)


def test_a_name_of_the_methods_own_is_refused() -> None:
    with pytest.raises(UsageError, match="has a term mcr of its own"):
        terms_of(Consistency().with_term("mcr", 1.0, boundary))


@pytest.mark.parametrize(
    ("value", "words"), [(torch.zeros(2, 3), r"a tensor of \(2, 3\)"), (0.5, r"gave 0\.5")]
)
def test_a_term_is_one_number(value: Tensor | float, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        terms_of(Consistency().with_term("odd", 1.0, lambda outputs, labels: value))  # type: ignore[arg-type, return-value]


@pytest.mark.slow
def test_a_run_goes_on_with_its_term_and_predicts_without(
    data: dict[str, Path], tmp_path: Path
) -> None:
    """Interrupted and gone on with it equals unbroken; without it, or another, a sentence."""
    config, out = toy_config("train.steps=4"), tmp_path / "mine"
    train(config, data, tmp_path / "whole", method=MINE)
    short = toy_config("train.steps=4", "train.max_minutes=0.0001")
    train(short, data, out, method=MINE)
    record = read_json(out / "method.json")
    assert record == {
        "name": "consistency",
        "terms": {
            "boundary": {"weight": 0.1, "function": f"{boundary.__module__}.boundary"},
        },
    }
    for other, words in (
        (None, r"terms boundary \(0\.1\), this call gives none"),
        (Consistency().with_term("boundary", 0.2, boundary), r"gives boundary \(0\.2\)"),
    ):
        with pytest.raises(UsageError, match=words):
            train(config, data, out, method=other)
    train(config, data, out, method=MINE)
    a, b = (load_checkpoint(run / "checkpoints" / "last.pt") for run in (tmp_path / "whole", out))
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    steps = [r for r in read_log(out / "log.jsonl") if r["kind"] == "step"]
    assert [r["step"] for r in steps] == [1, 2, 3, 4]
    for r in steps:
        assert r["weighted"]["boundary"] == pytest.approx(0.1 * r["terms"]["boundary"], abs=1e-5)
        assert r["loss"] == pytest.approx(sum(r["weighted"].values()), abs=1e-4)
    image = next((data["a"] / "imagesTr").glob("*.nii.gz"))
    assert Predictor.from_folder(out, device="cpu").predict(image, "a").labels.shape == SHAPE
    (out / "method.json").write_text(json.dumps({"terms": [1]}))
    with pytest.raises(DataError, match=r"method\.json is not what training writes"):
        train(config, data, out, method=MINE)


def test_a_plain_run_has_no_record_and_takes_no_term_later(
    data: dict[str, Path], tmp_path: Path
) -> None:
    config = toy_config("train.steps=2")
    train(config, data, tmp_path)
    assert not RunFolder(tmp_path).files.method.exists()
    with pytest.raises(UsageError, match=r"terms none, this call gives boundary \(0\.1\)"):
        train(config, data, tmp_path, method=MINE)


def test_the_given_method_is_the_one_the_settings_name(
    data: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"the method given is ummkd, but model\.name=consistency"):
        train(toy_config(), data, tmp_path, method=Ummkd())
