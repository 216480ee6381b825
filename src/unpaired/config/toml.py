"""A configuration as TOML text. The standard library reads TOML but does not write it."""

import json
import re
from collections.abc import Mapping
from typing import Any

from unpaired.config.schema import Config

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(config: Config) -> str:
    """The whole configuration, defaults included; reading it back gives an equal one."""
    tables: list[str] = []
    for name, values in config.model_dump().items():
        if name == "modalities":
            tables += [_table(f"modalities.{_key(m)}", table) for m, table in values.items()]
        else:
            tables.append(_table(name, values))
    return "\n".join(tables)


def _table(name: str, values: Mapping[str, Any]) -> str:
    body = [f"{_key(key)} = {_value(value)}\n" for key, value in values.items()]
    return f"[{name}]\n" + "".join(body)


def _key(key: str) -> str:
    return key if BARE_KEY.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    """JSON's escapes are TOML's, but for the delete character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    return repr(value)
