"""Configuration: presets, layers, round trips, and messages that name the key."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unpaired.config import Config, config_from_toml, load_config, preset_names, to_toml
from unpaired.config.reference import describe_preset
from unpaired.config.section import Section
from unpaired.errors import UsageError


def refused(*overrides: str, preset: str | None = None, file: Path | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        load_config(preset, file, overrides)
    return str(caught.value)


def test_presets_load_and_are_listed() -> None:
    assert {"default", "demo", "swin-unet-224", "abdomen-2d"} <= set(preset_names())
    for name in preset_names():
        assert isinstance(load_config(name), Config)
    assert load_config("swin-unet-224").train.optimizer == "sgd"
    assert load_config("swin-unet-224").train.gradient_clip is None
    assert load_config("demo-swin-unet").model.options["embed_dim"] == 32


def test_the_default_preset_is_a_convolutional_network_of_stems_and_norms_of_their_own() -> None:
    preset = load_config("default")
    assert (preset.model.backbone, preset.model.variant) == ("resenc_unet", "V2")
    assert preset.model.norms == "private"
    assert (preset.loss.alpha, preset.loss.beta, preset.loss.gamma) == (0, 0, 0)


@pytest.mark.parametrize(
    ("before", "now", "network"),
    [("cardiac-2d", "paper-cardiac-2d", "swin_unet"),
     ("abdomen-3d-nnformer", "paper-abdomen-3d", "nnformer")],
)  # fmt: skip
def test_the_presets_of_the_paper_are_as_printed(before: str, now: str, network: str) -> None:
    """Under their names of today, and under those of earlier versions, which are listed no more."""
    preset = load_config(now)
    assert load_config(before) == preset
    assert load_config(before, of_minutes=True) == load_config(now, of_minutes=True)
    assert describe_preset(before) == describe_preset(now)
    assert now in preset_names()
    assert before not in preset_names()
    assert (preset.model.backbone, preset.model.variant, preset.model.maps) == (
        network, "V3", "raw",
    )  # fmt: skip
    assert (preset.loss.tau, preset.loss.mask_absent) == (4.0, False)
    assert not preset.model.shared_embeddings


def test_unknown_preset_lists_all_and_guesses() -> None:
    message = refused(preset="dmeo")
    assert "Did you mean demo?" in message
    for name in preset_names():
        assert name in message


def test_layers_win_in_order(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nsteps = 7\nseed = 5\n")
    config = load_config("demo", file, ["train.steps=9", "steps=11"])
    assert (config.train.steps, config.train.seed, config.train.batch_size) == (11, 5, 4)
    assert load_config("demo", file).train.steps == 7
    assert load_config(None, file, ["train.steps=9"]).train.steps == 9


def test_another_backbone_drops_the_options_below() -> None:
    config = load_config("demo-swin-unet", None, ["model.backbone=other", "model.options.width=3"])
    assert config.model.options == {"width": 3}
    kept = load_config(
        "demo-swin-unet", None, ["model.backbone=swin_unet", "model.options.window=4"]
    )
    assert kept.model.options["embed_dim"] == 32


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("steps=100", lambda c: c.train.steps, 100),
        ("train.learning_rate=1e-3", lambda c: c.train.learning_rate, 1e-3),
        ("patch=[128, 96]", lambda c: c.data.patch, (128, 96)),
        ("modalities.ct.clip=window", lambda c: c.modalities["ct"].clip, "window"),
        ("deterministic=true", lambda c: c.train.deterministic, True),
        ("early_stop=none", lambda c: c.train.early_stop, None),
        ("gradient_clip=none", lambda c: c.train.gradient_clip, None),
        ('device="cpu"', lambda c: c.train.device, "cpu"),
        ("splits=a=b.json", lambda c: c.data.splits, "a=b.json"),
        ("tolerance_mm={liver = 3.0}", lambda c: c.evaluate.tolerance_mm, {"liver": 3.0}),
        (" loss.tau = 2", lambda c: c.loss.tau, 2.0),
    ],
)
def test_overrides(override: str, read, expected: object) -> None:
    assert read(load_config(None, None, [override])) == expected


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("train.stepz=3", "train.stepz: there is no such key. Did you mean train.steps?"),
        ("stepz=3", "there is no key 'stepz'. Did you mean steps?"),
        ("trian.steps=3", "Did you mean train?"),
        ("data.steps=3", "Did you mean train.steps?"),
        ("modalities.ct.clp=1", "modalities.ct.clp: there is no such key. "),
        ("modalities.ct.clp=1", "Did you mean modalities.ct.clip?"),
        ("train.zzzzzz=1", "Known here: steps, batch_size"),
        ("batch_size=3", "write one of train.batch_size, predict.batch_size"),
        ("steps", "'steps' is not key=value"),
        (".steps=3", "is not key=value"),
        ("train.steps=0", "train.steps: must be greater than or equal to 1, got 0"),
        ("train.steps=many", "train.steps: must be a valid integer"),
        ("loss.tau=inf", "loss.tau: must be a finite number"),
        ("data.patch=[1]", "data.patch: too few"),
        ("data.patch=16", "data.patch: must be a list"),
        ("data.split=[0.5, 0.1, 0.1]", "data: split must sum to 1"),
        ("data.context=4", "data: context must be odd"),
        ("modalities.ct.low=3", "modalities.ct: low and high are given together"),
        ("modalities.ct={clip='window', low=3, high=2}", "low must be below high"),
        ("modalities.ct={clip='percentile', low=3, high=200}", "between 0 and 100"),
        ("modalities.ct={low=3, high=20}", 'need clip = "window"'),
        ("modalities.ct=3", "modalities.ct: must be a table"),
        ("train=3", "train: must be a table"),
        ("augment.scale=[2, 1]", "augment: scale is a range"),
        ("evaluate.tolerance_mm.liver=x", "evaluate.tolerance_mm: "),
        ("model.options.window={a = 1}", "model.options: "),
        ("train.optimizer=adam", "train.optimizer: must be 'adamw' or 'sgd', got 'adam'"),
    ],
)
def test_what_is_wrong_is_named(override: str, part: str) -> None:
    assert part in refused(override)


def test_every_problem_has_its_line() -> None:
    lines = refused("train.steps=0", "loss.tau=-1", "data.nope=1").splitlines()
    assert len(lines) == 4
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "data.nope",
        "loss.tau",
        "train.steps",
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "does not exist" in refused(file=tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[train\nsteps = 1")
    assert "not valid TOML" in refused(file=broken)
    assert str(broken) in refused(file=broken)
    broken.write_bytes(b"\xff\xfe\x00")
    assert "not valid TOML" in refused(file=broken)
    assert "cannot read" in refused(file=tmp_path)
    marked = tmp_path / "marked.toml"
    marked.write_bytes(b"\xef\xbb\xbf[train]\nsteps = 3\n")
    assert config_from_toml(marked).train.steps == 3


def test_the_message_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nstep = 1\n")
    with pytest.raises(UsageError, match=r"mine\.toml:\n  train\.step: .*train\.steps"):
        config_from_toml(file)


text = st.text(st.characters(codec="utf-8"), max_size=8)
number = st.floats(0, 1e6, allow_nan=False)
scalar = st.one_of(st.booleans(), st.integers(-(2**40), 2**40), number, text)
option = st.one_of(scalar, st.lists(scalar, max_size=3).map(tuple))


@settings(max_examples=60, deadline=None)
@given(
    options=st.dictionaries(text, option, max_size=4),
    names=st.lists(text, max_size=3),
    spacing=st.none() | st.tuples(*[st.floats(1e-3, 99)] * 3),
    weights=st.none() | st.lists(number, max_size=4).map(tuple),
    tolerance=number | st.dictionaries(text, number, max_size=3),
    modality=text,
    clip=st.sampled_from(["auto", "window"]),
    clipped=st.none() | st.floats(1e-6, 5),
    path=st.none() | text,
)
def test_toml_round_trip(
    tmp_path_factory, options, names, spacing, weights, tolerance, modality, clip, clipped, path
) -> None:
    config = Config.model_validate(
        {
            "data": {"spacing_mm": spacing, "splits": path},
            "modalities": {modality: {"clip": clip}},
            "model": {"options": options},
            "loss": {"class_weights": weights},
            "train": {"gradient_clip": clipped},
            "predict": {"largest_component": names},
            "evaluate": {"tolerance_mm": tolerance},
        }
    )
    file = tmp_path_factory.mktemp("toml") / "config.toml"
    file.write_text(to_toml(config), encoding="utf-8", newline="")
    again = config_from_toml(file)
    assert again == config
    assert repr(again) == repr(config)  # 1 and true and 1.0 are equal, but not the same


@pytest.mark.parametrize("odd", ["\x7f", "\x00\x1f", '"\\', "a.b", "\n", "é\u2028", "", "none "])
def test_odd_characters_survive_the_file(tmp_path: Path, odd: str) -> None:
    config = Config.model_validate({"modalities": {odd: {}}, "model": {"options": {odd: odd}}})
    (tmp_path / "c.toml").write_text(to_toml(config), encoding="utf-8", newline="")
    assert config_from_toml(tmp_path / "c.toml") == config


def test_a_written_preset_holds_every_field() -> None:
    written = tomllib.loads(to_toml(load_config("demo")))
    for name, field in Config.model_fields.items():
        if name != "modalities":
            assert set(written[name]) == set(field.annotation.model_fields)


def test_every_field_says_what_it_is() -> None:
    def walk(section: type[Section]) -> None:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            assert len(field.description) < 100
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                walk(field.annotation)

    walk(Config)


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().train.steps = 3  # type: ignore[misc]


def test_importing_the_configuration_does_not_import_torch() -> None:
    code = "import sys, unpaired.config as c; c.load_config('demo'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
