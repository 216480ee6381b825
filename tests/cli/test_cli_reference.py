"""The reference of settings and presets: complete, true, and what docs/settings.md says."""

import json
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from unpaired.cli import app
from unpaired.cli.app import run
from unpaired.config import Config, load_config, preset_names
from unpaired.config.explain import leaves
from unpaired.config.load import parse_override, tables_of
from unpaired.config.reference import markdown, presets, settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def test_the_page_is_written_from_the_schema() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run `make map`"


def test_every_setting_is_there_with_its_default_and_a_sentence() -> None:
    found = {one.key: one for one in settings()}
    assert set(leaves(Config)) <= found.keys()
    plain = tables_of(Config())
    for key, one in found.items():
        assert one.text.strip() and one.takes, key
        if key.startswith("modalities."):
            continue
        section, name = key.split(".")
        # The default as it is printed is the default as it is read.
        read = parse_override(f"{key}={one.default}")[section][name]
        expected = plain[section][name]
        assert read == (list(expected) if isinstance(expected, tuple) else expected), key


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_what_the_reference_says_of_it(name: str) -> None:
    one = next(preset for preset in presets() if preset.name == name)
    assert one.about.endswith((".", ").")) or one.about, name
    again = load_config(None, None, [f"{key}={value}" for key, value in one.settings.items()])
    assert again == load_config(name)


def test_a_word_finds_names_first_then_descriptions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["settings", "learning_rate"]) == 0
    (head, line, *rest) = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "setting" and line.split()[0] == "train.learning_rate" and not rest
    assert run(["settings", "temperature", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["key"] for one in found] == ["loss.tau", "loss.distill_tau"]
    assert run(["settings", "lerning_rate"]) == 2
    assert "Did you mean train.learning_rate?" in capsys.readouterr().err


def test_presets_are_listed_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["presets"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in preset_names())
    assert run(["presets", "demo", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["model.backbone"] == "resenc_unet"
    assert tomllib.loads(f"x = {told['settings']['data.patch']}")["x"] == [128, 128]
    assert run(["presets", "dmeo"]) == 2
    assert "Did you mean demo?" in capsys.readouterr().err


def test_help_says_of_every_verb_what_the_verb_says() -> None:
    written = {path.stem for path in Path(app.__file__).parent.glob("*.py")}
    for name, (module, about) in app.VERBS.items():
        verbs = import_module(f"unpaired.cli.{module}")
        verb = getattr(verbs, name, None) or verbs.command
        assert " ".join((verb.__doc__ or "").split("\n\n")[0].split()) == about, name
        written.discard(module)
    assert written == {"__init__", "app", "options", "output", "planned"}


def test_without_a_verb_the_program_says_what_it_can(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    assert "Commands:\n  demo" in capsys.readouterr().out
