"""Layers of settings, and what is wrong with them in the user's words.

A problem names the full key, what came, and what was meant.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from unpaired.errors import UsageError
from unpaired.names import closest

PLAIN = {
    "missing": "too few numbers in the list",
    "too_long": "too many entries in the list",
    "tuple_type": "must be a list such as [1, 2] (write 0.5, not .5)",
    "dict_type": "must be a table",
    "model_type": "must be a table",
}
"""Pydantic's kinds of error that need other words."""


Table = dict[str, Any]
NETWORK = {"name": "consistency", "backbone": "swin_unet"}
"""Keys of the table `model` that say which network `options` belong to, and their defaults."""
Model = TypeVar("Model", bound=BaseModel)
Tables = type[BaseModel]
"""The configuration's class, whose fields are tables."""


def near(name: str, known: Iterable[str]) -> str:
    """' Did you mean ...?', or nothing where no known name is close."""
    close = closest(name, known)
    return f" Did you mean {close}?" if close else ""


def leaves(root: Tables) -> list[str]:
    """Every full key, `section.field`; modalities have names of the user's and are left out."""
    return [
        f"{section}.{name}"
        for section, field in root.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for name in field.annotation.model_fields
    ]


def explain(error: ValidationError, root: Tables) -> list[str]:
    """One line per key at fault of a configuration whose tables are those of `root`."""
    lines: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        path = _path(problem["loc"], root)
        lines.setdefault(".".join(path), _line(path, problem, root))
    return list(lines.values())


def _path(loc: tuple[int | str, ...], root: Tables) -> list[str]:
    """The key as the user writes it: the names that exist in the schema, list positions left out.

    Pydantic adds the branch of a union to the location; such parts name no field.
    """
    table: Any = root
    path: list[str] = []
    for part in loc:
        if table is None or isinstance(part, int):
            break
        path.append(part)
        table = _inside(table, part)
    return path


def _inside(table: Any, key: str) -> Any:
    """The table under `key`, or None at a leaf."""
    if isinstance(table, type) and issubclass(table, BaseModel):
        field = table.model_fields.get(key)
        table = None if field is None else field.annotation
    else:
        table = get_args(table)[1]  # dict[str, Table]
    is_table = isinstance(table, type) and issubclass(table, BaseModel)
    named = get_args(table)[1:]
    holds = bool(named) and isinstance(named[0], type) and issubclass(named[0], BaseModel)
    return table if is_table or holds else None


def _line(path: list[str], problem: Any, root: Tables) -> str:
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"  {key}: there is no such key.{_alternative(path, root)}"
    if problem["type"] == "value_error":  # one of our own, whole as it is
        return f"  {key}: {problem['msg'].removeprefix('Value error, ')}."
    message = PLAIN.get(problem["type"], problem["msg"]).replace("Input should", "must")
    return f"  {key}: {message}, got {problem['input']!r}."


def _alternative(path: list[str], root: Tables) -> str:
    """The very name in another table first, then a near name in the same one, then elsewhere."""
    *parents, name = path
    siblings = _siblings(parents, root)
    elsewhere = {full.split(".")[1]: full for full in leaves(root)}
    if name in elsewhere:
        return f" Did you mean {elsewhere[name]}?"
    hint = near(name, siblings)
    if hint:
        return hint.replace("mean ", "mean " + "".join(f"{p}." for p in parents), 1)
    if close := closest(name, elsewhere):
        return f" Did you mean {elsewhere[close]}?"
    return f" Known here: {', '.join(siblings)}." if siblings else ""


def _siblings(parents: list[str], root: Tables) -> list[str]:
    table: Any = root
    for part in parents:
        table = _inside(table, part)
    return list(table.model_fields) if hasattr(table, "model_fields") else []


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Table:
    """`above` wins, table by table."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            if any(k in value and value[k] != old.get(k, v) for k, v in NETWORK.items()):
                old = {k: v for k, v in old.items() if k != "options"}
            value = merge(old, value)
        merged[key] = value
    return merged


def checked(root: type[Model], settings: Table, source: str) -> Model:
    """The settings as a configuration.

    Raises:
        UsageError: an unknown key or a wrong value, one line each.
    """
    endless = _endless(settings)
    if endless is not None:
        raise UsageError(f"{source}:\n  {endless}: the number does not fit 64 bits.")
    try:
        return root.model_validate(settings)
    except ValidationError as error:
        raise UsageError(f"{source}:\n" + "\n".join(explain(error, root))) from error


def _endless(value: Any, key: str = "") -> str | None:
    """The key of a whole number beyond TOML's 64 bits, which could not even be printed."""
    if isinstance(value, int):
        return key if abs(value) >= 1 << 63 else None
    if isinstance(value, Mapping):
        items = [(f"{key}.{name}" if key else str(name), one) for name, one in value.items()]
    else:
        items = [(key, one) for one in value] if isinstance(value, list | tuple) else []
    return next((found for name, one in items if (found := _endless(one, name)) is not None), None)
