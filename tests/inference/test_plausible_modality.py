"""A scan predicted as another modality than it is: said, with the one that fits better."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nifti_files import save
from tiny_model import pointwise_model, tiny_config, tiny_plan, write_model
from toy import toy_config, write_toy
from unpaired.cli.app import run
from unpaired.data.plan import ModalityPlan, Plan
from unpaired.data.units import doubt, levels, value_range, zero_place
from unpaired.inference.predictor import Predictor
from unpaired.io.read import read_image
from unpaired.io.volume import Volume
from unpaired.phantom import write_phantom
from unpaired.training.fit import train

GRID = np.diag([3.0, 3.0, 5.0, 1.0])


def ct(seed: int = 0, air: bool = True, metal: bool = False) -> np.ndarray:
    """Soft tissue and fat in air, in Hounsfield units; without air a crop inside the body."""
    rng = np.random.default_rng(seed)
    array = rng.normal(40, 25, (24, 22, 12))
    array[:, :6] = rng.normal(-90, 20, array[:, :6].shape)
    if air:
        array[:5], array[-5:] = -1000, -1000
    array[10:12, 10:12, 3:9] = 3000 if metal else 700
    return array.astype(np.int16)


def mr(seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Magnitudes: noise around the body, nothing below zero, units of its own."""
    rng = np.random.default_rng(seed)
    array = np.abs(rng.normal(0, 12, (24, 22, 12)))
    array[5:-5] = np.abs(rng.normal(500, 150, array[5:-5].shape))
    return (scale * array).astype(np.int16)


def volume(array: np.ndarray) -> Volume:
    return Volume(array, GRID)


def plan(known: bool = True, **channels: str) -> Plan:
    """Of modalities with these channel names, with or without what training images reached."""
    base = tiny_plan(modalities=tuple(channels or {"ct": "", "mr": ""}))
    names = channels or {"ct": "CT", "mr": "T1"}
    trained = {"CT": ct, "T1": mr, "T2": lambda n: mr(n, 3.0)}
    parts = {}
    for m, name in names.items():
        ranges = [[value_range(trained[name](n))] for n in range(5, 9)]
        parts[m] = ModalityPlan(
            channel_names=(name,),
            clip=base.modalities[m].clip,
            levels=levels(ranges) if known else (),
        )
    return base.model_copy(update={"modalities": parts})


@pytest.mark.parametrize("known", [True, False], ids=["levels", "names"])
def test_the_recipe_a_ct_as_mr_and_the_reverse(known: bool) -> None:
    for array, told, fits in ((ct(), "mr", "ct"), (mr(), "ct", "mr")):
        said = doubt([volume(array)], told, plan(known))
        assert said.startswith(f"the image does not look like {told}, as which it was predicted")
        assert said.endswith(f"{fits} fits it better, see --modality") and "\n" not in said
        assert f"those of {told} in training from" in said or not known


@pytest.mark.parametrize("known", [True, False], ids=["levels", "names"])
def test_what_is_what_it_is_taken_for_is_not_doubted(known: bool) -> None:
    """Also with metal, and MR of any scale; and two MR sequences are never told apart."""
    sound = plan(known)
    for seed in range(3):
        for array in (ct(seed), ct(seed, metal=True)):
            assert doubt([volume(array)], "ct", sound) == ""
        for scale in (0.05, 1.0, 30.0):
            assert doubt([volume(mr(seed, scale))], "mr", sound) == ""
    two = plan(known, t1="T1", t2="T2")
    for told in ("t1", "t2"):
        assert doubt([volume(mr(0, 3.0))], told, two) == ""
        assert doubt([volume(mr(0, 1.0))], told, two) == ""


def test_a_crop_inside_an_organ_is_no_mr() -> None:
    """Without air and fat zero lies lower than in training, yet not where it lies in an MR."""
    inside = ct(0, air=False)[10:, 8:]
    assert value_range(inside)[0] < 0 < zero_place(value_range(inside)) < 0.2
    assert doubt([volume(inside)], "ct", plan()) == ""


def test_a_model_of_one_modality_names_no_other() -> None:
    for known in (True, False):
        said = doubt([volume(ct())], "mr", plan(known, mr="T1"))
        assert said.endswith("no modality of this model fits it better")
        said = doubt([volume(mr())], "ct", plan(known, ct="CT"))
        assert said.endswith("no modality of this model fits it better")
        assert doubt([volume(mr())], "mr", plan(known, mr="T1")) == ""


def test_where_zero_lies() -> None:
    assert zero_place((-1e3, 1e3)) == 0.5 and zero_place((0.0, 9.0)) == 0 == zero_place((4.0, 4.0))
    (one,) = levels([[(-1e3, 1e3)], [(-1e3, 500.0)], None])
    assert (one.low, one.high) == ((-1000, -1000), (500, 1000))
    assert one.zero == (0.5, pytest.approx(2 / 3, abs=1e-5)) and levels([None]) == ()


