"""`key=value` on the command line -> a nested table."""

import tomllib
from typing import Any

from unpaired.config.explain import leaves, near
from unpaired.config.schema import Config
from unpaired.errors import UsageError


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
    matches = [full for full in leaves() if full.split(".")[1] == name]
    if len(matches) == 1:
        return matches[0].split(".")
    if matches:
        raise UsageError(f"{name} is in several sections; write one of {', '.join(matches)}.")
    if name in Config.model_fields:
        return [name]
    known = {full.split(".")[1]: full for full in leaves()}
    raise UsageError(f"there is no key {name!r}.{near(name, known)}")


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if list(parsed) == ["value"] else text
