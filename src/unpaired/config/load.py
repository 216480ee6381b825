"""Layers of settings (preset, file, overrides) -> one checked configuration."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from unpaired.config.explain import Table, checked, leaves, merge, near
from unpaired.config.schema import Config
from unpaired.errors import UsageError

FORMER = {"cardiac-2d": "paper-cardiac-2d", "abdomen-3d-nnformer": "paper-abdomen-3d"}
"""Presets' names of earlier versions, which still do."""

# `key=value` on the command line -> a nested table.


def parse_override(text: str) -> dict[str, Any]:
    """`train.steps=100` -> {"train": {"steps": 100}}.

    The value is TOML (`1e-3`, `true`, `[128, 128]`, `"text"`), or else plain text as it stands.
    A field's name alone will do where one section has it: `steps=100`.

    Raises:
        UsageError: no `=`, an empty key, a name that no section or several sections have.
    """
    key, found, value = text.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not found or not all(path):
        raise UsageError(f"{text!r} is not key=value. Write, for example, train.steps=100.")
    if len(path) == 1:
        path = _full(path[0])
    table: Any = _value(value.strip())
    for part in reversed(path):
        table = {part: table}
    return table


def _full(name: str) -> list[str]:
    """The section of a field named alone."""
    matches = [full for full in leaves(Config) if full.split(".")[1] == name]
    if len(matches) == 1:
        return matches[0].split(".")
    if matches:
        raise UsageError(f"{name} is in several sections; write one of {', '.join(matches)}.")
    if name in Config.model_fields:
        return [name]
    known = {full.split(".")[1]: full for full in leaves(Config)}
    raise UsageError(f"there is no key {name!r}.{near(name, known)}")


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if list(parsed) == ["value"] else text


def load_config(
    preset: str | None = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    of_minutes: bool = False,
    over_preset: Sequence[str] = (),
) -> Config:
    """The configuration of a run: preset, then the file, then `key=value` overrides on top.

    A layer that names another method or backbone drops the network's options below it.

    Args:
        of_minutes: where the preset has a size for demonstrations, lay it over the preset.
        over_preset: `key=value` that the file and the overrides lie above.

    Raises:
        UsageError: an unknown preset or key, a wrong value, an unreadable file; one line each.
    """
    settings: Table = {} if preset is None else _preset(preset)
    if preset is not None and of_minutes:
        settings = merge(settings, _demonstration(preset))
    settings = merge(settings, _layer(over_preset))
    if file is not None:
        settings = merge(settings, _read(file))
    settings = merge(settings, _layer(overrides))
    return checked(Config, settings, "the configuration" if file is None else str(file))


def _layer(overrides: Sequence[str]) -> Table:
    """Several overrides as one table; the later wins."""
    layer: Table = {}
    for text in overrides:
        layer = merge(layer, parse_override(text))
    return layer


def preset(name: str = "default") -> Config:
    """The settings of a preset; `.replace(train={"steps": 5000})` changes some.

    Raises:
        UsageError: there is none of that name.
    """
    return load_config(name)


def config_from_toml(path: Path) -> Config:
    """Read one file, such as the `config.toml` of a run folder.

    Raises:
        UsageError: the file is missing, is not TOML, or holds unknown keys or wrong values.
    """
    return checked(Config, _read(path), str(path))


def preset_names() -> list[str]:
    """The presets that come with the package."""
    files = resources.files("unpaired").joinpath("presets").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def preset_name(name: str) -> str:
    """The name of today for a preset."""
    return FORMER.get(name, name)


def _preset(name: str) -> Table:
    names, name = preset_names(), preset_name(name)
    if name not in names:
        raise UsageError(
            f"there is no preset {name!r}.{near(name, names)} Presets: {', '.join(names)}."
        )
    file = resources.files("unpaired").joinpath("presets", f"{name}.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def _demonstration(preset: str) -> Table:
    file = resources.files("unpaired").joinpath("presets", "demo", f"{preset_name(preset)}.toml")
    return tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _read(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UsageError(f"the configuration {path} does not exist.") from error
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}.") from error


def to_toml(config: Config) -> str:
    """The whole configuration, defaults included; reading it back gives an equal one."""
    return tomli_w.dumps(tables_of(config))


def tables_of(config: Config) -> Table:
    """The whole configuration as it is written."""
    tables: Table = said_none(config.model_dump())
    if not tables["modalities"]:  # no table of any modality: no heading for them
        del tables["modalities"]
    return tables


def said_none(value: Any) -> Any:
    """With the text "none" for what is empty: TOML has no word for it."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return {key: said_none(one) for key, one in value.items()}
    return value
