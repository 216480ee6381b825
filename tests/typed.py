"""Types and shapes checked at every call, as `jaxtyping` would, in a fraction of its time.

Its import hook puts `jaxtyping.jaxtyped` on every function of the package. That one binds the
arguments and checks them twice a call, also where no shape is named: half of what the tests took.
Here a function without a shape is checked by beartype alone, one with shapes by beartype once,
within a scope of its own for the sizes.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

original = jaxtyping.jaxtyped
check = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))
"""With the error that the hook would raise, a TypeError, as Python's own of a wrong call."""
TRACED = tuple(f"unpaired.{room}" for room in ("nn", "backbones", "models", "methods", "artifact"))
"""What may run in a trace, where a test can ask that nothing is checked: sizes are no numbers."""


def has_shape(hint: object) -> bool:
    """Whether an annotation such as `dict[str, Float[Tensor, "B C"]]` holds a shape."""
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(has_shape(part) for part in get_args(hint))


def resolved(hint: Any, names: dict[str, Any]) -> Any:
    """A hint without names in quotes; Any where one is not known yet, or only to mypy."""
    if isinstance(hint, type):
        return hint

    def holder(value: Any) -> None: ...

    holder.__annotations__ = {"value": hint}
    try:
        return get_type_hints(holder, names, include_extras=True)["value"]
    except Exception:
        return Any


def checked(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A function that raises where an argument or what it returns is not as annotated."""
    if inspect.isgeneratorfunction(plain):  # beartype would look at the first value only, later
        found: Callable[..., Any] = original(plain, typechecker=beartype)
        return found
    written = plain.__annotations__
    known = {name: resolved(hint, plain.__globals__) for name, hint in written.items()}
    plain.__annotations__ = known
    try:
        quick = check(plain)
    finally:
        plain.__annotations__ = written
    quick.__annotations__ = written  # the command line reads its options there
    shaped = any(has_shape(hint) for hint in known.values())
    if not shaped and not plain.__module__.startswith(TRACED):
        return quick

    @functools.wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return plain(*args, **kwargs)
        if not shaped:
            return quick(*args, **kwargs)
        with original("context"):  # a scope of sizes
            return quick(*args, **kwargs)

    return call


def jaxtyped(given: Any = None, *, typechecker: object = None) -> Any:
    """What the hook calls: on functions, and on classes, of which it checks dataclasses."""
    if given is None:
        return jaxtyped
    if inspect.isclass(given):
        if dataclasses.is_dataclass(given) and "__init__" in vars(given):
            given.__init__ = checked(given.__init__)  # type: ignore[misc]
        return given
    for kind in (classmethod, staticmethod):
        if isinstance(given, kind):
            return kind(checked(given.__func__))
    if isinstance(given, property):
        return property(*(f and checked(f) for f in (given.fget, given.fset, given.fdel)))
    return checked(given)


jaxtyping.jaxtyped = jaxtyped
