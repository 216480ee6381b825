"""Trainings with other forms of the consistency: eased terms, resuming, several processes."""

from pathlib import Path

import pytest
import torch
from ranks import finish, start
from test_ranks import EVERYTHING, distance, doubled  # noqa: F401

from tiny_model import tiny_config, tiny_plan
from toy import toy_config
from toy import train_toy as train
from unpaired.inference.predictor import Predictor
from unpaired.losses import Terms
from unpaired.methods import Consistency
from unpaired.run.log import read_log
from unpaired.training.checkpoint import load_checkpoint
from unpaired.training.distributed import Group
from unpaired.training.step import backward, risen

FORMS = {
    "guided": ("loss.consistency=guided", "model.modules=shared", "model.maps=mean", "loss.rich=a"),
    "views": ("loss.consistency=views", "augment.second_view=gin"),
    "prototypes": ("loss.consistency=prototypes", "loss.rich=a"),
}
CLASSES = ("augment.second_view=classes",)


def terms_of(*more: str) -> tuple[torch.nn.Module, Terms]:
    config, plan = tiny_config("V2", *FORMS["guided"][:3], *more), tiny_plan()
    torch.manual_seed(0)
    joint = Consistency().joint(config, plan)
    images = {m: torch.randn(2, 3, 32, 32) for m in plan.modalities}
    labels = {m: torch.randint(3, (2, 32, 32)) for m in images}
    return joint, Consistency().objective(config, plan)(joint(images), labels)


def test_eased_terms_rise_over_their_share_of_the_steps() -> None:
    config = tiny_config("V2", "loss.ramp=0.25", "train.steps=40")
    _, terms = terms_of("loss.gamma=0.5")
    for step, share in ((0, 0.1), (4, 0.5), (9, 1.0), (30, 1.0)):
        found = risen(terms, config, step)
        torch.testing.assert_close(found.weighted["icr"], share * terms.weighted["icr"])
        expected = terms.total + (share - 1) * terms.weighted["icr"]
        torch.testing.assert_close(found.total, expected)
    assert risen(terms, config.replace(loss={"ramp": 0.0}), 0) is terms
    plain = terms._replace(eased=())
    assert risen(plain, config, 0) is plain


def gradients(joint: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in joint.parameters()])


@pytest.mark.parametrize("cap", [None, 1e9, 0.3])
def test_the_gradient_of_eased_terms_has_a_limit(cap: float | None) -> None:
    """Measured on the segmenter; what is cut is cut everywhere."""
    joint, terms = terms_of("loss.gamma=1e4", "loss.tau=1")
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    parameters = list(joint.parameters())
    own = torch.autograd.grad(terms.weighted["icr"], parameters, retain_graph=True,
                              allow_unused=True, materialize_grads=True)  # fmt: skip
    rest = torch.autograd.grad(terms.total - terms.weighted["icr"], parameters, retain_graph=True,
                               allow_unused=True, materialize_grads=True)  # fmt: skip
    kept = {id(p) for p in joint.segmenter.parameters()}  # type: ignore[attr-defined]
    inside = [i for i, p in enumerate(parameters) if id(p) in kept]
    norms = [torch.cat([part[i].flatten() for i in inside]).norm() for part in (own, rest)]
    expected = 1.0 if cap != 0.3 else float(0.3 * norms[1] / norms[0])
    share = backward(terms, joint, cap, scaler, Group())
    assert share == pytest.approx(expected, rel=1e-3)
    assert expected == 1 or expected < 0.5
    whole = torch.cat([(b + share * a).flatten() for a, b in zip(own, rest, strict=True)])
    torch.testing.assert_close(gradients(joint), whole, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["views", "prototypes"])
def test_interrupted_and_resumed_equals_unbroken(
    form: str, data: dict[str, Path], tmp_path: Path
) -> None:
    """The bank lies in the checkpoint, the random networks follow from the step alone."""
    changes = (*FORMS[form], *(CLASSES if form == "views" else ()))
    settings = (*changes, "train.steps=4", "train.average=0.5")
    train(toy_config(*settings), data, tmp_path / "whole")
    train(toy_config(*settings, "train.max_minutes=1e-9"), data, tmp_path / "broken")
    state = load_checkpoint(tmp_path / "broken/checkpoints/last.pt")
    assert state["step"] == 1
    train(toy_config(*settings), data, tmp_path / "broken")
    whole, broken = (
        load_checkpoint(tmp_path / name / "checkpoints/last.pt")["model"]
        for name in ("whole", "broken")
    )
    assert whole.keys() == broken.keys()
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    bank = [name for name in whole if name.startswith("bank.")]
    assert bool(bank) == (form == "prototypes")
    assert all(whole[n].any() for n in bank if n.endswith("known"))
    records = [r for r in read_log(tmp_path / "whole/log.jsonl") if r["kind"] == "step"]
    assert all(0 < r["uncapped"] <= 1 for r in records)
    image = next((data["a"] / "imagesTr").glob("*.nii.gz"))
    assert Predictor.from_folder(tmp_path / "whole", device="cpu").predict(image, "a").labels.any()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_two_processes_equal_one_of_a_double_batch(
    form: str,
    data: dict[str, Path],
    tmp_path: Path,
    doubled: None,  # noqa: F811
) -> None:
    limit = ("train.steps=3", "loss.gamma=1e4", "loss.tau=1", "loss.ramp=0.5")
    settings = (*EVERYTHING, *FORMS[form], *limit)
    two = start(2, tmp_path / "two", data, *settings, "train.batch_size=2", bits=64)
    train(toy_config(*settings, "train.batch_size=4"), data, tmp_path / "one")
    assert [code for code, _ in finish(two)] == [0, 0]
    assert distance(tmp_path / "one", tmp_path / "two") < 1e-5
    records = [r for r in read_log(tmp_path / "one/log.jsonl") if r["kind"] == "step"]
    assert any(r["uncapped"] < 1 for r in records)


def test_a_bank_begins_anew_from_a_run_without_one(
    data: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    config = toy_config(*FORMS["prototypes"], "train.steps=1", f"train.init_from={whole}")
    train(config, data, tmp_path)
    bank = load_checkpoint(tmp_path / "checkpoints/last.pt")["model"]
    assert bank["bank.of.a.0.known"].any()