def test_levels_change_no_cache_and_no_older_plan() -> None:
    with_levels, without = plan(), plan(known=False)
    for m in ("ct", "mr"):
        assert with_levels.fingerprint(m) == without.fingerprint(m)
    assert "levels" not in without.model_dump_json()
    again = Plan.model_validate_json(with_levels.model_dump_json(), strict=True)
    assert again == with_levels


def test_python_and_the_command_line_say_it(tmp_path: Path, capsys) -> None:
    write_model(tmp_path / "run", plan(), tiny_config())
    save(tmp_path / "scans" / "a.nii.gz", ct(), GRID)
    save(tmp_path / "scans" / "b.nii.gz", mr(), GRID)
    found = Predictor.from_folder(tmp_path / "run").predict(tmp_path / "scans" / "a.nii.gz", "mr")
    assert found.notes == (doubt([volume(ct())], "mr", plan()),)
    assert found.notes[0] in repr(found)
    call = ["predict", str(tmp_path / "scans"), f"--model={tmp_path / 'run'}", "--modality=mr"]
    assert run([*call, f"--out={tmp_path / 'out'}"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "does not look" in line]
    assert len(lines) == 1 and lines[0].startswith("a: the image does not look like mr")
    assert run([*call, f"--out={tmp_path / 'other'}", "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert list(notes) == ["a"] and "ct fits it better" in notes["a"][0]


def test_a_training_keeps_what_its_images_reached(tmp_path: Path) -> None:
    data = {
        "a": write_toy(tmp_path, "a", 4, True, (1, 2)),
        "b": write_toy(tmp_path, "b", 4, False, (7, 3)),
    }
    run_folder = train(toy_config("train.steps=1"), data, tmp_path / "run").run
    model = Predictor.from_folder(run_folder, device="cpu")
    for m in ("a", "b"):
        (level,) = model.plan.modalities[m].levels
        paths = sorted((data[m] / "imagesTr").iterdir())
        reached = [value_range(read_image(path).array) for path in paths]
        assert min(low for low, _ in reached) <= level.low[0] <= level.low[1]
        assert level.high[0] <= level.high[1] <= max(high for _, high in reached)
        assert all(not doubt([read_image(path)], m, model.plan) for path in paths)


def test_phantoms_are_told_apart(tmp_path: Path) -> None:
    write_phantom(tmp_path, {"ct": 2, "mr": 2, "t1": 2}, level="easy", quality=4.0, workers=1)
    paths = {m: sorted((tmp_path / m / "imagesTr").iterdir()) for m in ("ct", "mr", "t1")}
    assert_told_apart({m: [read_image(path) for path in own] for m, own in paths.items()})


@pytest.mark.parametrize("name", ["sts", "torso"])
def test_real_scans_are_told_apart(name: str, shared: Callable[[str], Path]) -> None:
    root = shared(f"data/{name}")
    scans = {m: sorted((root / m / "imagesTr").iterdir())[:3] for m in ("ct", "mr")}
    assert_told_apart({m: [read_image(path) for path in own] for m, own in scans.items()})


def assert_told_apart(scans: dict[str, list[Volume]]) -> None:
    """Learnt from the first of each; and by names alone."""
    kinds = {"ct": "CT", "mr": "T2", "t1": "T1"}
    for known in (True, False):
        base = tiny_plan(modalities=tuple(scans))
        parts = {
            m: ModalityPlan(
                channel_names=(kinds[m],),
                clip=base.modalities[m].clip,
                levels=levels([[value_range(own[0].array)]]) if known else (),
            )
            for m, own in scans.items()
        }
        made = base.model_copy(update={"modalities": parts})
        for m, own in scans.items():
            for one in own:
                for told in scans:
                    wrong = (m == "ct") != (told == "ct")
                    assert bool(doubt([one], told, made)) == wrong, (m, told, known, one.path)


def test_several_channels_are_judged_together() -> None:
    """A modality of another number of channels cannot fit better."""
    single = plan()
    two = single.modalities["mr"].model_copy(
        update={
            "channel_names": ("T1", "T2"),
            "clip": single.modalities["mr"].clip * 2,
            "levels": single.modalities["mr"].levels * 2,
        }
    )
    mixed = single.model_copy(update={"modalities": {**single.modalities, "mr": two}})
    said = doubt([volume(ct()), volume(ct(1))], "mr", mixed)
    assert said.endswith("no modality of this model fits it better")
    assert pointwise_model(mixed).channels["mr"] == 2 * mixed.context
