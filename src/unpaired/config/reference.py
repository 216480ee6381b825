"""Every setting and every preset in words, from the schema and the presets themselves."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from unpaired.config.load import load_config, preset_name, preset_names, said_none, tables_of
from unpaired.config.schema import Config
from unpaired.errors import UsageError
from unpaired.names import closest

_WORDS = {int: "whole number", float: "number", str: "text", bool: "true, false"}
_BOUNDS = {Ge: ("from {0:g}", "ge"), Gt: ("above {0:g}", "gt"), Le: ("to {0:g}", "le"),
           Lt: ("below {0:g}", "lt")}  # fmt: skip
ANY_MODALITY = "modalities.NAME"


@dataclass(frozen=True)
class Setting:
    """One setting: its key as on the command line, what it takes, its default, and what it is."""

    key: str
    takes: str
    default: str
    text: str


@dataclass(frozen=True)
class PresetSummary:
    """A preset: what it is for, and the settings in which it differs from the defaults."""

    name: str
    about: str
    settings: dict[str, str]


def settings(word: str = "") -> list[Setting]:
    """The settings whose key, or description, holds the word; without one, all.

    Raises:
        UsageError: there is none, with what may have been meant.
    """
    every = [one for section, field in Config.model_fields.items() for one in _of(section, field)]
    wanted = word.casefold()
    keys = [one for one in every if wanted in one.key.casefold()]
    found = keys or [one for one in every if wanted in one.text.casefold()]
    if not found:
        names = {one.key.rpartition(".")[2]: one.key for one in every}
        close = closest(word, names)
        hint = f" Did you mean {names[close]}?" if close else ""
        raise UsageError(f"no setting has {word!r} in its name or description.{hint}")
    return found


def presets() -> list[PresetSummary]:
    """All presets that come with the package."""
    return [describe_preset(name) for name in preset_names()]


def describe_preset(name: str) -> PresetSummary:
    """One preset.

    Raises:
        UsageError: there is none of that name.
    """
    name = preset_name(name)
    mine, plain = (_flat(tables_of(config)) for config in (load_config(name), Config()))
    changed = {key: _value(one) for key, one in mine.items() if plain.get(key, ...) != one}
    text = resources.files("unpaired").joinpath("presets", f"{name}.toml").read_text("utf-8")
    head = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        head.append(line.lstrip("# ").strip())
    return PresetSummary(name, " ".join(head), changed)


def markdown() -> str:
    """docs/settings.md."""
    lines = [
        "# Settings and presets",
        "",
        "Written by `make map` from the schema and the presets; a test holds it.",
        "`unpaired settings [WORD]` and `unpaired presets [NAME]` print the same.",
        "",
        "A setting is given as `key=value` behind a verb (`train.steps=1000`), or in a TOML file",
        'for `--config`; the text "none" clears what may be empty. A preset is a set of them',
        "(`--preset NAME`); a file lies over the preset, `key=value` over both.",
    ]
    for section, field in Config.model_fields.items():
        lines += ["", f"## {section}", "", field.description or "", ""]
        lines += ["| setting | takes | default | |", "|---|---|---|---|"]
        lines += [
            f"| `{one.key}` | {_cell(one.takes)} | `{one.default}` | {_cell(one.text)} |"
            for one in _of(section, field)
        ]
    lines += ["", "## Presets", ""]
    for one in presets():
        changed = ", ".join(f"`{key}={value}`" for key, value in one.settings.items())
        lines += [f"**{one.name}**: {one.about}", "", changed or "No setting differs.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _of(section: str, field: FieldInfo) -> list[Setting]:
    table, prefix = field.annotation, section
    if get_origin(table) is dict:
        table, prefix = get_args(table)[1], ANY_MODALITY
    assert isinstance(table, type) and issubclass(table, BaseModel)
    return [
        Setting(
            f"{prefix}.{name}",
            _takes(one.annotation, one.metadata),
            _value(said_none(one.get_default(call_default_factory=True))),
            one.description or "",
        )
        for name, one in table.model_fields.items()
    ]


def _takes(kind: Any, limits: Sequence[Any] = ()) -> str:
    """What a setting takes, in words."""
    if get_origin(kind) is Annotated:
        inner, *more = get_args(kind)
        return _takes(inner, [m for one in more for m in getattr(one, "metadata", [one])])
    if get_origin(kind) in (Union, UnionType):
        parts = dict.fromkeys(
            "none" if part is NoneType else _takes(part, limits) for part in get_args(kind)
        )
        return " or ".join(sorted(parts, key="none".__eq__))
    if get_origin(kind) is Literal:
        return ", ".join(str(value) for value in get_args(kind))
    if get_origin(kind) is tuple:
        return _list(get_args(kind))
    if get_origin(kind) is dict:
        one = get_args(kind)[1]
        return "table" if get_origin(one) else f"table of {_takes(one)}"
    bounds = [
        words.format(getattr(one, name))
        for one in limits
        for rule, (words, name) in _BOUNDS.items()
        if isinstance(one, rule)
    ]
    return " ".join([_WORDS.get(kind, str(kind)), *bounds])


def _list(parts: Sequence[Any]) -> str:
    if parts[-1] is Ellipsis:
        return f"list of {_takes(parts[0])}"
    return f"{len(parts)} x {_takes(parts[0])}"


def _flat(tables: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        inner = isinstance(value, dict) and prefix.count(".") < 2
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def _value(value: Any, inside: bool = False) -> str:
    """As it is written on the command line."""
    if isinstance(value, str) and inside:
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(one, True) for one in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(one, True)}" for key, one in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
